import numpy as np
import pytest
import tiny_studies

from prefill_router.evaluation.results import one, select
from prefill_router.evaluation.significance import DETECTABLE, HOLM, P_VALUE
from prefill_router.experiments import routers
from prefill_router.experiments.comparison import apply_policies, held_out, route
from prefill_router.experiments.contest import CHALLENGER, TRIED
from prefill_router.experiments.router_comparison import DEVIATION, FRUGAL, router_comparison
from prefill_router.metrics import gap_closed


def all_routed(study, names):
    """Let logistic regression be the challenger."""
    routed = {CHALLENGER: apply_policies(study, routers.predictions(study, routers.LOGISTIC))}
    return routed | {name: route(study, name) for name in names}


@pytest.fixture(scope="module")
def found(study):
    return router_comparison(study, all_routed(study, routers.router_names(study)))


def test_every_router_has_every_metric_once(study, found):
    everyone = {CHALLENGER, *routers.router_names(study)}
    metrics = ["accuracy", "gap closed", "regret", "cost saving", "AUC", "Brier", "ECE", "AIQ"]
    for metric in [*metrics, f"gap closed{FRUGAL}"]:
        assert everyone <= set(select(found, metric=metric)["router"]), metric
    references = {"random", "always dearest", "always cheapest"}
    assert references <= set(select(found, metric="gap closed")["router"])
    assert not found.duplicated(["metric", "router", "versus", "target", "split"]).any()


def test_the_challengers_row_is_what_its_probabilities_choose(study, found):
    at, choice = held_out(study), all_routed(study, ())[CHALLENGER].choice
    right, best = (at.correct[np.arange(len(choice)), k].mean() for k in (choice, at.best_single))
    gaps = select(found, metric="gap closed", versus=None).set_index(["router", "versus"])
    gaps, ours, theirs = gaps["estimate"], CHALLENGER, routers.PRIMARY
    assert gaps[ours, ""] == pytest.approx(gap_closed(right, best, at.correct.max(axis=1).mean()))
    lead = gaps[ours, ""] - gaps[theirs, ""]
    assert gaps[ours, theirs] == pytest.approx(lead, abs=1e-12)


def test_controls_are_no_hypotheses_and_holms_p_is_never_smaller(found):
    p, corrected = (
        select(found, metric=metric, versus=None).set_index(["router", "versus"])["estimate"]
        for metric in (P_VALUE, HOLM)
    )
    assert (routers.PRIMARY, routers.TFIDF) in p and (routers.PRIMARY, routers.SHUFFLED) not in p
    assert (corrected >= p).all()
    resamples = p * 10_001 / 2  # however few the study has
    assert resamples[p < 1].to_numpy() == pytest.approx(resamples[p < 1].round().to_numpy())
    # the primary comparison is one hypothesis, in one family
    assert (CHALLENGER, routers.PRIMARY) in p and (routers.PRIMARY, CHALLENGER) not in p
    assert len(select(found, metric=DETECTABLE, versus=None)) == len(p)


def test_seeds_and_configurations_are_reported(study, found):
    by_seed = {f"seed {s}": p for s, p in enumerate(routers.network_predictions(study))}
    each = held_out(study).likeliest(by_seed, only=("AUC", "Brier")).groupby("metric")["estimate"]
    for metric, deviation in each.std().items():
        row = one(found, metric=f"{metric}, {DEVIATION}", router=routers.PRIMARY)
        assert row.estimate == pytest.approx(deviation, abs=1e-12)
    assert one(found, metric=TRIED, router=routers.TFIDF).estimate == 5 * len(study.splits)
    assert one(found, metric=TRIED, router=routers.PRIMARY).estimate == len(study.splits)


def test_without_prices_or_a_second_network_what_needs_them_is_left_out(tmp_path):
    study = tiny_studies.study(tmp_path, prices="", untrained="", encoders=[], keep=1)
    found = router_comparison(study, all_routed(study, (routers.PRIMARY, routers.TFIDF)))
    assert not found["metric"].str.contains("cost|AUCCC|deviation|frugal").any()
    assert {"gap closed", "regret", P_VALUE} <= set(found["metric"])
