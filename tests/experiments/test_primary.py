import numpy as np
import pytest

from prefill_router.evaluation.comparison import HOLM, P_VALUE
from prefill_router.evaluation.results import one, results
from prefill_router.experiments import primary as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import (
    BENCHMARK,
    CLUSTERS,
    HEADS,
    LOGISTIC,
    PRIMARY,
    RIDGE,
    predictions,
)
from prefill_router.metrics import gap_closed, pairwise_brier


@pytest.mark.parametrize("spread", [0, 1])
def test_sides_are_compared_on_the_same_queries_and_seeds_widen_the_interval(
    study, monkeypatch, spread
):
    """One side asks the best target for a query, the other the worst; seeds may fail together."""
    best, seeds = np.argsort(study.labels.correct[study.test_rows]), []

    def choose(study, names, seed, calibrated):
        seeds.append(seed)
        fails = spread and (seed - study.parameters.seed) % 2
        return best[:, -1 if list(names) == list(HEADS.values()) and not fails else 0]

    monkeypatch.setattr(it, "chosen", choose)
    found = it.primary_comparison(study)
    assert set(seeds) == {study.parameters.seed + s for s in range(it.SEEDS)}
    rows, at = held_out(study).complete()
    Y, every = at.correct, np.arange(len(at.correct))
    right, wrong = Y[every, best[rows, -1]], Y[every, best[rows, 0]]
    states = (right.mean() + wrong.mean()) / 2 if spread else right.mean()
    single, oracle = Y[every, at.best_single].mean(), Y.max(axis=1).mean()
    want = [gap_closed(a, single, oracle) for a in (states, wrong.mean())]
    for name, value in zip((it.STATES, it.BEST_SEMANTIC), want, strict=True):
        assert one(found, metric="gap closed", router=name).estimate == pytest.approx(value)
    lead = one(found, metric="gap closed", router=it.STATES, versus=it.BEST_SEMANTIC)
    assert lead.estimate == pytest.approx(want[0] - want[1])
    assert (lead.lower <= 0) == bool(spread)  # half of the shifts go down to none
    p = one(found, metric=P_VALUE, router=it.STATES, versus=it.BEST_SEMANTIC).estimate
    assert p == pytest.approx(0.5, abs=0.1) if spread else p < 0.01


def test_each_side_draws_seeds_of_its_own(study, monkeypatch):
    """Both sides fail with the same seed: no difference, which fresh seeds might show."""
    best = np.argsort(study.labels.correct[study.test_rows])

    def choose(study, names, seed, calibrated):
        told = list(names) == [BENCHMARK]
        return best[:, 0 if told or (seed - study.parameters.seed) % 2 else -1]

    monkeypatch.setattr(it, "chosen", choose)
    found = it.primary_comparison(study, calibrated=False)
    name, versus = (side + it.UNCALIBRATED for side in it.COMPARED[0])
    lead = one(found, metric="gap closed", router=name, versus=versus)
    _, at = held_out(study).complete()
    Y, every = at.correct, np.arange(len(at.correct))
    single, oracle = Y[every, at.best_single].mean(), Y.max(axis=1).mean()
    spread = Y.max(axis=1).mean() - Y.min(axis=1).mean()  # half of it up and half of it down
    assert lead.estimate == 0
    assert lead.upper >= spread / (oracle - single) and lead.lower <= -spread / (oracle - single)


def test_routers_with_a_seed_are_fitted_with_it(study, monkeypatch):
    seeds, names = {}, [PRIMARY, RIDGE]

    def spy(of, name, calibrated):
        seeds[name] = of.parameters.seed, of.labels is study.labels
        assert all(a.test is b.test for a, b in zip(of.splits, study.splits, strict=True))
        return [np.full(study.labels.correct.shape, 0.5)] * 2

    monkeypatch.setattr(it, "predictions", spy)
    it.chosen(study, names, seed=5)
    assert seeds == {PRIMARY: (5, True), RIDGE: (study.parameters.seed, True)}
    assert {PRIMARY, LOGISTIC, CLUSTERS} < {*it.SEEDED}


def test_the_router_asked_has_the_least_pairwise_brier_score_of_each_fold(study):
    names, Y = [RIDGE, BENCHMARK], study.labels.correct
    raw = {name: predictions(study, name, calibrated=False) for name in names}
    for calibrated in (True, False):
        asked = it.chosen(study, names, study.parameters.seed, calibrated)
        for fold, split in enumerate(study.splits):
            v, here = split.validation, study.test_folds == fold
            errors = [np.nanmean(pairwise_brier(raw[name][fold][v], Y[v])) for name in names]
            best = names[int(np.argmin(errors))]
            p = predictions(study, best, calibrated=calibrated)[fold][study.test_rows[here]]
            assert (asked[here] == p.argmax(axis=1)).all()


def test_p_values_of_one_comparison_are_corrected_over_pools():
    about = [(versus, pool) for versus in ("a", "b") for pool in ("1", "2", "3")]
    rows = [
        {"metric": P_VALUE, "router": "s", "versus": versus, "split": pool, "estimate": p}
        for (versus, pool), p in zip(about, (0.01, 0.04, 0.03, 0.5, 0.6, 0.9), strict=True)
    ]
    found = it.corrected_p_values(results(rows))
    assert found["metric"].eq(HOLM).all()
    assert found["estimate"].tolist() == pytest.approx([0.03, 0.06, 0.06, 1, 1, 1])
