"""A run's executed notebooks -> its book: HTML pages that need no other server."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml

from prefill_router.config import project_root, validate
from prefill_router.errors import InputError
from prefill_router.progress import note
from prefill_router.storage import file_hash, read_json

HEADLINE_NOTEBOOK = "notebooks/06_cost_aware_routing.ipynb"
APPENDIX = "notebooks/appendix/"
HEADLINE = {
    "headline_sentence": "text/html",
    "headline_table": "text/html",
    "headline_figure": "image/png",
}
"""What the introduction takes from that notebook, and the form it can show it in."""
STAMP = ".buildinfo"
"""What Sphinx leaves in every directory that it builds."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build_book(run_dir: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Render the book of a run from the notebooks that this run executed.

    An appendix that the run did not execute is the committed one where that is of the same study,
    else a page that says so. If the build fails, the pages that were there stay.

    Parameters
    ----------
    run_dir : path-like
        A run's directory; its executed notebooks lie in ``notebooks/``.
    output : path-like, optional
        Where the pages go, ``run_dir/book`` by default. A directory that holds anything but an
        earlier book is refused.

    Returns
    -------
    pathlib.Path
        The book's ``index.html``.

    Raises
    ------
    InputError
        If there is no finished run, a notebook is not the one it made, if the package is not
        installed from a source tree, if `output` is in use, or if the pages do not build without a
        warning; the build's log is then kept as ``run_dir/book.log``.
    """
    run_dir, root = Path(run_dir).resolve(), project_root()
    output = Path(output).resolve() if output else run_dir / "book"
    sources = book_sources(root, run_dir)
    parameters = validate(read_json(run_dir / "manifest.json")["parameters"])
    is_default = parameters.fingerprint == validate({}).fingerprint
    if output.exists() and any(output.iterdir()) and not (output / STAMP).is_file():
        raise InputError(f"{output} holds files that are not a book; delete it or name another.")

    note("rendering the book")
    with tempfile.TemporaryDirectory(prefix="prefill-router-book-") as temporary:
        tree = Path(temporary)
        for name, path in sources.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tree / name)
            if name.startswith(APPENDIX) and path == root / name and not is_default:
                leave_out(tree / name)
        figure = headline(tree / HEADLINE_NOTEBOOK)["headline_figure"]
        (tree / "book/_static/headline.png").write_bytes(base64.b64decode(figure))
        pages = render(tree, root, log=run_dir / "book.log")
        incoming = output.with_name(f".{output.name}.new")
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(pages, incoming)  # on the same disk, so that pages change at once
        shutil.rmtree(output, ignore_errors=True)
        incoming.rename(output)
    return output / "index.html"


def headline_text(run_dir: str | os.PathLike) -> str:
    """Return the sentence that sums a run up, as plain text."""
    sentence = headline(Path(run_dir) / HEADLINE_NOTEBOOK)["headline_sentence"]
    return html.unescape(re.sub(r"<[^>]*>", "", sentence)).strip()


def book_sources(root: Path, run_dir: Path) -> dict[str, Path]:
    """Return every file that the pages are made from, by its path in the book's source tree.

    Raises
    ------
    InputError
        If the run is not finished, or a notebook of the table of contents is not what it made.
    """
    again = "`prefill-router run`, without --chapter, goes on where a run stopped"
    if not (run_dir / "manifest.json").is_file():
        runs = ", ".join(str(path.parent) for path in sorted(root.glob("runs/*/manifest.json")))
        raise InputError(f"{run_dir} holds no finished run; there are {runs or 'none'}. {again}.")
    made = read_json(run_dir / "manifest.json")["notebooks"]
    pages = sorted(path for path in (root / "book").rglob("*") if path.is_file())
    pages += [root / "_config.yml", root / "_toc.yml"]
    sources = {path.relative_to(root).as_posix(): path for path in pages}
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for chapter in (chapter["file"] for part in contents["parts"] for chapter in part["chapters"]):
        name = f"{chapter}.ipynb"
        if chapter.startswith(APPENDIX) and name not in made:
            sources[name] = root / name
        elif chapter.startswith("notebooks/"):
            sources[name] = notebook = run_dir / name
            if not notebook.is_file() or file_hash(notebook) != made.get(name):
                raise InputError(f"{notebook} is missing or not what the run made; {again}.")
    return sources


def leave_out(notebook: Path) -> None:
    """Keep the title and question of an appendix that was not run, and say how to run it."""
    book = nbformat.read(notebook, as_version=4)
    said = "This study did not run the appendix: `prefill-router run FILE --appendix` does."
    book.cells = [book.cells[0], nbformat.v4.new_markdown_cell(said)]
    nbformat.write(book, notebook)


def headline(notebook: Path) -> dict[str, str]:
    """Return what the introduction shows, from the values a notebook glued.

    Raises
    ------
    InputError
        If a value is missing, or is not in the form that another page can show.
    """
    glued = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            if mark := output.get("metadata", {}).get("scrapbook"):
                prefix = len(mark.get("mime_prefix", ""))
                glued[mark["name"]] = {kind[prefix:]: v for kind, v in output["data"].items()}
    for name, kind in HEADLINE.items():
        if kind not in glued.get(name, {}):
            raise InputError(f"{notebook.name} has to glue {name!r} as {kind}.")
    return {name: "".join(glued[name][kind]) for name, kind in HEADLINE.items()}


def render(tree: Path, root: Path, log: Path) -> Path:
    """Build the HTML of a book's source tree, every warning an error, and return its directory."""
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", "-W", "--keep-going", str(tree)]
    search_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": search_path}
    with log.open("wb") as stream:
        process = subprocess.run(command, cwd=tree, env=environment, stdout=stream, stderr=stream)
    if process.returncode:
        lines = COLOUR.sub("", log.read_text(errors="replace")).splitlines()
        faults = [line.strip() for line in lines if "WARNING" in line or "ERROR" in line]
        raise InputError(
            f"The book did not build; the whole log is in {log}. It says: "
            + "".join(faults[:1] or lines[-1:])
        )
    log.unlink()
    return tree / "_build" / "html"
