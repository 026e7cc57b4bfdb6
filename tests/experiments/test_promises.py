import numpy as np
import pytest
import tiny_studies

from prefill_router.evaluation.estimates import read_metrics, write_metrics
from prefill_router.experiments.promise_report import guarantee_lines, saving_rows
from prefill_router.experiments.promises import promises
from prefill_router.router.cost_comparison import SAVING

pytestmark = pytest.mark.usefixtures("own_artifacts")


def test_every_question_is_answered_and_can_be_written_down(study, tmp_path):
    found = promises(study, draws=2)
    names = [(r.metric, r.router, r.target, r.split) for r in found]
    assert len(set(names)) == len(names)  # a row is found again by its name
    metrics = {row.metric for row in found}
    assert metrics >= {"ECE", "certified tau", "share certified"}
    assert metrics >= {"share answered", SAVING, "spent of the budget"}
    write_metrics(tmp_path / "rows.json", found)
    assert str(read_metrics(tmp_path / "rows.json")) == str(found)
    assert str(promises(study, draws=2)) == str(found)


@pytest.mark.parametrize("folds", [1, 3])
def test_few_queries_of_two_targets_without_prices(tmp_path, folds):
    table = tiny_studies.label_table(60, tiny_studies.TARGETS[:2])
    table.loc[::9, "is_correct"] = np.nan
    table = table.dropna(subset="is_correct")
    study = tiny_studies.study(tmp_path, table, prices="", outer_folds=folds)
    found = promises(study, draws=2)
    assert not [row for row in found if "saving" in row.metric or "budget" in row.metric]
    assert saving_rows(found) == []
    assert len(guarantee_lines(found)) == 3
