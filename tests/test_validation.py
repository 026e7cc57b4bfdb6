import pytest

from prefill_router.errors import InputError
from prefill_router.validation import Settings, checked, plain_yaml, read_mapping


def test_a_mapping_is_read_as_written(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nseed: 3\ntargets: [a, b]\nprices: ''\n")
    assert read_mapping(path) == {"seed": 3, "targets": ["a", "b"], "prices": ""}
    path.write_text("# nothing but this\n")
    assert read_mapping(path) == {}
    with pytest.raises(InputError, match=r"gone.yaml: no such file"):
        read_mapping(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("labels: !!python/object/apply:os.system ['touch built']", "not plain YAML"),
        ("run_dir: 2024-99-99", "not plain YAML"),
        ("{a: 1}: 2", "not plain YAML"),
        ("just text", "must be a mapping"),
        (b"\xff\xfe\x00", "not plain YAML"),
        ("[" * 5000, "not plain YAML"),
        ("tau: 0.1\nseed: 1\ntau: 0.9", "'tau' stands there twice.* in line 3"),
    ],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path, monkeypatch, text, complaint):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"mine.yaml .*{complaint}"):
        read_mapping(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.yaml"]


def test_what_is_wrong_is_said_by_its_place_and_not_repeated():
    for text in ("key: sk-SECRET: x", "targets: [{key: sk-SECRET, }}]", "a: 1\n key: sk-SECRET"):
        with pytest.raises(InputError, match=r"-p x is not plain YAML: .* in line \d, ") as error:
            plain_yaml(text, "-p x")
        assert "SECRET" not in str(error.value)


class Mine(Settings):
    price: float = 0.0
    name: str = ""
    loud: bool = False


def test_a_truth_value_is_neither_money_nor_a_name_and_no_number_is_infinite():
    assert checked(Mine, {"loud": True, "price": 1}, "mine").loud
    for name, value, said in (
        ("price", True, "yes, no, true and false"), ("name", False, "yes, no, true and false"),
        ("price", float("inf"), "finite number"), ("price", float("nan"), "finite number"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"mine: {name}: .*{said}"):
            checked(Mine, {name: value}, "mine")
