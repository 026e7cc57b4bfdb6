"""What must hold for the files of the repository as a whole, above all for its notebooks."""

import ast
import os
import pkgutil
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
UNCHECKED = {"nbval-ignore-output", "nbval-skip"}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|mnt|private)/\w")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    found.code = [cell for cell in found.cells if cell.cell_type == "code"]
    return found


def test_the_book_has_exactly_the_notebooks_that_exist():
    contents = yaml.safe_load(read("_toc.yml"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    listed = [chapter for chapter in chapters if chapter.startswith("notebooks/")]
    assert listed == [f"notebooks/{path.stem}" for path in NOTEBOOKS]
    assert len(NOTEBOOKS) >= 6


def test_notebook_was_executed_in_order_without_a_trace_or_an_error(notebook):
    assert notebook.metadata.kernelspec.language == "python"  # how the book colours its code
    assert "papermill" not in notebook.metadata
    counts = [cell.execution_count for cell in notebook.code if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    checked = []
    for cell in notebook.code:
        tags = set(cell.metadata.get("tags", []))
        assert not {"papermill", "execution"} & set(cell.metadata)
        assert "injected-parameters" not in tags
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            text = output.output_type == "stream" or "text/plain" in output.get("data", {})
            checked += [output] if text and not tags & UNCHECKED else []
    assert checked
    nbformat.validate({name: part for name, part in notebook.items() if name != "code"})


def test_parameters_of_a_notebook_are_typed_and_commented(notebook):
    [cell] = [c for c in notebook.code if "parameters" in c.metadata.get("tags", [])]
    for line in cell.source.splitlines():
        assert re.match(r"(#.*|\w+: .+ = .+  # .+)?$", line), line


def test_what_a_notebook_defines_is_short(notebook):
    """What needs more lines is worth a tested function in the library."""
    for cell in notebook.code:
        source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 25, node.name


def test_figures_of_a_notebook_are_numbered_captioned_and_described(notebook):
    for cell in notebook.code:
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            options = cell.metadata.mystnb
            assert options.image.alt and options.figure.caption and options.figure.name


def test_commands_and_links_of_the_readme_exist():
    readme, makefile = read("README.md"), read("Makefile")
    wanted = set(re.findall(r"^make (\w+)", readme, flags=re.MULTILINE))
    assert wanted == {"book", "test"}
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
        assert re.search(rf"^make {target}$", read(".ci/run"), flags=re.MULTILINE)
    assert os.access(ROOT / ".ci/run", os.X_OK)
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert len(links) > 6
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link


def test_repository_is_named_alike_everywhere():
    texts = map(read, ["pyproject.toml", "_config.yml", "CITATION.cff", "book/reproduce.md"])
    found = [set(re.findall(r"https://github\.com/\w[\w-]*/prefill-router", x)) for x in texts]
    assert len(set.union(*found)) == 1
    assert all(found)


def test_no_file_is_large_or_names_a_place_on_somebodys_machine():
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for path in (ROOT / name for name in listed if name and (ROOT / name).is_file()):
        assert path.suffix == ".safetensors" or path.stat().st_size < 3_000_000, path
        text = path.read_text(encoding="utf-8", errors="ignore")
        found = "\0" not in text and MACHINE_PATH.search(text)
        assert not found, f"{path}: {found and text[found.start() : found.end() + 40]}"


def test_dotted_names_in_documents_and_docstrings_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "book").glob("*.md")]
    pages += (ROOT / "prefill_router").rglob("*.py")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    names = set(re.findall(r"`(prefill_router(?:\.\w+)+)`", text))
    assert len(names) > 30
    for name in sorted(names):
        assert pkgutil.resolve_name(name) is not None
