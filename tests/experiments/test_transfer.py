import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import label_table
from tiny_studies import study as tiny_study

from prefill_router.errors import InputError
from prefill_router.evaluation.results import one
from prefill_router.experiments.routers import BENCHMARK
from prefill_router.experiments.transfer import (
    LEFT_OUT,
    SEEN,
    evaluate_transfer,
    kinds,
    leave_out,
    transfer,
)


def test_what_is_left_out_is_neither_trained_nor_validated_on(study):
    values, group = study.labels.benchmark, study.labels.group
    without = leave_out(study, values, 16)
    assert len(without.splits) == 2
    tested = np.concatenate([split.test for split in without.splits])
    np.testing.assert_array_equal(np.sort(tested), study.test_rows)
    for split, value in zip(without.splits, ("blue", "red"), strict=True):
        assert (values[split.test] == value).all()
        for part in (split.train, split.validation):
            assert len(part) and (values[part] != value).all()
            assert not np.isin(group[part], group[split.test]).any()
            assert np.isin(part, np.r_[study.splits[0].train, study.splits[0].validation]).all()
    assert len(study.splits[0].test) < len(study.test_rows)  # the study itself is as it was


def test_only_the_largest_values_are_left_out_if_there_are_many(study):
    values = np.array([f"v{i % 4}" for i in range(study.labels.n_queries)])
    values[:40] = "v3"
    most = leave_out(study, values, 2)
    assert len(most.splits) == 2
    assert any((values[split.test] == "v3").all() for split in most.splits)
    with pytest.raises(InputError, match="two values"):
        leave_out(study, np.full(len(values), "one"), 16)


def test_a_study_is_asked_about_its_benchmarks(own_artifacts, tmp_path):
    table = label_table(n=160)
    study = tiny_study(tmp_path, table, untrained="", encoders=[])
    assert list(kinds(study)) == ["benchmark"]
    found = transfer(study)
    assert len(found) == 2 * 5 * 3 and set(found["target"]) == {"benchmark"}
    by_name = {"router": BENCHMARK, "target": "benchmark"}
    # who knows nothing of a benchmark but the overall accuracies ranks nothing within it
    assert one(found, metric="AUC", split=LEFT_OUT, **by_name).estimate == 0.5
    for metric in ("AUC", "gap closed"):
        seen, left = (
            one(found, metric=metric, split=way, **by_name).estimate for way in (SEEN, LEFT_OUT)
        )
        lost = one(found, metric=metric, versus=LEFT_OUT, split=SEEN, **by_name)
        assert lost.estimate == pytest.approx(seen - left)
    table["benchmark"] = "all"
    assert transfer(tiny_study(tmp_path / "one", table, untrained="", encoders=[])).empty


def test_auc_is_within_values_and_gap_closed_over_all():
    rng = np.random.default_rng(0)
    values = np.repeat(["easy", "hard"], 200)
    level = np.where(values == "easy", 0.8, 0.3)[:, None]
    correct = (rng.random((400, 2)) < level).astype(float)
    guess = 0.3 * correct + rng.normal(size=(400, 2))
    p = {"knows the value": (level + 0 * correct, guess), "oracle": (correct, correct)}
    none = np.zeros(400, dtype=int)
    found = evaluate_transfer(
        p, correct, none, values, none, np.arange(400), kind="benchmark", n_resamples=100
    )

    def row(metric, router, split, versus=""):
        where = {"split": split, "versus": versus, "target": "benchmark"}
        return one(found, metric=metric, router=router, **where)

    assert row("AUC", "knows the value", SEEN).estimate == 0.5
    areas = []
    for k in range(2):
        parts = []
        for at in (values == "easy", values == "hard"):
            y = correct[at, k]
            parts.append((roc_auc_score(y, guess[at, k]), y.sum() * (1 - y).sum()))
        areas.append(np.average([a for a, _ in parts], weights=[w for _, w in parts]))
    assert row("AUC", "knows the value", LEFT_OUT).estimate == pytest.approx(np.mean(areas))
    assert row("gap closed", "oracle", SEEN).estimate == pytest.approx(1)
    lost = row("gap closed", "oracle", SEEN, versus=LEFT_OUT)
    assert lost.lower == lost.upper == 0
    assert row("gap closed", "knows the value", SEEN).estimate == pytest.approx(0)


def test_queries_asked_again_in_their_group_leave_every_interval_as_wide():
    rng = np.random.default_rng(1)
    n = 120
    values, folds = rng.choice(["easy", "hard"], n), rng.integers(0, 2, n)
    correct = (rng.random((n, 2)) < 0.5).astype(float)
    correct[5, 0] = np.nan
    p = tuple(0.5 * np.nan_to_num(correct) + rng.random((n, 2)) for _ in "ab")
    best = np.zeros(n, dtype=int)

    def evaluate(rows):
        again = {"router": tuple(q[rows] for q in p)}
        arrays = (correct[rows], best[rows], values[rows], folds[rows], rows)
        return evaluate_transfer(again, *arrays, kind="benchmark", n_resamples=200)

    once, again = evaluate(np.arange(n)), evaluate(np.repeat(np.arange(n), 4))
    assert ((once["lower"] < once["estimate"]) & (once["estimate"] < once["upper"])).all()
    bounds = ["estimate", "lower", "upper"]
    np.testing.assert_allclose(again[bounds], once[bounds])
