import json
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_labels import labels_of

from prefill_router.errors import InputError
from prefill_router.labels import label_matrix, load_labels, write_labels
from prefill_router.labels.splits import connected_groups

LONG = [
    # query_id, question, benchmark, model, is_correct, output_tokens
    ("q1", "One?", "a", "small", "1", "5"),
    ("q1", "One?", "a", "large", "0", ""),
    ("q2", "Two?", "b", "large", "1", "7.5"),
    ("q2", "Two?", "b", "small", "", ""),
    ("q3", "Three?", "b", "small", "0", "9"),
]
COLUMNS = ["query_id", "question", "benchmark", "model", "is_correct", "output_tokens"]
NAMED = [dict(zip(COLUMNS, values, strict=True)) for values in LONG]
DEV = NAMED[0] | {"split": "dev"}
CORRECT = [[1, 0], [nan, 1], [0, nan]]  # columns: small, large


def save(tmp_path, rows, columns=COLUMNS):
    path = tmp_path / "labels.csv"
    named = columns if isinstance(rows[0], (tuple, list)) else None
    pd.DataFrame(rows, columns=named).to_csv(path, index=False)
    return path


def changed(row, **cells):
    """Return LONG with cells of one row (from 1, as errors count) changed."""
    return [named | cells if i == row else named for i, named in enumerate(NAMED, 1)]


def renamed(old, new):
    return [{new if name == old else name: value for name, value in row.items()} for row in NAMED]


def assert_same(one, other):
    for field, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, field), err_msg=field)


def test_long_table(tmp_path):
    labels = load_labels(save(tmp_path, LONG))
    expected = labels_of(
        query_id=np.array(["q1", "q2", "q3"]),
        question=np.array(["One?", "Two?", "Three?"], dtype=object),
        benchmark=np.array(["a", "b", "b"]),
        targets=("small", "large"),
        correct=np.array(CORRECT),
        output_tokens=np.array([[5, nan], [nan, 7.5], [9, nan]]),
    )
    assert_same(labels, expected)
    assert labels.complete.tolist() == [True, False, False]
    assert (labels.n_queries, labels.n_targets) == (3, 2)


def test_wide_table_with_typed_cells(tmp_path):
    cells = [("One?", "a", True, 0), ("Two?", "b", None, 1.0), ("Three?", "b", "0")]
    names = ["query_id", "question", "benchmark", "small", "large"]
    rows = [dict(zip(names, (i, *row), strict=False)) for i, row in enumerate(cells, 1)]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(rows))
    labels = load_labels(path)
    assert labels.query_id.tolist() == ["1", "2", "3"]
    assert labels.targets == ("small", "large")
    np.testing.assert_array_equal(labels.correct, CORRECT)


def test_wide_table_reads_only_the_targets_named(tmp_path):
    rows = [("q1", "One?", "a", "1", "0", "easy"), ("q2", "Two?", "b", "", "1", "hard")]
    path = save(tmp_path, rows, ["query_id", "question", "benchmark", "small", "large", "level"])
    labels = load_labels(path, targets=["large", "small"])
    assert labels.targets == ("large", "small")
    np.testing.assert_array_equal(labels.correct, [[0, 1], [1, nan]])
    with pytest.raises(InputError, match=r"row 1 .*model 'level'.*'easy'"):
        load_labels(path)
    for name, hint in (("smal", "Did you mean 'small'"), ("other", "Known: large, level, small")):
        with pytest.raises(InputError, match=rf"target '{name}' is unknown. {hint}.?$"):
            load_labels(path, targets=[name, "large"])


WIDE = pd.DataFrame(
    [("q1", "One?", "a", 1, 0), ("q2", "Two?", "b", 0, 1)],
    columns=["query_id", "question", "benchmark", "small", "large"],
)


@pytest.mark.parametrize("name", ["Unnamed: 0", "index", "level_0", "row_id", "#", "", "reference"])
def test_what_is_no_target_by_its_name_is_refused_in_a_wide_table_alone(name):
    table = WIDE.assign(**{name: [0, 1]})
    with pytest.raises(InputError, match=f"column '{name}' would be a target.*targets=A,B"):
        load_labels(table)
    assert load_labels(table, ["small", "large"]).targets == ("small", "large")
    assert load_labels(pd.DataFrame(NAMED).assign(**{name: 1})).targets == ("small", "large")


