import numpy as np
import pytest
from threadpoolctl import threadpool_info

from prefill_router.probes import each_layer


def test_every_place_is_measured_once_and_in_order():
    found = each_layer(lambda layer, pooling: (layer, pooling), [3, 0], ["last", "mean"], "x")
    assert found == [(3, "last"), (3, "mean"), (0, "last"), (0, "mean")]


def test_a_layer_gets_one_thread_of_linear_algebra_and_others_theirs_back():
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    np.eye(3) @ np.eye(3)
    before = threads()
    [inside] = each_layer(lambda *_: threads(), [0], ["last"], "x")
    assert set(inside) == {1}
    assert threads() == before


def test_what_goes_wrong_in_a_layer_is_said():
    with pytest.raises(ZeroDivisionError):
        each_layer(lambda layer, _: 1 / layer, [1, 0], ["last"], "x")
