"""pyproject.toml, constraints.txt and environment.yml agree, also with what is installed."""

import ast
import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
TESTED = ("gguf", "ray")
"""Extras that the tests need; ``test`` installs them."""
IMPORT_NAMES = {"ipython": "IPython", "pyyaml": "yaml", "scikit-learn": "sklearn"}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = [re.fullmatch(r"([\w.-]+)==(\S+)", x) for x in lines if not x.startswith("#")]
    assert all(matches), "every line pins one version"
    assert len({canonicalize_name(match[1]) for match in matches}) == len(matches)
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches}


def direct() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    return [Requirement(line) for line in lines]


def test_direct_dependencies_are_stated_once_and_pinned_to_public_versions_in_range():
    """The tests need the extras that they test; these must be stated alike."""
    extras = PROJECT["optional-dependencies"]
    tested = [line for name in TESTED for line in extras[name]]
    assert set(tested) < set(extras["test"])
    stated = {str(requirement) for requirement in direct()}
    assert len(stated) == len({canonicalize_name(Requirement(line).name) for line in stated})
    assert len(direct()) == len(stated) + len(tested)
    for requirement in direct():
        assert requirement.specifier, f"{requirement.name} states no range"
        assert pins()[canonicalize_name(requirement.name)] in requirement.specifier
    assert not [name for name, version in pins().items() if version.local]


def test_everything_needed_is_pinned_and_installed_so():
    """Walk the requirements of what is installed; torch's own differ by accelerator."""
    waiting = [(requirement, "") for requirement in direct()]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        assert name in pins(), f"{name} is needed but not pinned"
        for extra in ["", *requirement.extras]:
            if name == "torch" or (name, extra) in seen:
                continue
            seen.add((name, extra))
            installed = importlib.metadata.distribution(name)
            assert Version(installed.version) == pins()[name], name
            waiting += [(Requirement(line), extra) for line in installed.requires or []]


def test_every_import_is_a_stated_dependency():
    of_developers = [Requirement(line) for group in GROUPS.values() for line in group]
    stated = {canonicalize_name(requirement.name) for requirement in [*direct(), *of_developers]}
    importable = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in stated}
    for path in [*ROOT.glob("prefill_router/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
            text = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names}:
                known = name in sys.stdlib_module_names or name == "prefill_router"
                assert known or name in importable, f"{path} imports {name}"


def test_conda_gives_the_same_environment():
    plain = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    assert "pip" in plain
    python = next(entry.partition("=")[2] for entry in plain if entry.startswith("python="))
    assert python in SpecifierSet(PROJECT["requires-python"])
    extras = ",".join(sorted(set(PROJECT["optional-dependencies"]) - {*TESTED}))
    assert pip == ["-c constraints.txt", f"-e .[{extras}]"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"install -c constraints.txt -e '.[{extras}]'" in makefile
