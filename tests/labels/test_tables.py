import gzip
import json

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from prefill_router.errors import InputError
from prefill_router.labels.tables import read_table, write_table

RECORDS = [
    {"question": 'Say "NA",\nthen stop', "model": "None", "is_correct": "1"},
    {"question": "  ünïcode 数  ", "model": "nan", "is_correct": ""},
]


CSV = pd.DataFrame(RECORDS).to_csv(index=False).encode()


def written(directory, name, content):
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_format_gives_the_same_text_cells(tmp_path):
    pd.DataFrame(RECORDS).to_parquet(tmp_path / "t.parquet")
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    repository = tmp_path / "repository"
    repository.mkdir()
    written(repository, "train.jsonl", "\n".join(map(json.dumps, RECORDS)))
    sources = [
        written(tmp_path, "t.csv", CSV),
        written(tmp_path, "bom.csv", b"\xef\xbb\xbf" + CSV),
        written(tmp_path, "t.CSV.gz", gzip.compress(CSV)),
        written(tmp_path, "t.json", json.dumps(RECORDS)),
        written(tmp_path, "lines.json", "\r\n".join(map(json.dumps, RECORDS))),
        written(tmp_path, "t.jsonl", "\n".join(map(json.dumps, RECORDS)) + "\n\n"),
        written(tmp_path, "list.jsonl", json.dumps(RECORDS, indent=1)),
        tmp_path / "t.parquet",
        tmp_path / "saved",
        f"hub:{repository}",
        f"hub:{repository}:train",
    ]
    for source in sources:
        read = read_table(source)
        assert read.to_dict("records") == RECORDS, source


def test_a_missing_cell_makes_no_floats_of_a_column_of_integers(tmp_path):
    large = 2**60 + 1  # more than a float holds
    columns = {"whole": pa.array([17, None, large]), "real": pa.array([17.0, None, 0.5])}
    table = pa.table(columns)
    parquet.write_table(table, tmp_path / "t.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "t.parquet", tmp_path / "saved"):
        read = read_table(source)
        assert read["whole"].tolist() == ["17", "", str(large)]
        assert read["real"].tolist() == ["17.0", "", "0.5"]
    train, test = (datasets.Dataset.from_list([row]) for row in ({"a": 17, "b": 1}, {"b": 2}))
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "joined")
    joined = read_table(tmp_path / "joined")
    assert joined["a"].tolist() == ["17", ""]
    assert joined["split"].tolist() == ["train", "test"]


def test_an_index_with_a_name_is_a_column_and_what_has_none_is_left_out(tmp_path):
    table = pd.DataFrame(RECORDS, index=[3, 5])
    table.to_csv(tmp_path / "t.csv")
    table.to_parquet(tmp_path / "t.parquet")
    trailing = written(tmp_path, "trailing.csv", "a,b,,\n1,2,,\n")  # as spreadsheets leave it
    assert read_table(trailing).to_dict("list") == {"a": ["1"], "b": ["2"]}
    for name in ("t.csv", "t.parquet"):
        assert list(read_table(tmp_path / name)) == [*table]
    named = table.rename_axis("query_id")
    named.to_parquet(tmp_path / "named.parquet")
    for source in (named, tmp_path / "named.parquet"):
        assert read_table(source)["query_id"].tolist() == ["3", "5"]
    both = table.set_index(["question", "model"])
    assert {*read_table(both)} == {*read_table(both.reset_index())}
    assert list(read_table(table.set_index("question", drop=False))) == [*table]


MESSAGES = [{"role": "user", "content": "What is 1 + 1?"}]


@pytest.mark.parametrize("question", [MESSAGES, MESSAGES[0], b"What?", ("a", "b")])
@pytest.mark.parametrize("column", ["question", "query_id", "reference"])
def test_what_is_no_text_is_named_by_row_and_type_in_every_format(tmp_path, question, column):
    table = pd.DataFrame({column: ["plain", question], "other": [1, question]})
    frame = pd.DataFrame({column: [question, question]})
    frame.to_parquet(tmp_path / "t.parquet")
    datasets.Dataset.from_pandas(frame).save_to_disk(tmp_path / "saved")
    sources = [table, tmp_path / "t.parquet", tmp_path / "saved"]
    if not isinstance(question, bytes):
        sources += [
            written(tmp_path, "t.json", json.dumps([{column: question}])),
            written(tmp_path, "t.jsonl", json.dumps({column: question})),
        ]
    if question is MESSAGES or isinstance(question, bytes):  # as text in a cell
        frame.to_csv(tmp_path / "t.csv", index=False)
        sources.append(tmp_path / "t.csv")
    for source in sources:
        row = 2 if source is table else 1
        with pytest.raises(InputError, match=rf"row {row}: {column} is .*\((\w+)\); give plain"):
            read_table(source)
    nested = pd.DataFrame({column: ["plain"], "other": [question]})  # which nobody reads
    assert read_table(nested)[column].tolist() == ["plain"]


