import pytest
import torch

from prefill_router.errors import InputError
from prefill_router.extraction import devices


def test_the_best_device_is_picked(monkeypatch):
    assert devices.pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick_device("auto") == torch.device("cuda")
    for name in ("gpu", "cpux"):
        with pytest.raises(InputError, match="try cpu or auto"):
            devices.pick_device(name)


def test_a_device_is_checked_before_it_is_a_map():
    assert devices.device_map("spread") == "auto"
    assert devices.device_map("cpu") == {"": torch.device("cpu")}
    with pytest.raises(InputError, match="cannot be used"):
        devices.device_map("gpu")


def test_a_head_trains_on_one_device_beside_its_encoder(monkeypatch):
    assert devices.training_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for many in ("auto", "spread", {"": 0, "lm_head": 1}):
        assert devices.training_device(many) == torch.device("cuda")
    assert devices.training_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="cannot be used"):
        devices.training_device("gpu")
