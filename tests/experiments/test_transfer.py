import numpy as np
import pytest
from tiny_studies import label_table, relabelled, weighted_auc
from tiny_studies import study as tiny_study

from prefill_router.evaluation.results import one, select
from prefill_router.experiments import transfer as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.routers import BENCHMARK, predictions


def test_what_is_left_out_is_neither_trained_nor_validated_on(study):
    values, group, first = study.labels.benchmark, study.labels.group, study.splits[0]
    splits = it.leave_one_out(study)
    tested = np.concatenate([split.test for split in splits])
    np.testing.assert_array_equal(np.sort(tested), study.test_rows)
    for split, value in zip(splits, ("blue", "red"), strict=True):
        assert (values[split.test] == value).all()
        for part in (split.train, split.validation):
            assert len(part) and (values[part] != value).all()
            assert not np.isin(group[part], group[split.test]).any()
            assert np.isin(part, np.r_[first.train, first.validation]).all()


def test_benchmarks_with_few_complete_queries_and_the_smallest_of_many_stay_in(study, monkeypatch):
    values = np.array([f"v{i % 3}" for i in range(study.labels.n_queries)])
    other = relabelled(study, benchmark=values)
    assert len(it.leave_one_out(other)) == 3
    correct = study.labels.correct.copy()
    correct[values == "v1", 0] = np.nan
    assert len(it.leave_one_out(relabelled(study, benchmark=values, correct=correct))) == 2
    monkeypatch.setattr(it, "MOST", 1)
    values[values == "v0"][:9] = "v2"
    [split] = it.leave_one_out(relabelled(study, benchmark=values))
    counts = {value: (values[study.test_rows] == value).sum() for value in ("v0", "v1", "v2")}
    assert len(split.test) == max(counts.values())


def test_routers_are_compared_with_themselves_on_what_they_never_saw(tmp_path):
    table = label_table(n=160)
    study = tiny_study(tmp_path, table, untrained="", encoders=[])
    found = it.transfer(study)
    assert len(found) == 2 * 2 * 3 + 2 * 2  # metrics, routers and ways; and ways by benchmark
    ways = select(found, versus=None).assign(way=lambda rows: rows["split"] + rows["versus"])
    ways = ways.pivot(index=["router", "metric"], columns="way", values="estimate")
    # who knows nothing of a benchmark but the overall accuracies ranks nothing within it
    assert ways.loc[(BENCHMARK, "AUC"), it.LEFT_OUT] == 0.5
    lost = ways[it.SEEN] - ways[it.LEFT_OUT]
    np.testing.assert_allclose(ways[it.SEEN + it.LEFT_OUT], lost, atol=1e-12)

    at = held_out(study)
    p, values = at.join(predictions(study, it.RIDGE)), study.labels.benchmark[at.rows]
    parts = [values == value for value in ("blue", "red")]
    areas = [weighted_auc(at.correct[:, k], p[:, k], parts) for k in range(3)]
    row = one(found, metric="AUC", router=it.RIDGE, split=it.SEEN)
    assert row.estimate == pytest.approx(np.mean(areas))
    areas = [weighted_auc(at.correct[:, k], p[:, k], parts[1:]) for k in range(3)]
    row = one(found, metric="AUC", router=it.RIDGE, split=it.SEEN, target="red")
    assert row.estimate == pytest.approx(np.mean(areas))

    table["benchmark"] = "all"
    assert it.transfer(tiny_study(tmp_path / "one", table, untrained="", encoders=[])).empty
