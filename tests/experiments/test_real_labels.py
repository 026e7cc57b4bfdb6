import numpy as np
import pandas as pd
import pytest
import tiny_studies
from tiny_studies import auc_within_folds

from prefill_router.evaluation.comparison import HOLM, P_VALUE
from prefill_router.evaluation.results import one, results, select
from prefill_router.experiments import real_labels as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import BENCHMARK, HEADS, RIDGE, predictions
from prefill_router.metrics import gap_closed, pairwise_brier


@pytest.mark.parametrize("spread", [0, 1])
def test_sides_are_compared_on_the_same_queries_and_seeds_widen_the_interval(
    study, monkeypatch, spread
):
    """One side asks the best target for a query, the other the worst; seeds may fail together."""
    best, seeds = np.argsort(study.labels.correct[study.test_rows]), []

    def choose(study, names, seed):
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
    assert (lead.lower <= 0) == bool(spread)  # both seeds fail in a quarter of the resamples
    p = one(found, metric=P_VALUE, router=it.STATES, versus=it.BEST_SEMANTIC).estimate
    assert p == pytest.approx(0.5, abs=0.1) if spread else p < 0.01


def test_the_router_asked_has_the_least_pairwise_brier_score_of_each_fold(study, monkeypatch):
    ask = lambda study, fold, p: np.nan_to_num(p).argmax(axis=1)[None]  # noqa: E731
    monkeypatch.setattr(it, "choose_targets", ask)
    names, Y = [RIDGE, BENCHMARK], study.labels.correct
    raw = {name: predictions(study, name, calibrated=False) for name in names}
    asked = it.chosen(study, names, study.parameters.seed)
    for fold, split in enumerate(study.splits):
        v, here = split.validation, study.test_folds == fold
        errors = [np.nanmean(pairwise_brier(raw[name][fold][v], Y[v])) for name in names]
        best = predictions(study, names[int(np.argmin(errors))])[fold][study.test_rows[here]]
        assert (asked[here] == best.argmax(axis=1)).all()


def test_every_question_has_its_rows(study, monkeypatch):
    monkeypatch.setattr(it, "SIZES", (10, 20, 10_000))
    found = it.encoder_targets(study)
    q = held_out(study).join(predictions(study, RIDGE, calibrated=False))
    main = study.parameters.encoder
    for k, target in enumerate(study.labels.targets):
        row = one(found, metric="AUC", router=main, target=target)
        assert row.estimate == pytest.approx(auc_within_folds(study, q, k), abs=1e-12)
    assert {*study.encoders, it.UNION} == set(select(found, metric="gap closed")["router"])
    curve = it.label_curve(study)
    assert curve["x"].tolist() == [10, 20, min(len(split.train) for split in study.splits)]


def test_p_values_of_one_comparison_are_corrected_over_pools():
    about = [(versus, pool) for versus in ("a", "b") for pool in ("1", "2", "3")]
    rows = [
        {"metric": P_VALUE, "router": "s", "versus": versus, "split": pool, "estimate": p}
        for (versus, pool), p in zip(about, (0.01, 0.04, 0.03, 0.5, 0.6, 0.9), strict=True)
    ]
    found = it.corrected(results(rows))
    assert found["metric"].eq(HOLM).all()
    assert found["estimate"].tolist() == pytest.approx([0.03, 0.06, 0.06, 1, 1, 1])


def test_who_is_told_a_twins_answers_knows_ones_own(tmp_path):
    table = tiny_studies.label_table()
    twin = table[table["model"] == "noisy"].assign(model="twin")
    asked = ["early", "noisy"]
    study = tiny_studies.study(tmp_path, pd.concat([table, twin]), targets=asked, prices="")
    p = held_out(study).join(predictions(study, it.TOLD))
    assert auc_within_folds(study, p, 1) == 1
    found = it.every_router(study)
    assert {it.CONCATENATED.name, it.TOLD.name, *it.SEMANTIC} < set(found["router"])
    assert one(found, metric="AUC", router=it.CONCATENATED.name).estimate > 0.5
