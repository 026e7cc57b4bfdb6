import ast
from pathlib import Path

from prefill_router import storage
from prefill_router.storage import STAGES, Store, read_json, versions

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
