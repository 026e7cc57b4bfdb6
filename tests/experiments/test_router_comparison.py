import numpy as np
import pytest
import tiny_studies

from prefill_router.evaluation.comparison import DETECTABLE, HOLM, P_VALUE
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import router_comparison as it
from prefill_router.experiments import routers
from prefill_router.experiments.comparison import held_out, route
from prefill_router.metrics import gap_closed, pairwise_brier


@pytest.fixture(scope="module")
def found(study):
    return it.compare_routers(study)


@pytest.fixture(scope="module")
def heads(study):
    return it.compare_heads(study)


def test_every_router_has_every_metric_once(study, found):
    everyone = {*routers.router_names(study)}
    for metric in ("accuracy", "gap closed", "regret", "cost saving", "AUC", "Brier", "ECE", "AIQ"):
        assert everyone <= set(select(found, metric=metric)["router"]), metric
    references = {"random", "always dearest", "always cheapest"}
    assert references <= set(select(found, metric="gap closed")["router"])
    assert not found.duplicated(["metric", "router", "versus", "target", "split"]).any()


def test_the_primary_router_is_compared_with_every_other_by_what_both_choose(study, found):
    at, gaps = (
        held_out(study),
        select(found, metric="gap closed", router=routers.PRIMARY, versus=None),
    )
    rows, oracle = np.arange(len(at.rows)), at.correct.max(axis=1).mean()
    best = at.correct[rows, at.best_single].mean()
    ours, theirs = (
        gap_closed(at.correct[rows, route(study, name).choice].mean(), best, oracle)
        for name in (routers.PRIMARY, routers.TFIDF)
    )
    assert one(gaps, metric="gap closed").estimate == pytest.approx(ours)
    lead = one(gaps, metric="gap closed", versus=routers.TFIDF).estimate
    assert lead == pytest.approx(ours - theirs, abs=1e-12)
    assert {*routers.router_names(study)} - {routers.PRIMARY} < {*gaps["versus"]}


def test_controls_are_no_hypotheses_and_holms_p_is_never_smaller(found):
    p, corrected = (
        select(found, metric=metric, versus=None).set_index("versus")["estimate"]
        for metric in (P_VALUE, HOLM)
    )
    assert routers.TFIDF in p and not {*p.index} & {*it.NO_HYPOTHESES}
    assert (corrected >= p).all()
    resamples = p * 10_001 / 2  # however few the study has
    assert resamples[p < 1].to_numpy() == pytest.approx(resamples[p < 1].round().to_numpy())
    assert len(select(found, metric=DETECTABLE, versus=None)) == len(p)


def test_heads_are_scored_before_calibration_on_the_rows_of_their_own_folds(study, heads):
    Y = study.labels.correct
    for split in ("validation", "test"):
        for name in (*routers.HEADS.values(), routers.AUTO):
            raw = routers.predictions(study, name, calibrated=False)
            rows = [getattr(each, split) for each in study.splits]
            squares = [pairwise_brier(p[r], Y[r]) for p, r in zip(raw, rows, strict=True)]
            row = one(heads, metric=it.PAIRWISE, router=name, split=split)
            assert row.estimate == pytest.approx(np.concatenate(squares).mean())
    gaps = select(heads, metric="gap closed", versus=None)
    assert set(gaps["split"]) == {"test"} and len(gaps) == 7  # four, and three differences


def test_without_prices_what_needs_them_is_left_out(tmp_path):
    study = tiny_studies.study(tmp_path, prices="", untrained="", encoders=[])
    found = it.compare_routers(study)
    assert not found["metric"].str.contains("cost|AUCCC").any()
    assert {"gap closed", "regret", P_VALUE} <= set(found["metric"])
