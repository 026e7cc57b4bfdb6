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

import yaml

from prefill_router.errors import InputError
from prefill_router.progress import note
from prefill_router.project import project_root
from prefill_router.storage import file_hash, fingerprint

HEADLINE_NOTEBOOK = "notebooks/06_cost_aware_routing.ipynb"
#: What the introduction takes from the last notebook, and the form it can show it in.
HEADLINE = {
    "headline_sentence": "text/html",
    "headline_table": "text/html",
    "headline_figure": "image/png",
}
STAMP = ".sources"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build_book(run_dir: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Render the book of a run from the notebooks that this run executed.

    Committed notebooks are never read. Nothing is done if the pages are already made from the same
    sources; if the build fails, the pages that were there stay.

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
        If there is no run, a notebook is missing, unfinished or failed, if the package is not
        installed from a source tree, if `output` is in use, or if the pages do not build without a
        warning; the build's log is then kept as ``run_dir/book.log``.
    """
    run_dir, root = Path(run_dir).resolve(), project_root()
    output = Path(output).resolve() if output else run_dir / "book"
    if not (run_dir / "notebooks").is_dir():
        runs = ", ".join(str(path.parent) for path in sorted(root.glob("runs/*/notebooks")))
        raise InputError(f"{run_dir} holds no run; there are {runs or f'none in {root}/runs'}.")
    sources = book_sources(root, run_dir)
    code = {path.relative_to(root).as_posix(): path for path in root.glob("prefill_router/**/*.py")}
    key = fingerprint({name: file_hash(path) for name, path in (sources | code).items()})
    stamp = output / STAMP
    if stamp.is_file() and stamp.read_text() == key:
        return output / "index.html"
    if output.exists() and any(output.iterdir()) and not stamp.is_file():
        raise InputError(f"{output} holds files that are not a book; delete it or name another.")

    note("rendering the book")
    with tempfile.TemporaryDirectory(prefix="prefill-router-book-") as temporary:
        tree = Path(temporary)
        for name, path in sources.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tree / name)
        figure = headline(tree / HEADLINE_NOTEBOOK)["headline_figure"]
        (tree / "book/_static/headline.png").write_bytes(base64.b64decode(figure))
        pages = render(tree, root, log=run_dir / "book.log")
        (pages / STAMP).write_text(key)
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
        If a notebook of the table of contents is missing from the run or did not finish.
    """
    pages = [path for path in (root / "book").rglob("*") if path.is_file()]
    pages += [root / "_config.yml", root / "_toc.yml"]
    sources = {path.relative_to(root).as_posix(): path for path in sorted(pages)}
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    for chapter in chapters:
        if chapter.startswith("notebooks/"):
            notebook = run_dir / f"{chapter}.ipynb"
            check_finished(notebook)
            sources[f"{chapter}.ipynb"] = notebook
    return sources


def check_finished(notebook: Path) -> None:
    """Raise `InputError` unless every code cell of a notebook ran without an error."""
    again = f"run the chain again: `prefill-router run` goes on where {notebook.parents[1]} stopped"
    if not notebook.is_file():
        raise InputError(f"{notebook} is missing; {again}.")
    for cell in read_cells(notebook):
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            raise InputError(f"{notebook} stopped with an error; mend its cause and {again}.")
        if "".join(cell["source"]).strip() and cell["execution_count"] is None:
            raise InputError(f"{notebook} did not run to its end; {again}.")


def headline(notebook: Path) -> dict[str, str]:
    """Return what the introduction shows, from the values a notebook glued.

    Raises
    ------
    InputError
        If a value is missing, or is not in the form that another page can show.
    """
    glued = {}
    for cell in read_cells(notebook):
        for output in cell["outputs"]:
            mark = output.get("metadata", {}).get("scrapbook")
            if mark:
                prefix = len(mark.get("mime_prefix", ""))
                glued[mark["name"]] = {kind[prefix:]: v for kind, v in output["data"].items()}
    for name, kind in HEADLINE.items():
        if kind not in glued.get(name, {}):
            raise InputError(f"{notebook.name} has to glue {name!r} as {kind}.")
    return {name: "".join(glued[name][kind]) for name, kind in HEADLINE.items()}


def read_cells(notebook: Path) -> list[dict]:
    """Return a notebook's code cells."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [cell for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{notebook} is not a notebook; delete it and run again.") from None


def render(tree: Path, root: Path, log: Path) -> Path:
    """Build the HTML of a book's source tree, every warning an error, and return its directory."""
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", "-W", "--keep-going", str(tree)]
    search_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    process = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": search_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = COLOUR.sub("", process.stdout).splitlines(keepends=True)
    if process.returncode:
        log.write_text("".join(lines), encoding="utf-8")
        faults = [line.strip() for line in lines if "WARNING" in line or "ERROR" in line]
        raise InputError(
            f"The book did not build; the whole log is in {log}. "
            + ("First fault: " + faults[0] if faults else "Last line: " + "".join(lines[-1:]))
        )
    log.unlink(missing_ok=True)
    return tree / "_build" / "html"