@pytest.mark.parametrize("text", ["b'", "[1, 2]", '{"role": "x"} as YAML?', "Is b'a' bytes?"])
def test_questions_about_code_are_text(text):
    assert read_table(pd.DataFrame({"question": [text]}))["question"].tolist() == [text]


def test_dictionary_columns_and_nested_ones_are_read(tmp_path):
    coded = pa.array(["a", None, "a"]).dictionary_encode()
    nested = pa.array([{"x": 1}, None, {"x": 2}])
    parquet.write_table(pa.table({"coded": coded, "nested": nested}), tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read["coded"].tolist() == ["a", "", "a"] and read["nested"][2] == ""
    assert read_table(pd.DataFrame({"c": pd.Categorical(["a", None])}))["c"].tolist() == ["a", ""]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_write_table_round_trip_and_same_bytes(tmp_path, name):
    (tmp_path / "again").mkdir()
    for path in (tmp_path / name, tmp_path / "again" / name):
        write_table(pd.DataFrame(RECORDS), path)
        assert read_table(path).to_dict("records") == RECORDS
    assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with pytest.raises(InputError, match=r"end in \.csv, \.csv\.gz, \.parquet\."):
        write_table(pd.DataFrame(RECORDS), tmp_path / "t.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", CSV, "cannot be read as .parquet.*another format"),
        ("t.csv.gz", CSV, "Not a gzipped file"),
        ("t.csv", gzip.compress(CSV, mtime=0), "not saved as UTF-8"),
        ("t.json", CSV, "cannot be read as .json"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("t.xlsx", CSV, "must end in"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read.*row 2 has 3 cells, but the header 2"),
        ("t.csv", b"a,b,c\n1,2,3\n4,5\n", "row 2 has 2 cells, but the header 3"),
        ("t.csv", b"# of May\na,b\n1,2\n", "first line begins with # or sep="),
        ("t.csv", b"sep=,\r\na,b\r\n1,2\r\n", "first line begins with # or sep=.*remove it"),
        ("t.csv", b'"sep=;"\na;b\n1;2\n', "first line begins with # or sep="),
        ("t.csv", CSV.decode().encode("utf-16"), "not saved as UTF-8"),
        ("t.json", pd.DataFrame(RECORDS).to_json().encode(), "orient='records'"),
        ("t.csv", b"query_id;model\nq1;a\n", "header has no comma, but ';'; save it with commas"),
        ("t.csv", b'a,b\n1,"2\n', "cannot be read"),
        ("t.csv", b"a,a\n1,2\n", "two columns named 'a'"),
        ("t.csv", "a,b\n1,2\n3,é\n".encode("latin-1"), "not saved as UTF-8.*0xe9 in position 10"),
        ("t.csv.gz", gzip.compress(CSV * 99, mtime=0)[:60], "cannot be read"),
        ("t.json", b'{"a": 1}', "expected objects"),
        ("t.jsonl", b'{"a": 1}\n{"a" 2}\n{"a": 3}', "line 2"),
        ("t.json", b'[{"a": 1, "b": 2, "a": 0}]', "names a field twice: a, b, a"),
        ("t.json", rb'[{"a": "\ud800"}]', "surrogates not allowed"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert name in str(caught.value)


def test_a_table_in_memory_is_read_like_a_file_and_left_alone(tmp_path):
    table = pd.DataFrame({" a ": [1, 2], "b": [0.0, float("nan")], "c": [True, None]})
    before, text = table.copy(), {"a": ["1", "2"], "b": ["0.0", ""], "c": ["True", ""]}
    assert read_table(table).to_dict("list") == text
    path = written(tmp_path, "t.json", '[{"a": 1, "b": 0.0, "c": true}, {"a": 2}]')
    assert read_table(path).to_dict("list") == text
    path = written(tmp_path, "t.csv", "a,b,c\n1,0.0,True\n2,,\n")  # empty cells are no short row
    assert read_table(path).to_dict("list") == text
    pd.testing.assert_frame_equal(table, before)
    with pytest.raises(InputError, match="the table holds no rows"):
        read_table(pd.DataFrame({"a": []}))
    with pytest.raises(InputError, match=r"path or a pandas\.DataFrame, not list"):
        read_table(table.to_dict("records"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/absent", r"no such file.*hub:OWNER/NAME"),
        ("absent.csv", r"^/.*absent\.csv: no such file or directory"),
        ("{here}", "save_to_disk"),
        ("hub:{here}", "save_to_disk"),
    ],
)
def test_nothing_there(tmp_path, source, message):
    with pytest.raises(InputError, match=message):
        read_table(source.format(here=tmp_path))
