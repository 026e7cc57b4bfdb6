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


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def test_the_book_has_exactly_the_notebooks_that_exist():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    listed = [chapter for chapter in chapters if chapter.startswith("notebooks/")]
    assert listed == [f"notebooks/{path.stem}" for path in NOTEBOOKS]
    assert len(NOTEBOOKS) >= 6


def test_notebook_is_valid(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.language == "python"  # how the book colours its code


def test_notebook_was_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


def test_notebook_has_one_cell_of_parameters(notebook):
    cells = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    assert len(cells) == 1
    assert not [cell for cell in code_cells(notebook) if "injected-parameters" in tags(cell)]
    for line in cells[0].source.splitlines():
        assert re.match(r"(#.*|\w+: .+ = .+  # .+)?$", line), f"typed and commented: {line}"


def test_notebook_holds_no_error_and_no_standard_error(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"


def test_notebook_has_an_output_that_is_checked(notebook):
    checked = [
        output
        for cell in code_cells(notebook)
        if not tags(cell) & UNCHECKED
        for output in cell.outputs
        if output.output_type == "stream" or "text/plain" in output.get("data", {})
    ]
    assert checked


def test_what_a_notebook_defines_is_short(notebook):
    """What needs more lines is worth a tested function in the library."""
    for cell in code_cells(notebook):
        source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 25, node.name


def test_notebook_carries_no_traces_of_its_execution(notebook):
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)


def test_figures_of_a_notebook_are_numbered_captioned_and_described(notebook):
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            options = cell.metadata.get("mystnb", {})
            assert options.get("image", {}).get("alt")
            assert options.get("figure", {}).get("caption")
            assert options.get("figure", {}).get("name")


def test_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = set(re.findall(r"^make (\w+)", readme, flags=re.MULTILINE))
    assert wanted == {"book", "test"}
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
        assert re.search(rf"^make {target}$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_links_of_the_readme_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert len(links) > 6
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link


def test_repository_is_named_alike_everywhere():
    files = ["pyproject.toml", "_config.yml", "CITATION.cff", "book/reproduce.md"]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in files]
    found = [set(re.findall(r"https://github\.com/\w[\w-]*/prefill-router", x)) for x in texts]
    assert len(set.union(*found)) == 1
    assert all(found)


def test_no_file_is_large():
    for path in tracked_files():
        if path.suffix != ".safetensors":
            assert path.stat().st_size < 3_000_000, path


def test_no_file_names_a_place_on_somebodys_machine():
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = MACHINE_PATH.search(text)
        assert not found, f"{path}: {found and text[found.start() : found.end() + 40]}"


def test_dotted_names_in_documents_and_docstrings_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "book").glob("*.md")]
    pages += (ROOT / "prefill_router").rglob("*.py")
    names = {
        name
        for page in pages
        for name in re.findall(r"`(prefill_router(?:\.\w+)+)`", page.read_text(encoding="utf-8"))
    }
    assert len(names) > 30
    for name in sorted(names):
        assert pkgutil.resolve_name(name) is not None
