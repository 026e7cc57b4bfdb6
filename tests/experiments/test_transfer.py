from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import label_table, relabelled
from tiny_studies import study as tiny_study

from prefill_router.errors import InputError
from prefill_router.evaluation.results import one
from prefill_router.experiments import transfer as transfer_module
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import BENCHMARK, PRIMARY
from prefill_router.experiments.transfer import (
    LEFT_OUT,
    SEEN,
    compare_ways,
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


def test_a_study_is_asked_about_its_benchmarks(own_artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer_module, "ROUTERS", (PRIMARY, BENCHMARK))
    table = label_table(n=160)
    study = tiny_study(tmp_path, table, untrained="", encoders=[])
    assert list(kinds(study)) == ["benchmark"]
    found = transfer(study)
    assert len(found) == 2 * 2 * 3 and set(found["target"]) == {"benchmark"}
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


def test_auc_is_within_values_and_gap_closed_over_all(study):
    rng, rows = np.random.default_rng(0), study.test_rows
    values = study.labels.benchmark
    level = np.where(values == "red", 0.8, 0.3)[:, None]
    correct = (rng.random(study.labels.correct.shape) < level).astype(float)
    other, guess = (
        relabelled(study, correct=correct),
        0.3 * correct + rng.normal(size=correct.shape),
    )
    other.__dict__["best_single"] = [0, 0]
    p = {"knows the value": (level + 0 * correct, guess), "oracle": (correct, correct)}
    p = {(n, way): q[rows] for n in p for way, q in zip((SEEN, LEFT_OUT), p[n], strict=True)}
    found = compare_ways(replace(held_out(other), folds=0 * rows), p, values)
    assert one(found, metric="AUC", router="knows the value", split=SEEN).estimate == 0.5
    areas = []
    for k in range(3):
        parts = []
        for value in ("red", "blue"):
            y, scores = (of[rows][values[rows] == value, k] for of in (correct, guess))
            parts.append((roc_auc_score(y, scores), y.sum() * (1 - y).sum()))
        areas.append(np.average([a for a, _ in parts], weights=[w for _, w in parts]))
    row = one(found, metric="AUC", router="knows the value", split=LEFT_OUT)
    assert row.estimate == pytest.approx(np.mean(areas))
    gaps = {"metric": "gap closed", "split": SEEN}
    assert one(found, router="oracle", **gaps).estimate == pytest.approx(1)
    lost = one(found, router="oracle", versus=LEFT_OUT, **gaps)
    assert lost.lower == lost.upper == 0
    assert one(found, router="knows the value", **gaps).estimate == pytest.approx(0)


def test_queries_asked_again_in_their_group_leave_every_interval_as_wide(study):
    rng, correct = np.random.default_rng(1), study.labels.correct.copy()
    correct[5, 0] = np.nan
    p = [0.5 * np.nan_to_num(correct) + rng.random(correct.shape) for _ in "ab"]

    at = held_out(relabelled(study, correct=correct))

    def evaluate(at):
        both = {("router", way): q[at.rows] for way, q in zip((SEEN, LEFT_OUT), p, strict=True)}
        return compare_ways(at, both, study.labels.benchmark)

    once, again = evaluate(at), evaluate(at.take(np.repeat(range(len(at.rows)), 4)))
    assert ((once["lower"] < once["estimate"]) & (once["estimate"] < once["upper"])).all()
    bounds = ["estimate", "lower", "upper"]
    np.testing.assert_allclose(again[bounds], once[bounds])