def test_every_fault_is_told_by_column_and_target():
    faults = WIDE.assign(small=["yes", "no"], large=["50%", "1"], benchmark=["", "b"])
    with pytest.raises(InputError) as caught:
        load_labels(faults)
    told = str(caught.value).split("\n")
    expected = (
        "benchmark is '' (the first of 2)",
        "is 'yes' (the first of 2)",
        "'large'): is_corr",
    )
    assert len(told) == 3 and all(e in t for e, t in zip(expected, told, strict=True))
    assert "'50%'; it must be 0 or 1" in told[2] and "of a long table model and" in told[2]


@pytest.mark.parametrize("ids", [[1, 1.0], ["7", "007"], ["7", 7.0], ["a b", "A\u00a0 b"]])
def test_a_query_is_not_taken_for_two_by_the_form_of_its_id(ids):
    rows = [dict(NAMED[i], query_id=str(name)) for i, name in enumerate(ids)]
    with pytest.raises(InputError, match=r"text 'One\?' differ in query_id"):
        load_labels(pd.DataFrame(rows))
    rows[1]["question"] = "Another?"  # names of two queries, then
    assert load_labels(pd.DataFrame(rows)).n_queries == 2


def test_the_summary_is_short_however_many_targets_there_are():
    labels = labels_of(correct=np.array([[1, 0], [1, 1.0]]))
    assert labels.summary == "2 queries, 2 targets: m1 (100.0% right), m2 (50.0% right)"
    many = labels_of(correct=np.ones((2, 3000)))
    assert many.summary.startswith("2 queries, 3,000 targets: m1 (") and len(many.summary) < 700
    with pytest.raises(InputError, match="Known: m1, m10, m100") as caught:
        many.select_targets(["other"])
    assert len(str(caught.value)) < 700


def test_estimators_read_finite_numbers_alone():
    X, Y = np.ones((3, 2)), np.ones((3, 1))
    X[2, 1] = nan
    for broken in (X, X.astype(np.float32), X[:, 1]):
        with pytest.raises(InputError, match="no finite number in row 2"):
            label_matrix(Y, broken)
    for fine in (X[:2], ["a", "b"], np.array(["a", "b"]), np.array([1, 2])):
        assert label_matrix(Y[:2], fine).shape == (2, 1)


def test_toolkit_table(tmp_path):
    rows = [row[1:2] + row[3:] for row in LONG]
    rows.append((" One?\n", "large", "False", "3"))  # the same question, spaced differently
    path = save(tmp_path, rows, ["question", "model", "isCorrect", "output_tokens"])
    labels = load_labels(path)
    assert labels.question.tolist() == ["One?", "Two?", "Three?"]
    assert len(set(labels.query_id)) == 3
    assert set(labels.benchmark) == {"all"}
    np.testing.assert_array_equal(labels.correct, CORRECT)
    assert labels.output_tokens[0].tolist() == [5, 3]
    shuffled = load_labels(save(tmp_path, rows[::-1], path.read_text().split("\n")[0].split(",")))
    assert set(shuffled.query_id) == set(labels.query_id)


