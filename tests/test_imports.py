import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefill_router import imports
from prefill_router.imports import closure, imported

FOUNDATIONS = {"errors", "imports", "progress", "project", "storage", "validation"}
STAGES = [
    *("labels", "extraction", "answers", "probes", "features", "trunk", "baselines", "policy"),
    *("evaluation", "recipe", "report", "router", "zoo", "loop", "experiments"),
    *("book", "run", "cli"),
]

LOADED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps([name for name in sys.modules if name.split(".")[0] == "prefill_router"]))
"""


@pytest.mark.parametrize("module", ["trunk", "extraction.reader", "experiments.routers"])
def test_every_module_that_python_loads_for_it_is_found(module):
    name = f"prefill_router.{module}"
    command = [sys.executable, "-c", LOADED, name]
    loaded = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = closure([name])
    assert set(loaded) <= set(found)
    assert all(path.is_file() for path in found.values())


def test_what_a_function_imports_counts():
    assert "prefill_router.zoo.labelling" in closure(["prefill_router.experiments.study"])


def test_what_a_stage_does_not_rest_on_is_left_out():
    found = closure(["prefill_router.extraction.reader"])
    assert not {"prefill_router.trunk", "prefill_router.book"} & set(found)


def test_statements_are_read_and_not_text():
    source = """
import numpy.linalg, prefill_router.zoo.cards
from prefill_router import labels as tables, no_such_module
from prefill_router.errors import InputError
from . import beside
text = "import prefill_router.trunk"
"""
    assert imported(source) == [
        "prefill_router",
        "prefill_router.errors",
        "prefill_router.labels",
        "prefill_router.zoo",
        "prefill_router.zoo.cards",
    ]


def test_modules_that_are_not_there_are_nothing():
    assert closure(["prefill_router.no_such", "numpy"]) == {}


def test_a_stage_imports_only_earlier_stages():
    package = Path(imports.__file__).parent
    for path in package.rglob("*.py"):
        own, *_ = path.relative_to(package).with_suffix("").parts
        found = {name.split(".")[1] for name in imported(path.read_text()) if "." in name}
        known = FOUNDATIONS if own in FOUNDATIONS else {*FOUNDATIONS, *STAGES}
        if own in STAGES:
            known -= set(STAGES[STAGES.index(own) + 1 :])
        assert own == "__init__" or own in {*FOUNDATIONS, *STAGES}, path
        assert found <= known, path
