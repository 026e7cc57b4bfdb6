"""What must hold for the files of the repository as a whole, above all for its notebooks."""

import os
import pkgutil
import re
import subprocess
from pathlib import Path

import yaml

from prefill_router.run import notebooks

ROOT = Path(__file__).resolve().parents[1]
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|mnt|private)/\w")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_book_has_exactly_the_notebooks_that_exist():
    contents = yaml.safe_load(read("_toc.yml"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    listed = [chapter for chapter in chapters if chapter.startswith("notebooks/")]
    assert listed == [str(path.relative_to(ROOT).with_suffix("")) for path in notebooks(True)]


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
