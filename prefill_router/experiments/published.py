"""Committed results of full runs, which heavy chapters show instead of running for hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from prefill_router.config import HEAVY, PLACES, Parameters, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import read_metrics, write_metrics
from prefill_router.experiments.inputs import encoder_hashes, price_content
from prefill_router.experiments.study import Study
from prefill_router.project import project_root
from prefill_router.storage import file_hash, read_json, write_json
from prefill_router.validation import read_mapping

PUBLISHED = Path("experiments") / "published"
MANIFEST = "manifest.json"
REDUCED = {"n_queries": 1200, "n_seeds": 2, "keep": 1, "n_resamples": 200, "dimensions": [16, 32]}
"""What a heavy chapter runs at, unless `Parameters.full` names it."""
RECIPE = {"inner_folds"}
"""Parameters that the recipe of a version decides: the version is named beside its results."""


def chapter(notebook: str) -> int:
    """Return the number that a notebook's name begins with."""
    return int(notebook.split("_")[0])


def is_full(parameters: Parameters, notebook: str) -> bool:
    """Return whether a notebook runs on all queries."""
    return chapter(notebook) not in HEAVY or chapter(notebook) in parameters.full


def sized(study: Study, notebook: str) -> Study:
    """Return the study that a chapter runs: itself if it runs in full, else a `REDUCED` one."""
    p = study.parameters
    if is_full(p, notebook):
        return study
    fewer = min(p.n_queries or REDUCED["n_queries"], REDUCED["n_queries"])
    return study.like(**REDUCED | {"n_queries": fewer})


def results(study: Study, notebook: str, ask: Callable[[Study], pd.DataFrame]) -> pd.DataFrame:
    """Return what a heavy chapter shows: its own results in full, published ones, or reduced ones.

    Parameters
    ----------
    study : Study
        The notebook's.
    notebook : str
        Name of the notebook, without its ending; it begins with the number of its chapter.
    ask : callable
        From a study to its results. It is not called where a full run of the same study is
        published; else it is given the study itself, if `Parameters.full` names the chapter, or one
        of the same encoders and targets with fewer queries, seeds, resamples and dimensions.
    """
    directory = published_run(study, notebook)
    if directory is not None:
        return read_published(directory, notebook)
    return ask(sized(study, notebook))


def provenance(study: Study, notebook: str) -> str:
    """Return the sentence that says which queries, and whose run, `results` rest on."""
    n = study.labels.n_queries
    if is_full(study.parameters, notebook):
        return f"The numbers shown are this run's own, on all of its {n:,} queries."
    directory = published_run(study, notebook)
    if directory is None:
        fewer = sized(study, notebook).labels.n_queries
        part = f"{fewer:,} of the {n:,} queries, with" if fewer < n else f"all {n:,} queries, but"
        return (
            f"The numbers shown are of a reduced run: {part} fewer seeds, dimensions and "
            f"resamples; full=[{chapter(notebook)}] reduces nothing."
        )
    manifest = read_json(directory / MANIFEST)
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return (
        f"The numbers shown are those of the published full run ({directory.name}), on all of its "
        f"{n:,} queries, computed by {code_of(manifest)} with {versions}."
    )


def code_of(manifest: Mapping[str, Any]) -> str:
    """Say which code computed a published run; manifests with a hash there are of v0.1."""
    code = manifest["code"]
    return "v0.1, commit 20b58d0" if isinstance(code, str) else f"prefill-router {code['version']}"


def read_published(directory: Path, notebook: str) -> pd.DataFrame:
    """Return what a full run's notebook found.

    Raises
    ------
    InputError
        If a file is missing or was altered after it was published.
    """
    path = directory / f"{notebook}.json"
    expected = read_json(directory / MANIFEST)["files"].get(path.name)
    if expected is None or not path.exists() or file_hash(path) != expected:
        raise InputError(
            f"{path} is missing or not what was published; restore it, or run the experiment in "
            "full again and publish that."
        )
    return read_metrics(path)


def publish(run_dir: Path) -> Path:
    """Copy what a finished run computed in full of heavy chapters, with what identifies it.

    Paths of this machine are recorded as ``experiments/NAME.yaml`` names them, NAME being the run
    directory's, if there is such a file, else by their last part; the content of encoders is
    identified by hashes all the same.

    Parameters
    ----------
    run_dir : pathlib.Path
        As `run_experiment` left it.

    Returns
    -------
    pathlib.Path
        The manifest, in ``experiments/published/NAME``: parameters, code (the package's version and
        the VERSION of each stage), libraries, machine, seconds, and hashes of files, labels and
        encoders, and prices.

    Raises
    ------
    InputError
        If the run is not finished.
    """
    if not (run_dir / MANIFEST).exists():
        raise InputError(f"{run_dir} holds no finished run: it has no {MANIFEST}.")
    manifest = read_json(run_dir / MANIFEST)
    given = manifest["parameters"]
    full = validate(given, str(run_dir / MANIFEST)).full
    root, name = project_root(), run_dir.resolve().name
    into, experiment = root / PUBLISHED / name, root / "experiments" / f"{name}.yaml"
    named = _portable(given, read_mapping(experiment) if experiment.exists() else {})
    renamed = dict(zip(_encoders(given), _encoders(named), strict=True))
    hashes = {}
    for path in sorted(run_dir.glob("metrics/*.json")):
        if chapter(path.stem) in full:
            rows = read_metrics(path)
            for column in ("router", "versus", "encoder"):
                rows[column] = rows[column].replace(renamed)
            write_metrics(into / path.name, rows)
            hashes[path.name] = file_hash(into / path.name)
    kept = ("code", "versions", "machine", "labels", "prices", "seconds")
    record = {name: manifest[name] for name in kept if name in manifest}
    record |= {"parameters": named, "files": hashes}
    record["encoders"] = {renamed.get(n, n): h for n, h in manifest["encoders"].items()}
    write_json(into / MANIFEST, record)
    return into / MANIFEST


def _portable(parameters: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without paths of this machine: as `names` has them, else the last part."""

    def portable(value: Any, named: Any) -> Any:
        if isinstance(value, list):
            given = named if named and len(named) == len(value) else [None] * len(value)
            return [portable(*both) for both in zip(value, given, strict=True)]
        if isinstance(value, str) and Path(value).is_absolute():
            return named or Path(value).name
        return value

    return {name: portable(value, names.get(name)) for name, value in parameters.items()}


def _encoders(parameters: Mapping[str, Any]) -> list[str]:
    """Return everything that parameters name as an encoder, in a fixed order."""
    return [
        *parameters["encoders"],
        *(parameters[n] for n in ("encoder", "untrained", "embedding")),
    ]


def published_run(study: Study, notebook: str) -> Path | None:
    """Return the directory of a published full run of the same study, made from the same inputs.

    Earlier manifests, as those of v0.1, do not say what the prices were.
    """
    if is_full(study.parameters, notebook):
        return None
    for path in sorted((study.root / PUBLISHED).glob(f"*/{MANIFEST}")):
        manifest = read_json(path)
        theirs = validate(manifest["parameters"], str(path))
        if (
            is_full(theirs, notebook)
            and _identity(theirs) == _identity(study.parameters)
            and manifest["labels"] == study.labels.fingerprint
            and manifest.get("prices", price_content(study)) == price_content(study)
            and {*manifest["encoders"].values()} == {*encoder_hashes(study).values()}
        ):
            return path.parent
    return None


def _identity(parameters: Parameters) -> dict[str, Any]:
    ignored = PLACES | RECIPE | {"full", "n_resamples"}
    return _portable(parameters.model_dump(exclude=ignored), {})
