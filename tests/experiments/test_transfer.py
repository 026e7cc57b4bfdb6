import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny_studies import label_table
from tiny_studies import study as tiny_study

from prefill_router.errors import InputError
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
    rows = {(r.metric, r.router, r.target): r for r in found}
    assert len(rows) == len(found) == 2 * 5 * 3
    # who knows nothing of a benchmark but the overall accuracies ranks nothing within it
    assert rows["AUC", BENCHMARK, LEFT_OUT].estimate == 0.5
    assert {r.split for r in found} == {"benchmark"}
    for metric in ("AUC", "gap closed"):
        seen, left, lost = (
            rows[metric, BENCHMARK, way].estimate for way in (SEEN, LEFT_OUT, "lost")
        )
        assert lost == pytest.approx(seen - left)
    table["benchmark"] = "all"
    assert transfer(tiny_study(tmp_path / "one", table, untrained="", encoders=[])) == []


def test_auc_is_within_values_and_gap_closed_over_all():
    rng = np.random.default_rng(0)
    values = np.repeat(["easy", "hard"], 200)
    correct = (rng.random((400, 2)) < np.where(values == "easy", 0.8, 0.3)[:, None]).astype(float)
    noise = rng.normal(size=(400, 2))
    p = {
        ("knows the value", SEEN): np.where(values == "easy", 0.8, 0.3)[:, None] + 0 * correct,
        ("knows the value", LEFT_OUT): 0.3 * correct + noise,
        ("oracle", SEEN): correct,
        ("oracle", LEFT_OUT): correct,
    }
    none = np.zeros(400, dtype=int)
    found = evaluate_transfer(
        p, correct, none, values, none, np.arange(400), kind="benchmark", n_resamples=100
    )
    rows = {(r.metric, r.router, r.target): r for r in found}
    assert rows["AUC", "knows the value", SEEN].estimate == 0.5
    areas = []
    for k in range(2):
        parts = []
        for at in (values == "easy", values == "hard"):
            y, scores = correct[at, k], p["knows the value", LEFT_OUT][at, k]
            parts.append((roc_auc_score(y, scores), y.sum() * (1 - y).sum()))
        areas.append(np.average([a for a, _ in parts], weights=[w for _, w in parts]))
    assert rows["AUC", "knows the value", LEFT_OUT].estimate == pytest.approx(np.mean(areas))
    assert rows["gap closed", "oracle", SEEN].estimate == pytest.approx(1)
    assert rows["gap closed", "oracle", "lost"].lower == rows["gap closed", "oracle", "lost"].upper
    assert rows["gap closed", "knows the value", SEEN].estimate == pytest.approx(0)


def test_queries_asked_again_in_their_group_leave_every_interval_as_wide():
    rng = np.random.default_rng(1)
    n = 120
    values, folds = rng.choice(["easy", "hard"], n), rng.integers(0, 2, n)
    correct = (rng.random((n, 2)) < 0.5).astype(float)
    correct[5, 0] = np.nan
    p = {
        ("router", way): 0.5 * np.nan_to_num(correct) + rng.random((n, 2))
        for way in (SEEN, LEFT_OUT)
    }
    best = np.zeros(n, dtype=int)

    def evaluate(rows):
        again = {key: q[rows] for key, q in p.items()}
        arrays = (correct[rows], best[rows], values[rows], folds[rows], rows)
        return evaluate_transfer(again, *arrays, kind="benchmark", n_resamples=200)

    once, again = evaluate(np.arange(n)), evaluate(np.repeat(np.arange(n), 4))
    assert {r.metric for r in once} == {"AUC", "gap closed"}
    for one, other in zip(once, again, strict=True):
        assert (other.metric, other.target) == (one.metric, one.target)
        assert one.lower < one.estimate < one.upper
        for bound in ("estimate", "lower", "upper"):
            assert getattr(other, bound) == pytest.approx(getattr(one, bound))
