from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.transfer import LEFT_OUT, LOST, SEEN
from prefill_router.experiments.transfer_report import transfer_lines, transfer_table

VALUES = {
    ("AUC", SEEN): (0.8, 0.75, 0.85),
    ("AUC", LEFT_OUT): (0.6, 0.55, 0.65),
    ("AUC", LOST): (0.2, 0.1, 0.3),
    ("gap closed", SEEN): (0.3, 0.2, 0.4),
    ("gap closed", LEFT_OUT): (0.25, 0.1, 0.4),
    ("gap closed", LOST): (0.05, -0.1, 0.2),
}
ROWS = [
    Estimate(metric, router, way, kind, *values, 90)
    for kind in ("family", "level")
    for (metric, way), values in VALUES.items()
    for router in ("words", PRIMARY)
]
OTHERS = [Estimate("AUC", "words", "", "test", 0.9, 0.8, 1.0, 90)]


def test_the_table_has_a_row_for_each_kind_and_router():
    table = transfer_table(OTHERS + ROWS)
    assert table["left out"].tolist() == ["family", "family", "level", "level"]
    assert table["router"].tolist() == ["words", PRIMARY] * 2
    assert table.iloc[0, 2:].to_dict() == {
        "AUC, seen in training": "0.800 [0.750, 0.850]",
        "AUC, left out": "0.600 [0.550, 0.650]",
        "AUC, lost": "0.200 [0.100, 0.300]",
        "gap closed, seen in training": "30.0 % [20.0, 40.0]",
        "gap closed, left out": "25.0 % [10.0, 40.0]",
        "gap closed, lost": "5.0 % [-10.0, 20.0]",
    }


def test_sentences_say_what_the_primary_loses_and_still_reaches():
    lines = transfer_lines(ROWS)
    assert len(lines) == 6
    assert lines[0].startswith(
        f"{PRIMARY} that has seen a family is better than one that has not in AUC (+0.200 "
    )
    assert "is not distinguishable from one that has not in gap closed" in lines[1]
    assert lines[2].startswith(f"On queries of a family left out, {PRIMARY} closes 25.0 % ")
    assert "n = 90 test queries" in lines[2]
    assert "a level" in lines[3]


def test_without_transfer_there_is_an_empty_table_and_nothing_to_say():
    table = transfer_table(OTHERS)
    assert table.empty and len(table.columns) == 8
    assert transfer_lines(OTHERS) == []
