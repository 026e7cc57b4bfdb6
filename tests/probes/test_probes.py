import tracemalloc

import numpy as np
import pandas as pd
import pytest
from brute_force import fisher_by_loops
from random_labels import labels_of_both_kinds
from threadpoolctl import threadpool_info

from prefill_router.extraction.activations import Activations
from prefill_router.probes import anisotropy, each_layer, effective_dimensionality, probe_layers
from prefill_router.probes import decomposition as module


def test_probe_layers_looks_at_the_given_rows_alone(rng):
    states = {(layer, p): rng.normal(size=(30, 4)) for layer in (0, 2) for p in ("last", "mean")}
    states[0, "last"][:] = 1.5
    Y, rows = labels_of_both_kinds(rng, 30, 2), np.arange(20)
    table = probe_layers(Activations.from_arrays(states), Y, rows, pca_dimension=2)
    assert len(table) == 2 * 2 * 2
    row = table.query("layer == 2 and pooling == 'mean' and target == 1").iloc[0]
    X = states[2, "mean"][:20].astype(np.float32)
    np.testing.assert_allclose(row["J"], fisher_by_loops(X, Y[:20, 1]), rtol=1e-5)
    reduced = module.decompose(X, 2).transform(X)
    J_pca = fisher_by_loops(reduced, Y[:20, 1], standardise=False)
    np.testing.assert_allclose(row["J_pca"], J_pca, rtol=1e-5)
    np.testing.assert_allclose(row["d_eff"], effective_dimensionality(X))
    np.testing.assert_allclose(row["anisotropy"], anisotropy(X))
    constant = table.query("layer == 0 and pooling == 'last'")
    assert constant["constant"].all()
    assert (constant[["J", "J_pca"]] == 0).all(axis=None)
    assert constant["d_eff"].isna().all()
    assert not table.drop(constant.index)["constant"].any()


def test_probes_do_not_depend_on_how_rows_fall_into_chunks(rng, monkeypatch):
    states = rng.normal(size=(90, 6)) * np.logspace(-3, 3, 6) + 100
    Y = labels_of_both_kinds(rng, 90, 3)
    arguments = (Activations.from_arrays({(0, "mean"): states}), Y, np.arange(90), 4)
    at_once = probe_layers(*arguments)
    monkeypatch.setattr(module, "CHUNK", 8)
    pd.testing.assert_frame_equal(probe_layers(*arguments), at_once, rtol=1e-9)


@pytest.mark.parametrize(("n", "n_targets"), [(50, 2), (50, 50), (3, 2)])
def test_few_rows_and_many_targets(rng, n, n_targets):
    X, Y = rng.normal(size=(n, 70)).astype(np.float32), labels_of_both_kinds(rng, n, n_targets)
    table = probe_layers(Activations.from_arrays({(0, "mean"): X}), Y, np.arange(n))
    assert len(table) == n_targets
    both = [len(set(y[~np.isnan(y)])) == 2 for y in Y.T]
    assert np.isfinite(table["J"]).tolist() == both
    np.testing.assert_allclose(table["d_eff"], effective_dimensionality(X))
    assert table["J_white"].isna().all()  # as many dimensions as rows


def test_no_float64_copy_of_the_states_is_made(rng):
    X = rng.standard_normal((20_000, 256), dtype=np.float32)
    states, Y = Activations.from_arrays({(0, "mean"): X}), labels_of_both_kinds(rng, 20_000, 2)
    tracemalloc.start()
    probe_layers(states, Y, np.arange(20_000), pca_dimension=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    copies = 2 * 20_000 * 256 * 4  # the stand-in's float32 states and the rows taken from them
    assert peak < copies + 0.5 * 20_000 * 256 * 8


def test_layers_come_in_order_with_one_thread_of_linear_algebra_each_given_back_after():
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    np.eye(3) @ np.eye(3)
    before = threads()
    found = each_layer(lambda *place: (place, set(threads())), [3, 0], ["last", "mean"], "x")
    order = [(3, "last"), (3, "mean"), (0, "last"), (0, "mean")]
    assert found == [(place, {1}) for place in order]
    assert threads() == before
