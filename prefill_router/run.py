"""The chain: every chapter in order, by papermill, into one run directory."""

from __future__ import annotations

import base64
import logging
import os
import platform
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
from joblib import Parallel, delayed

from prefill_router import __version__
from prefill_router.book import HEADLINE_NOTEBOOK, headline
from prefill_router.config import Parameters, project_root
from prefill_router.errors import InputError, check_known
from prefill_router.evaluation.results import VERSION
from prefill_router.experiments.expectations import EXPECTED, accept
from prefill_router.experiments.published import PUBLISHED
from prefill_router.experiments.study import Study
from prefill_router.extraction import check_layers
from prefill_router.extraction.models import device_map
from prefill_router.extraction.prompts import check_max_tokens, config_limit
from prefill_router.extraction.sources import text_config, weights_hash
from prefill_router.labels.costs import expected_costs, query_costs
from prefill_router.progress import note, track
from prefill_router.storage import (
    STAGES,
    file_hash,
    fingerprint,
    library_versions,
    read_json,
    versions,
    write_json,
)

INJECTED = "injected-parameters"
"""Papermill's tag of the cell that it adds."""
AT_ONCE = 2
"""Chapters that run side by side where all is computed on processors."""


def notebooks(appendix: bool = False) -> list[Path]:
    """Return the chapters in the order of the method, the `appendix` after them if it is wanted."""
    folder = project_root() / "notebooks"
    return sorted(folder.glob("*.ipynb")) + sorted(folder.glob("appendix/*.ipynb")) * appendix


def run_experiment(parameters: Parameters, appendix: bool = False, chapter: str = "") -> Path:
    """Run every chapter; those that ran already with the same inputs are kept.

    The main encoder reads all prompts first, where its progress can be watched. Then chapters run
    side by side, begun in their order; what one needs that another is making, it waits for.

    Parameters
    ----------
    parameters : Parameters
        Results go to their `run_dir`.
    appendix : bool, default False
        Whether the appendix runs after the chapters.
    chapter : str, default all
        The only one that runs, such as ``"09_real_labels"``.

    Returns
    -------
    pathlib.Path
        The run directory: ``notebooks/`` (executed), ``metrics.json``, ``parameters.json``,
        ``manifest.json`` and ``artifacts/``.

    Raises
    ------
    InputError
        If the directory holds another run, an input cannot be used, or a notebook fails; what was
        computed until then stays, and a rerun goes on from there.
    """
    prepare_kernels()
    study = Study(parameters)
    paths = {path.stem: path for path in notebooks(appendix)}
    if chapter:
        check_known("chapter", chapter, paths)
        paths = {chapter: paths[chapter]}
    set_values, inputs = parameters.model_dump(mode="json"), check_inputs(study)
    run_dir, state = study.run_dir, [set_values, inputs, _committed(), versions("experiments")]
    outputs = {path: run_dir / path.relative_to(study.root) for path in paths.values()}
    study.claim()
    print(f"{parameters.labels}: {study.labels.summary}.", file=sys.stderr, flush=True)
    runs = []
    for notebook, out in outputs.items():
        state.append(file_hash(notebook))  # and so of all before it
        runs.append(delayed(_execute)(notebook, out, run_dir, set_values, fingerprint(state)))
    if cut := study.activations().truncation_note:
        print(cut, file=sys.stderr, flush=True)
    at_once = AT_ONCE if study.training_device.type == "cpu" else 1
    chapters = Parallel(at_once, return_as="generator_unordered")(runs)
    for done in track(chapters, f"running {run_dir.name}", len(runs)):
        note(done)
    rows = [  # each names its notebook, for chapters overlap
        {"notebook": path.stem, **row}
        for path in sorted(run_dir.glob("metrics/*.json"))
        for row in read_json(path)["rows"]
    ]
    write_json(run_dir / "metrics.json", {"version": VERSION, "rows": rows})
    manifest = {
        "parameters": set_values,
        "code": {"version": __version__, "stages": STAGES},
        "versions": {"python": platform.python_version(), **library_versions()},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        **inputs,
        "artifacts": sorted(path.name for path in study.store.root.glob("*-*") if path.is_dir()),
        "notebooks": {
            out.relative_to(run_dir).as_posix(): file_hash(out) for out in outputs.values()
        },
        "metrics": file_hash(run_dir / "metrics.json"),
        "seconds": {
            out.stem: read_json(out.with_suffix(".json"))["seconds"] for out in outputs.values()
        },
    }
    write_json(run_dir / "manifest.json", manifest)
    return run_dir