def test_spellings_of_right_and_of_never_asked_and_equal_duplicates(tmp_path):
    rows = [*LONG, ("q3", "Three? ", "b", "small", "False", ""), *LONG[:1]]
    assert_same(load_labels(save(tmp_path, rows)), load_labels(save(tmp_path, LONG)))
    for spelling in ("1", "1.0", "True", "true", " 1 ", "TRUE"):
        labels = load_labels(save(tmp_path, changed(2, is_correct=spelling)))
        assert labels.correct[0, 1] == 1, spelling
    for spelling in ("", "nan", "None", "NA"):
        labels = load_labels(save(tmp_path, changed(1, is_correct=spelling)))
        assert np.isnan(labels.correct[0, 0]), spelling


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(3, is_correct="2"), r"row 3 .*'q2'.*'large'.*is_correct is '2'.* 0 or 1"),
        (changed(1, output_tokens="-5"), "row 1 .*output_tokens is '-5'"),
        (changed(1, output_tokens="inf"), "row 1 "),
        (changed(5, question=" "), "row 5 .*'q3'.*question is ' '; it must be filled in"),
        (
            changed(2, question="one?"),
            r"'q1' differ in text, 'One\?' \(row 1\) and 'one\?' \(row 2",
        ),
        (changed(2, benchmark="b"), r"'q1' differ in benchmark, .* and 'b' \(row 2\)"),
        ([*LONG, (*LONG[4][:4], "1", "")], r"'small' differ in is_correct, 0.0 .* 1.0 \(row 6\)"),
        ([*LONG, (*LONG[4][:5], "8")], r"'small' differ in output_tokens, 9.0 .* 8.0 \(row 6\)"),
        (renamed("question", "qestion"), "no column 'question', .*Did you mean 'qestion'"),
        (renamed("is_correct", "is_corect"), "no column 'is_correct', which a long .*'is_corect'"),
        (renamed("model", "Model"), "no column 'model', which a long label table .*mean 'Model'"),
        (renamed("model", "model_name"), "no column 'model', which a long .*mean 'model_name'"),
        (renamed("is_correct", "IsCorrect"), "'is_correct', which a long .*mean 'IsCorrect'"),
        (renamed("model", "LLM"), "no column 'model', which a long label table .*Known: LLM"),
        (changed(2, model="SMALL "), r"'small' differ in model, 'small' \(row 1\) and 'SMALL '"),
        (changed(3, benchmark="B"), r"'b' differ in benchmark, 'B' \(row 3\) and 'b' \(row 4\)"),
        (changed(2, query_id="Q1"), r"'q1', text 'One\?' differ in query_id, 'q1' .* 'Q1' \(row 2"),
        (changed(3, question="nan"), "row 3 .*'q2'.*question is 'nan'; it must be filled in"),
        ([DEV], r"row 1 .*split is 'dev'.*train, validation, test"),
        (LONG[4:], "give 2 targets at least, not 1"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    with pytest.raises(InputError, match=message) as caught:
        load_labels(save(tmp_path, rows))
    assert "labels.csv" in str(caught.value)


def test_choice_of_targets(tmp_path):
    labels = load_labels(save(tmp_path, LONG), targets=["large", "small"])
    np.testing.assert_array_equal(labels.correct, np.array(CORRECT)[:, ::-1])
    np.testing.assert_array_equal(labels.output_tokens[0], [nan, 5])
    for names, message in (
        (["small", "lagre"], r"'lagre'.*Did you mean 'large'"),
        (["small", "small"], "named twice"),
        (["small"], "2 targets at least"),
    ):
        with pytest.raises(InputError, match=message):
            labels.select_targets(names)


def test_accuracy_is_of_labelled_queries():
    correct = np.array([[1, nan, 0, nan], [1, 0, 1, nan], [1, 0, 0, nan], [1, 0, 1, nan]])
    labels = labels_of(targets=("right", "wrong", "mixed", "never"), correct=correct)
    np.testing.assert_array_equal(labels.accuracy, [1, 0, 0.5, nan])


def test_groups_join_equal_texts_and_the_group_column():
    texts = ["Caf\u00e9  au\nlait", "Cafe\u0301 au lait", "CAF\u00c9 au lait", "Four", "Five"]
    columns = {"query_id": range(5), "question": texts, "benchmark": "a", "m": 1, "n": 1}
    table = pd.DataFrame(columns | {"group": ["x", "y", "z", "y", ""]})
    assert load_labels(table).group.tolist() == [0, 0, 1, 0, 2]
    assert load_labels(table.drop(columns="group")).group.tolist() == [0, 0, 1, 2, 3]
    again = pd.concat([table, table.assign(group="other")])
    with pytest.raises(InputError, match="differ in group"):
        load_labels(again)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*map(st.sampled_from, ["abcde", ["", *"abc"]])), min_size=1))
