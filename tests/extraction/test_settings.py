import json

import pytest

from prefill_router.errors import InputError
from prefill_router.extraction.settings import Settings


def test_what_decides_the_states_is_told_from_what_does_not():
    one = Settings(layers=[3, 1, 3], poolings="mean", token_budget=7)
    other = Settings(layers=(1, 3), poolings=["mean", "mean"])
    assert one.decisive() == other.decisive()
    assert json.loads(json.dumps(one.decisive())) == one.decisive()
    for change in (
        {"layers": "all"},
        {"poolings": ["last"]},
        {"max_tokens": 5},
        {"truncation": "left"},
        {"template": "x"},
        {"template_kwargs": {"thinking": True}},
    ):
        kept = {"layers": [1, 3], "poolings": ["mean"]}
        assert Settings(**(kept | change)).decisive() != one.decisive()


def test_settings_that_cannot_be_used():
    for wrong in ({"poolings": []}, {"poolings": ["men"]}, {"token_budget": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))[:7]):
            Settings(**wrong)
    with pytest.raises(TypeError, match="layer"):
        Settings(layer=[1])
