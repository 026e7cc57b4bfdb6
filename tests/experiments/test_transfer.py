from dataclasses import replace

import numpy as np
import pytest
from tiny_studies import label_table, relabelled, weighted_auc
from tiny_studies import study as tiny_study

from prefill_router.evaluation.results import one
from prefill_router.experiments import transfer as transfer_module
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import BENCHMARK, PRIMARY
from prefill_router.experiments.transfer import LEFT_OUT, SEEN, compare_ways, leave_out, transfer


def test_what_is_left_out_is_neither_trained_nor_validated_on(study):
    values, group, first = study.labels.benchmark, study.labels.group, study.splits[0]
    splits = leave_out(study, values, 16)
    tested = np.concatenate([split.test for split in splits])
    np.testing.assert_array_equal(np.sort(tested), study.test_rows)
    for split, value in zip(splits, ("blue", "red"), strict=True):
        assert (values[split.test] == value).all()
        for part in (split.train, split.validation):
            assert len(part) and (values[part] != value).all()
            assert not np.isin(group[part], group[split.test]).any()
            assert np.isin(part, np.r_[first.train, first.validation]).all()


def test_only_the_largest_values_are_left_out_if_there_are_many(study):
    values = np.array([f"v{i % 4}" for i in range(study.labels.n_queries)])
    values[:40], values[:10] = "v3", "rare"
    assert len(leave_out(study, values, 16)) == 4
    most = leave_out(study, values, 2)
    assert len(most) == 2 and any((values[split.test] == "v3").all() for split in most)


def test_a_study_is_asked_about_its_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer_module, "ROUTERS", (PRIMARY, BENCHMARK))
    table = label_table(n=160)
    found = transfer(tiny_study(tmp_path, table, untrained="", encoders=[]))
    assert len(found) == 2 * 2 * 3 and set(found["target"]) == {"benchmark"}
    ways = found.assign(way=found["split"] + found["versus"])
    ways = ways.pivot(index=["router", "metric"], columns="way", values="estimate")
    # who knows nothing of a benchmark but the overall accuracies ranks nothing within it
    assert ways.loc[(BENCHMARK, "AUC"), LEFT_OUT] == 0.5
    np.testing.assert_allclose(ways[SEEN + LEFT_OUT], ways[SEEN] - ways[LEFT_OUT], atol=1e-12)
    table["benchmark"] = "all"
    assert transfer(tiny_study(tmp_path / "one", table, untrained="", encoders=[])).empty


def test_auc_is_within_values_and_gap_closed_over_all(study):
    rng, rows = np.random.default_rng(0), study.test_rows
    values = study.labels.benchmark[rows]
    level = np.where(values == "red", 0.8, 0.3)[:, None]
    correct = (rng.random((len(rows), 3)) < level).astype(float)
    guess = 0.3 * correct + rng.normal(size=correct.shape)
    p = {("knows the value", SEEN): level + 0 * correct, ("knows the value", LEFT_OUT): guess}
    p |= {("oracle", way): correct for way in (SEEN, LEFT_OUT)}
    at = replace(held_out(study), correct=correct, best_single=0, folds=0 * rows)
    found = compare_ways(at, p, values)
    assert one(found, metric="AUC", router="knows the value", split=SEEN).estimate == 0.5
    parts = [values == v for v in ("red", "blue")]
    areas = [weighted_auc(correct[:, k], guess[:, k], parts) for k in range(3)]
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
    once = held_out(relabelled(study, correct=correct))
    found = []
    for at in (once, once.take(np.repeat(np.arange(len(once.rows)), 4))):
        both = {("router", SEEN): p[0][at.rows], ("router", LEFT_OUT): p[1][at.rows]}
        rows = compare_ways(at, both, study.labels.benchmark[at.rows])
        found.append(rows[["lower", "estimate", "upper"]].to_numpy())
    assert (np.diff(found[0]) > 0).all()
    np.testing.assert_allclose(found[1], found[0])