def test_connected_groups_against_merging_pairs(rows):
    expected = list(range(len(rows)))
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if any(a and a == b for a, b in zip(one, other, strict=True)):
                merged = {expected[i], expected[j]}
                expected = [min(merged) if number in merged else number for number in expected]
    group = connected_groups(*(pd.Series(column) for column in zip(*rows, strict=True)))
    assert group.tolist() == pd.factorize(np.array(expected))[0].tolist()


def synthetic(n, seed=0, group_size=1, split=False):
    rng = np.random.default_rng(seed)
    correct = rng.integers(0, 2, (n, 3)).astype(float)
    correct[rng.random((n, 3)) < 0.2] = nan
    tokens = rng.integers(1, 99, (n, 3)).astype(float)
    tokens[rng.random((n, 3)) < 0.2] = nan
    return labels_of(
        question=np.array([f'"{i}",\r\n \t?' for i in range(n)], dtype=object),
        benchmark=np.array(["x", "yy", "zzz"])[rng.integers(0, 3, n)],
        correct=correct,
        output_tokens=tokens,
        cost_usd=np.where(np.isnan(tokens), rng.random((n, 3)) / 3e6, nan),
        group=np.arange(n) // group_size,
        split=np.resize(["train", "validation", "test"], n) if split else None,
    )


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz", "labels.parquet"])
@pytest.mark.parametrize("split", [False, True])
def test_write_and_load_round_trip(tmp_path, name, split):
    labels = synthetic(20, group_size=1 if split else 2, split=split)
    write_labels(labels, tmp_path / name)
    loaded = load_labels(tmp_path / name)
    assert_same(loaded, labels)
    assert loaded.fingerprint == labels.fingerprint


def test_fingerprint_tells_every_field_and_not_the_storage():
    labels = synthetic(12, split=True)
    short = labels.take(labels.benchmark == "x")
    retyped = replace(short, benchmark=short.benchmark.astype("U99"))
    assert retyped.fingerprint == short.fingerprint
    arrays = {name: v for name, v in vars(labels).items() if isinstance(v, np.ndarray)}
    variants = [{"targets": ("m1", "m2", "m4")}, {"split": None}]
    variants += [{name: array[::-1].copy()} for name, array in arrays.items()]
    prints = {replace(labels, **variant).fingerprint for variant in variants}
    assert len({labels.fingerprint, *prints}) == 1 + len(variants) == 11


def test_subsample_is_exact_stratified_seeded_and_in_order(tmp_path):
    labels, path = synthetic(300), tmp_path / "labels.csv"
    write_labels(labels, path)
    sample = load_labels(path, n_queries=100)
    assert sample.n_queries == 100
    numbers = [int(name[1:]) for name in sample.query_id]
    assert numbers == sorted(numbers)
    for benchmark in ("x", "yy", "zzz"):
        share = (labels.benchmark == benchmark).mean()
        assert abs((sample.benchmark == benchmark).sum() - 100 * share) <= 2
    same, other = (load_labels(path, n_queries=100, seed=seed).fingerprint for seed in (0, 1))
    assert same == sample.fingerprint != other
    assert {load_labels(path, n_queries=n).n_queries for n in (0, 300, 999)} == {300}
    write_labels(synthetic(60, group_size=4), path)
    sample = load_labels(path, n_queries=21)
    assert abs(sample.n_queries - 21) < 4
    assert set(np.unique(sample.group, return_counts=True)[1]) == {4}  # groups stay whole
    for n in (-1, 1):
        with pytest.raises(InputError, match=f"n_queries is {n}"):
            load_labels(path, n_queries=n)


def test_a_target_without_any_label_is_named():
    table = pd.DataFrame([["q1", "x", "m", 1, 0, ""], ["q2", "y", "m", 0, 1, ""]])
    table.columns = [*COLUMNS[:3], "a", "b", "c"]
    with pytest.raises(InputError, match=r"target 'c' has no label .*targets="):
        load_labels(table)
    assert load_labels(table, ["a", "b"]).targets == ("a", "b")
