import numpy as np
import pytest
import tiny_studies
import torch

from prefill_router.evaluation.estimates import to_frame
from prefill_router.evaluation.metrics import gap_closed
from prefill_router.experiments.challenge import CHALLENGER, challenge
from prefill_router.experiments.routers import (
    FINE_TUNED,
    PRIMARY,
    ROUTERS,
    SHUFFLED,
    TFIDF,
    router_names,
)
from prefill_router.experiments.standings import FRUGAL, RIVALS, absent, all_routed, standings
from prefill_router.experiments.study import routers

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def everything(study):
    routed = all_routed(study, challenge(study, False), False)
    return routed, to_frame(standings(study, routed))


def test_every_router_has_every_metric(study, everything):
    _, frame = everything
    for metric in ("accuracy", "gap closed", "AUC", "Brier", "ECE", "AIQ", "regret", "cost saving"):
        names = set(frame.loc[frame["metric"].eq(metric) & frame["target"].eq(""), "router"])
        assert {CHALLENGER, *router_names(study)} <= names, metric
    names = set(frame.loc[frame["metric"] == "gap closed", "router"])
    assert {f"{PRIMARY}{FRUGAL}", "random", "always dearest", "always cheapest"} <= names
    assert not frame.duplicated(["metric", "router", "target", "split"]).any()


def test_the_challengers_row_is_what_its_probabilities_choose(study, everything):
    routed, frame = everything
    Y = study.labels.correct[study.test_rows]
    right = Y[np.arange(len(Y)), routed[CHALLENGER].choice].mean()
    best = study.over_folds([np.full(study.labels.n_queries, k) for k in study.best_single])
    single = Y[np.arange(len(Y)), best].mean()
    [row] = frame[frame["metric"].eq("gap closed") & frame["router"].eq(CHALLENGER)].itertuples()
    assert row.estimate == pytest.approx(gap_closed(right, single, Y.max(axis=1).mean()))
    pairs = frame[frame["metric"] == "gap closed difference"].set_index("router")["estimate"]
    assert pairs[f"{CHALLENGER} - {PRIMARY}"] == pytest.approx(-pairs[f"{PRIMARY} - {CHALLENGER}"])


def test_controls_are_no_hypotheses_and_holms_p_is_never_smaller(everything):
    _, frame = everything
    p, corrected = (
        frame[frame["metric"] == metric].set_index("router")["estimate"]
        for metric in ("p-value", "p-value (Holm)")
    )
    assert f"{PRIMARY} - {TFIDF}" in p
    assert f"{PRIMARY} - {SHUFFLED}" not in p
    assert (corrected >= p).all()
    resamples = p * 10_001 / 2  # however few the study has
    assert resamples[p < 1].to_numpy() == pytest.approx(resamples[p < 1].round().to_numpy())
    # the primary comparison is one hypothesis, in one family
    assert f"{CHALLENGER} - {PRIMARY}" in p
    assert f"{PRIMARY} - {CHALLENGER}" not in p
    n = 1 + sum(name in everything[0] for name in RIVALS)  # and the best single target
    assert (frame["metric"] == "win rate").sum() == n * (n - 1) // 2


def test_seeds_and_configurations_are_reported(study, everything):
    _, frame = everything
    seeds = frame[frame["metric"].str.startswith("deviation between seeds")]
    assert len(seeds) == 3
    assert (seeds["estimate"] > 0).any()
    tried = frame[frame["metric"] == "configurations tried"].set_index("router")["estimate"]
    assert tried[TFIDF] == 5 * len(study.splits)
    assert tried[PRIMARY] == len(study.splits)


def test_without_prices_or_a_second_network_what_needs_them_is_left_out(tmp_path):
    study = tiny_studies.study(tmp_path, prices="", untrained="", encoders=[], keep=1)
    routed = all_routed(study, challenge(study, False), False)
    frame = to_frame(standings(study, routed))
    assert not frame["metric"].str.contains("cost|AUCCC|deviation").any()
    assert {"gap closed", "regret", "p-value"} <= set(frame["metric"])


def test_what_is_absent_is_named_with_its_reason(study, monkeypatch):
    left_out = set(ROUTERS) - set(router_names(study, False))
    assert absent(study, False, left_out) == []  # shown all the same, from a full run
    [sentence] = absent(study, False)
    assert sentence.startswith("Left out, since only full runs fit them: ")
    assert FINE_TUNED in sentence
    assert absent(study, True) == []
    monkeypatch.setattr(routers, "CPU_EPOCH", 1)
    assert FINE_TUNED not in router_names(study, True)
    assert len(router_names(study, True)) == len(ROUTERS) - 1
    [sentence] = absent(study, True)
    assert sentence.endswith(f": {FINE_TUNED}.")
    assert "operations on a CPU" in sentence