def check_inputs(study: Study) -> dict[str, Any]:
    """Find and check all that a study's parameters name, before anything is computed.

    Returns
    -------
    dict
        What they hold, wherever it lies: ``labels``, a fingerprint; ``prices``, the table or None;
        ``encoders``, hashes by name.

    Raises
    ------
    InputError
        If labels, prices, an encoder or the device are missing or cannot be used, the queries
        are too few to be split, or what an answer costs is unknown.
    """
    p, labels = study.parameters, study.labels.fingerprint
    prices = study.prices and {n: v for n, v in vars(study.prices).items() if n != "source"}
    encoders = [*study.encoders, *([] if p.embedding == "lsa" else [p.embedding])]
    hashes = {encoder: weights_hash(study.source(encoder)) for encoder in encoders}
    for encoder in hashes:
        config = text_config(study.source(encoder))
        try:
            check_max_tokens(p.max_tokens, config_limit(config))
            if encoder == p.encoder and (n_layers := getattr(config, "num_hidden_layers", None)):
                check_layers(p.layers, n_layers)
        except InputError as error:
            raise InputError(f"{encoder}: {error}") from None
    if p.engine == "local":  # a cluster's workers have devices of their own
        device_map(p.device)
    splits = study.splits  # which refuse what is too small to be split
    if study.has_costs:  # whether they are known does not depend on how long prompts are
        lengths = np.zeros(study.labels.n_queries)
        query_costs(study.labels, study.prices, lengths)
        for split in splits:
            expected_costs(study.labels, study.prices, lengths, split.train)
    return {"labels": labels, "prices": prices, "encoders": hashes}


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
    paths += sorted(p for p in package.rglob("*") if p.suffix in (".parquet", ".csv", ".j2"))
    return [file_hash(path) for path in paths if path.exists()]


def _execute(notebook: Path, out: Path, run_dir: Path, given: dict, state: str) -> str:
    """Execute one notebook unless its result of the same state is there; say which it was."""
    done, recorded = out.with_suffix(".json"), run_dir / "metrics" / f"{notebook.stem}.json"

    def kept() -> list[str | None]:
        return [state, file_hash(recorded) if recorded.exists() else None]

    if out.exists() and done.exists() and read_json(done)["state"] == kept():
        return f"{notebook.stem}: kept"
    out.parent.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    # Chapters are given all parameters and show some, of which papermill would warn.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    start = time.monotonic()
    for again in (True, False):
        try:
            papermill.execute_notebook(
                notebook, out, kernel_name="python3", cwd=notebook.parent, progress_bar=False,
                parameters={} if given == Parameters().model_dump(mode="json") else given,
                extra_arguments=["--IPKernelApp.log_level=50"],  # kernels talk of their sockets
            )  # fmt: skip
            break
        except (papermill.PapermillExecutionError, RuntimeError) as error:
            # Of two kernels that start at once, one may die: both can be given the same port.
            if again and type(error) is RuntimeError:
                continue
            fault = "its kernel died, most often for want of memory: take fewer queries (n_queries)"
            if isinstance(error, papermill.PapermillExecutionError):
                fault = f"{error.ename}: {error.evalue} (cell {error.exec_count}; see {out})"
            raise InputError(
                f"{notebook.name} failed: {fault}. Mend it and run again: what was computed is "
                "kept."
            ) from None
    clean(out)
    seconds = round(time.monotonic() - start, 1)
    write_json(done, {"state": kept(), "seconds": seconds})
    return f"{notebook.stem}: {seconds:.0f} s"


def clean(path: Path) -> None:
    """Take out of an executed notebook what differs from run to run or from machine to machine.

    Where parameters were injected, readers see these in place of the defaults.
    """
    book = nbformat.read(path, as_version=4)
    book.metadata = {key: book.metadata[key] for key in ("kernelspec",) if key in book.metadata}
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    for defaults, cell in pairwise(book.cells):
        if INJECTED in cell.metadata.get("tags", []):
            cell.metadata["tags"] = [INJECTED, "hide-input"]
            cell.id = INJECTED  # papermill's is drawn at random
            defaults.metadata["tags"] = ["parameters", "remove-cell"]
    nbformat.write(book, path)


def refresh_notebooks() -> list[Path]:
    """Run everything on the defaults; make notebooks, numbers and figure the committed ones.

    Returns
    -------
    list of pathlib.Path
        The files written: notebooks, expectations, and the figure that README and book show.
    """
    root, defaults = project_root(), Parameters()
    run_dir = run_experiment(defaults, appendix=True)
    expected = accept(Study(defaults))
    run_experiment(defaults, appendix=True)  # again, with the verdicts; artifacts are found
    for notebook in notebooks(appendix=True):
        shutil.copyfile(run_dir / notebook.relative_to(root), notebook)
    figure = root / "book" / "_static" / "headline.png"
    figure.write_bytes(base64.b64decode(headline(root / HEADLINE_NOTEBOOK)["headline_figure"]))
    return [*notebooks(appendix=True), expected, figure]
