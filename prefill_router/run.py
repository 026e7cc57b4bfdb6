"""The chain: every notebook in order, by papermill, into one run directory."""

from __future__ import annotations

import base64
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

from prefill_router import __version__
from prefill_router.book import HEADLINE_NOTEBOOK, headline
from prefill_router.config import validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import VERSION
from prefill_router.experiments.expectations import EXPECTED, accept
from prefill_router.experiments.inputs import check_inputs
from prefill_router.experiments.published import PUBLISHED
from prefill_router.experiments.study import Study
from prefill_router.progress import note, track
from prefill_router.project import project_root
from prefill_router.storage import (
    STAGES,
    atomic_write,
    file_hash,
    fingerprint,
    library_versions,
    read_json,
    versions,
    write_json,
)

KINDS_READ = ("parquet", "csv", "j2")
"""Kinds of the package's own files that notebooks read."""
INJECTED = "injected-parameters"
"""Papermill's tag of the cell that it adds."""


def notebooks() -> list[Path]:
    """Return the project's notebooks in the order of the method."""
    return sorted((project_root() / "notebooks").glob("[0-9]*.ipynb"))


def run_experiment(
    values: Mapping[str, Any],
    name: str,
    source: str = "parameters",
    origins: Mapping[str, str] | None = None,
) -> Path:
    """Run every notebook, in order; those that ran already with the same inputs are kept.

    Parameters
    ----------
    values : mapping
        Parameters that differ from their defaults.
    name : str
        The run's directory, below ``runs/``, unless `values` names a `run_dir`.
    source, origins
        Where `values` come from, for error messages; as for `validate`.

    Returns
    -------
    pathlib.Path
        The run directory: ``notebooks/`` (executed), ``metrics.json``, ``parameters.json``,
        ``manifest.json`` and ``artifacts/``.

    Raises
    ------
    InputError
        If a parameter is wrong, the directory holds another run, or a notebook fails; what was
        computed until then stays, and a rerun goes on from there.
    """
    parameters = validate({"run_dir": f"runs/{name}", **values}, source, origins)
    prepare_kernels()
    study = Study(parameters)
    given, inputs = parameters.model_dump(mode="json"), check_inputs(study)
    state = {
        "parameters": given,
        "inputs": inputs,
        "committed": _committed(),
        "versions": versions("experiments"),
        "notebooks": [],
    }
    study.claim()
    for notebook in track(notebooks(), f"running {study.run_dir.name}"):
        state["notebooks"].append(file_hash(notebook))
        note(_execute(notebook, study.run_dir, given, fingerprint(state)))
    write_json(study.run_dir / "metrics.json", _all_metrics(study.run_dir))
    write_json(study.run_dir / "manifest.json", _manifest(study, inputs))
    return study.run_dir


def prepare_kernels() -> None:
    """Let kernels find this package wherever it lies, ask for no widgets, and share the cores."""
    search_path = [str(project_root()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, search_path)))
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    # NumPy, SciPy and PyTorch bring threads of their own, which wait for each other in vain.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _committed() -> list[str]:
    """Return hashes of what notebooks read that neither parameters nor code stand for.

    That is what was found before, and the package's own tables and templates.
    """
    root, package = project_root(), Path(__file__).parent
    paths = [root / EXPECTED, *sorted((root / PUBLISHED).glob("*/*.json"))]
    paths += sorted(p for kind in KINDS_READ for p in package.rglob(f"*.{kind}"))
    return [file_hash(path) for path in paths if path.exists()]


def _all_metrics(run_dir: Path) -> dict[str, Any]:
    """Join what the notebooks recorded; each row names its notebook, for chapters overlap."""
    paths = sorted(run_dir.glob("metrics/*.json"))
    rows = [{"notebook": p.stem, **row} for p in paths for row in read_json(p)["rows"]]
    return {"version": VERSION, "rows": rows}


def _execute(notebook: Path, run_dir: Path, given: dict, state: str) -> str:
    """Execute one notebook unless its result of the same state is there; say which it was."""
    out = run_dir / "notebooks" / notebook.name
    done, recorded = out.with_suffix(".json"), run_dir / "metrics" / f"{notebook.stem}.json"

    def kept() -> list[str | None]:
        return [state, file_hash(recorded) if recorded.exists() else None]

    if out.exists() and done.exists() and read_json(done)["state"] == kept():
        return f"{notebook.stem}: kept"
    out.parent.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        papermill.execute_notebook(
            notebook, out, parameters=given, kernel_name="python3", cwd=notebook.parent,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # kernels talk of their sockets
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise InputError(
            f"{notebook.name} failed: {error.ename}: {error.evalue} (cell {error.exec_count}; see "
            f"{out}). Mend the cause and run again: what was computed is kept."
        ) from None
    except DeadKernelError:
        raise InputError(
            f"{notebook.name}: its kernel died, most often for want of memory. Run again, with "
            "fewer queries (n_queries) or layers if it dies again: what was computed is kept."
        ) from None
    clean(out)
    seconds = round(time.monotonic() - start, 1)
    write_json(done, {"state": kept(), "seconds": seconds})
    return f"{notebook.stem}: {seconds:.0f} s"


def clean(path: Path) -> None:
    """Take out of an executed notebook what differs from run to run or from machine to machine."""
    book = nbformat.read(path, as_version=4)
    book.metadata = {key: book.metadata[key] for key in ("kernelspec",) if key in book.metadata}
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if INJECTED in cell.metadata.get("tags", []):
            cell.metadata["tags"] = [INJECTED, "hide-input"]
            cell.id = INJECTED  # papermill's is drawn at random
    nbformat.write(book, path)


def _manifest(study: Study, inputs: dict[str, Any]) -> dict[str, Any]:
    artifacts = sorted(path.name for path in study.store.root.glob("*-*") if path.is_dir())
    outputs = [study.run_dir / "notebooks" / path.name for path in notebooks()]
    return {
        "parameters": study.parameters.model_dump(mode="json"),
        "code": {"version": __version__, "stages": STAGES},
        "versions": {"python": platform.python_version(), **library_versions()},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        **inputs,
        "artifacts": artifacts,
        "notebooks": {path.name: file_hash(path) for path in outputs},
        "metrics": file_hash(study.run_dir / "metrics.json"),
        "seconds": {path.stem: read_json(path.with_suffix(".json"))["seconds"] for path in outputs},
    }


def refresh_notebooks() -> list[Path]:
    """Run the chain on the defaults, and make its notebooks, numbers and figure the committed ones.

    Returns
    -------
    list of pathlib.Path
        The files written: notebooks, expectations, and the figure that README and book show.
    """
    expected = accept(Study(validate({"run_dir": str(run_experiment({}, "refresh"))})))
    run_dir = run_experiment({}, "refresh")  # again, with the verdicts; artifacts are found
    for notebook in notebooks():
        book = nbformat.read(run_dir / "notebooks" / notebook.name, as_version=4)
        without_injected(book)
        with atomic_write(notebook) as temporary:
            nbformat.write(book, temporary)
    figure = project_root() / "book" / "_static" / "headline.png"
    with atomic_write(figure) as temporary:
        values = headline(project_root() / HEADLINE_NOTEBOOK)
        temporary.write_bytes(base64.b64decode(values["headline_figure"]))
    return [*notebooks(), expected, figure]


def without_injected(book: nbformat.NotebookNode) -> None:
    """Drop papermill's cell, and count code cells as if the others alone had been executed."""
    book.cells = [c for c in book.cells if INJECTED not in c.metadata.get("tags", [])]
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
