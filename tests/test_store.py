import shutil
from pathlib import Path

import pytest

from prefill_router import imports, storage
from prefill_router.storage import LIBRARIES, Store, code_fingerprint, read_json


def write_one(directory):
    (directory / "x.txt").write_text("1")


@pytest.fixture
def changed(monkeypatch):
    """Make the package another one, as a change of its code does."""
    return lambda: monkeypatch.setattr(storage, "code_fingerprint", lambda *_: "other code")


def test_an_artifact_is_made_once_and_found_again(tmp_path):
    store, made = Store(tmp_path), []

    def build(directory):
        made.append(directory)
        write_one(directory)

    one, two = store.get("thing", {"a": 1}, build), store.get("thing", {"a": 1}, build)
    assert one == two
    assert one == store.path("thing", read_json(one / "manifest.json")["key"])
    assert len(made) == 1
    assert store.get("thing", {"a": 2}, build) != one


def test_other_code_makes_another_artifact(tmp_path, changed):
    store = Store(tmp_path)
    before = store.get("thing", {"a": 1}, write_one)
    changed()
    after = store.get("thing", {"a": 1}, write_one)
    assert after != before
    assert read_json(after / "manifest.json")["key"]["code"] == "other code"


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_of_a_library_is_other_code(monkeypatch, library):
    before, installed = code_fingerprint("prefill_router.trunk"), storage.version
    assert code_fingerprint.__wrapped__("prefill_router.trunk") == before
    monkeypatch.setattr(
        storage, "version", lambda name: "0.0.1" if name == library else installed(name)
    )
    assert code_fingerprint.__wrapped__("prefill_router.trunk") != before


def test_code_is_a_module_with_all_it_imports_and_nothing_else(monkeypatch, tmp_path):
    package = tmp_path / "prefill_router"
    shutil.copytree(Path(storage.__file__).parent, package, ignore=shutil.ignore_patterns("zoo"))
    monkeypatch.setattr(imports, "__file__", str(package / "imports.py"))
    fingerprinted, modules = code_fingerprint.__wrapped__, ("extraction.reader", "trunk")
    before = [fingerprinted(f"prefill_router.{module}") for module in modules]
    assert before[0] != before[1]
    with open(package / "extraction" / "pooling.py", "a") as stream:
        stream.write("# changed\n")  # `reader` imports it, through others
    assert fingerprinted("prefill_router.extraction.reader") != before[0]
    assert fingerprinted("prefill_router.trunk") == before[1]
