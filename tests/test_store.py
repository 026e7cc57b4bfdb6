import pytest

from prefill_router import storage
from prefill_router.storage import LIBRARIES, Store, code_fingerprint, read_json


def write_one(directory):
    (directory / "x.txt").write_text("1")


@pytest.fixture
def changed(monkeypatch):
    """Make the package another one, as a change of its code does."""
    return lambda: monkeypatch.setattr(storage, "code_fingerprint", lambda: "other code")


def test_an_artifact_is_made_once_and_found_again(tmp_path):
    store, made = Store(tmp_path), []

    def build(directory):
        made.append(directory)
        write_one(directory)

    one, two = store.get("thing", {"a": 1}, build), store.get("thing", {"a": 1}, build)
    assert one == two == store.path("thing", {"a": 1})
    assert len(made) == 1
    assert store.get("thing", {"a": 2}, build) != one


def test_other_code_makes_another_artifact(tmp_path, changed):
    store = Store(tmp_path)
    before = store.get("thing", {"a": 1}, write_one)
    changed()
    after = store.get("thing", {"a": 1}, write_one)
    assert after != before
    assert after == store.path("thing", {"a": 1})
    assert read_json(after / "manifest.json")["key"]["code"] == "other code"


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_of_a_library_is_other_code(monkeypatch, library):
    before, installed = code_fingerprint(), storage.version
    assert code_fingerprint.__wrapped__() == before
    monkeypatch.setattr(
        storage, "version", lambda name: "0.0.1" if name == library else installed(name)
    )
    assert code_fingerprint.__wrapped__() != before
