import ast
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from prefill_router import storage
from prefill_router.storage import STAGES, Store, locked, read_json, versions

FOUNDATIONS = {"errors", "progress", "storage", "validation"}
LAST = ["book", "run", "cli"]


def write_one(directory):
    (directory / "x.txt").write_text("1")


def test_an_artifact_is_made_once_and_found_again(tmp_path):
    store, made = Store(tmp_path), []

    def build(directory):
        made.append(directory)
        write_one(directory)

    one, two = (store.get("thing", {"a": 1}, build, stage="labels") for _ in range(2))
    assert one == two
    assert one == store.path("thing", read_json(one / "manifest.json")["key"])
    assert len(made) == 1
    assert store.get("thing", {"a": 2}, build, stage="labels") != one


def make_slowly(root, began, go_on):
    def build(directory):
        began.set()
        assert go_on.wait(30)
        write_one(directory)

    Store(root).get("thing", {}, build, stage="labels")


def test_what_another_process_makes_is_waited_for_and_not_made_twice(tmp_path):
    context = multiprocessing.get_context("fork")
    began, go_on = context.Event(), context.Event()
    other = context.Process(target=make_slowly, args=(tmp_path, began, go_on))
    other.start()
    assert began.wait(30)
    threading.Timer(0.3, go_on.set).start()
    made = []
    Store(tmp_path).get("thing", {}, made.append, stage="labels")
    other.join()
    assert not made and other.exitcode == 0


def hold(path, held, wanted_by):
    with locked(path):
        held.set()
        wanted_by.wait()
        os.kill(os.getpid(), signal.SIGKILL)  # and so never tidies up


@pytest.mark.parametrize("watched", [True, False])
def test_who_waits_is_told_so_and_who_was_killed_holds_nothing(
    tmp_path, capsys, monkeypatch, watched
):
    context, path = multiprocessing.get_context("fork"), tmp_path / "a"
    held, wanted = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, held, wanted))
    other.start()
    assert held.wait(30)
    threading.Timer(0.3, wanted.set).start()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    with locked(path):
        other.join()
    said = f"Another process is making {path}; waiting until it is done.\n"
    assert capsys.readouterr().err == said * watched
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    assert capsys.readouterr().err == ""


def test_versions_of_a_stage_earlier_ones_and_libraries_key_its_artifacts(tmp_path, monkeypatch):
    def made():
        return Store(tmp_path).get("thing", {}, write_one, stage="probes")

    found = [made()]
    for raised in ("labels", "probes", "features"):
        monkeypatch.setitem(STAGES, raised, STAGES[raised] + 1)
        found.append(made())
    assert len({*found[:3]}) == 3 and found[3] == found[2]  # features come after probes
    monkeypatch.setattr(storage, "library_versions", lambda: {"torch": "0.0.1"})
    assert versions("metrics") == {"metrics": STAGES["metrics"], "torch": "0.0.1"}
    assert made() not in found


def imported(source):
    """Return the parts of the package that a source text's import statements name."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "prefill_router" and len(part) > 1}


def test_a_stage_imports_only_earlier_stages():
    package, order = Path(storage.__file__).parent, [*STAGES, *LAST]
    for path in package.rglob("*.py"):
        own = path.relative_to(package).with_suffix("").parts[0]
        if own == "__init__":
            continue
        assert own in {*FOUNDATIONS, *order}, path
        allowed = set() if own in FOUNDATIONS else set(order[: order.index(own) + 1])
        assert imported(path.read_text()) <= FOUNDATIONS | {"__version__"} | allowed, path
