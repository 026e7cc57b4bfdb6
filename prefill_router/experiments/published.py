"""Results of full runs, committed small, and the reduced size at which a notebook reruns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefill_router.config import PLACES, Parameters, validate
from prefill_router.errors import InputError
from prefill_router.evaluation import results as tidy
from prefill_router.evaluation.estimates import Estimate, read_metrics, write_metrics
from prefill_router.experiments.study import Study
from prefill_router.storage import file_hash, read_json, write_json

PUBLISHED = Path("experiments") / "published"
MANIFEST = "manifest.json"
REDUCED = {"n_queries": 1200, "n_seeds": 2, "keep": 1, "n_resamples": 200, "dimensions": [16, 32]}
"""What a heavy chapter is asked at, unless `Parameters.full` names it."""
FIRST_HEAVY = 7
"""Number of the first chapter with a reduced size."""


def sized(study: Study, notebook: str) -> Study:
    """Return the study that a heavy chapter asks: the study itself if it is full, else a small one.

    Parameters
    ----------
    study : Study
        The notebook's.
    notebook : str
        Name of the notebook, which begins with the number of its chapter.

    Returns
    -------
    Study
        The small one has the same encoders and targets, fewer queries, seeds, resamples and
        dimensions, and the same store.
    """
    p = study.parameters
    if is_full(p, notebook):
        return study
    fewer = min(p.n_queries or REDUCED["n_queries"], REDUCED["n_queries"])
    return study.like(**REDUCED | {"n_queries": fewer})


def is_full(parameters: Parameters, notebook: str) -> bool:
    """Return whether a notebook's results rest on all queries."""
    chapter = int(notebook.split("_")[0])
    return chapter < FIRST_HEAVY or chapter in parameters.full


def publish(run_dir: Path, into: Path, experiment: Mapping[str, Any] | None = None) -> Path:
    """Copy the results of a finished run, but for those on a sample, with what identifies them.

    Parameters
    ----------
    run_dir : pathlib.Path
        As `run_experiment` left it.
    into : pathlib.Path
        The directory, such as ``experiments/published/full``.
    experiment : mapping, optional
        The parameters of the experiment's file. What this machine gave as an absolute path is
        recorded as the file names it, else by the path's last part; the content of encoders is
        identified by hashes all the same.

    Returns
    -------
    pathlib.Path
        The manifest: parameters, code, versions, machine, seconds, and hashes of files, labels
        and encoders.

    Raises
    ------
    InputError
        If the run is not finished.
    """
    if not (run_dir / MANIFEST).exists():
        raise InputError(f"{run_dir} holds no finished run: it has no {MANIFEST}.")
    manifest = read_json(run_dir / MANIFEST)
    parameters = validate(manifest["parameters"], str(run_dir / MANIFEST))
    into.mkdir(parents=True, exist_ok=True)
    given = manifest["parameters"]
    named = _portable(given, experiment or {})
    renamed = dict(zip(_encoders(given), _encoders(named), strict=True))
    hashes = {}
    for path in sorted(run_dir.glob("metrics/*.json")):
        if is_full(parameters, path.stem):
            rows = [_renamed(row, renamed) for row in read_metrics(path)]
            write_metrics(into / path.name, rows)
            hashes[path.name] = file_hash(into / path.name)
    kept = ("code", "versions", "machine", "labels", "seconds")
    record = {name: manifest[name] for name in kept} | {"parameters": named, "files": hashes}
    record["encoders"] = {renamed.get(n, n): h for n, h in manifest["encoders"].items()}
    write_json(into / MANIFEST, record)
    return into / MANIFEST


def _portable(parameters: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without paths of this machine: as `names` has them, else the last part."""

    def portable(value: Any, named: Any) -> Any:
        if isinstance(value, list):
            paths = any(isinstance(v, str) and Path(v).is_absolute() for v in value)
            if paths and named and len(named) == len(value):
                return list(named)
            return [portable(v, None) for v in value]
        if isinstance(value, str) and Path(value).is_absolute():
            return named or Path(value).name
        return value

    return {name: portable(value, names.get(name)) for name, value in parameters.items()}


def _renamed(row: Estimate, names: Mapping[str, str]) -> Estimate:
    """Return a row whose router is called after encoders by their new names."""
    router = row.router
    for old, new in names.items():
        if Path(old).is_absolute():
            router = router.replace(old, new)
    return replace(row, router=router)


def _encoders(parameters: Mapping[str, Any]) -> list[str]:
    """Return everything that parameters name as an encoder, in a fixed order."""
    return [
        *parameters["encoders"],
        *(parameters[n] for n in ("encoder", "untrained", "embedding")),
    ]


def read_published(directory: Path, notebook: str) -> list[Estimate]:
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
    is_tidy = isinstance(read_json(path), dict)
    return tidy.read_metrics(path) if is_tidy else read_metrics(path)


def results(study: Study, notebook: str, found: Sequence[Estimate]) -> list[Estimate]:
    """Return what a notebook shows: a published full run of the same study, else what it found.

    Parameters
    ----------
    study : Study
        The notebook's.
    notebook : str
        Name of the notebook, without its ending.
    found : sequence of Estimate
        Its own results, of `sized`.
    """
    directory = _published(study, notebook)
    return found if directory is None else read_published(directory, notebook)


def provenance(study: Study, notebook: str) -> str:
    """Return the sentence that says which queries, and whose run, the results shown rest on.

    Parameters
    ----------
    study, notebook
        As for `results`.
    """
    n = study.labels.n_queries
    if is_full(study.parameters, notebook):
        return f"The numbers shown are this run's own, on all of its {n:,} queries."
    directory = _published(study, notebook)
    if directory is None:
        fewer = sized(study, notebook).labels.n_queries
        part = f"{fewer:,} of the {n:,} queries, with" if fewer < n else f"all {n:,} queries, but"
        return (
            f"The numbers shown are of a reduced run: {part} fewer seeds, dimensions and "
            f"resamples; full=[{int(notebook.split('_')[0])}] reduces nothing."
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


def _published(study: Study, notebook: str) -> Path | None:
    """Return the directory of a published full run that this run on a sample stands for."""
    if is_full(study.parameters, notebook):
        return None
    for path in sorted((study.root / PUBLISHED).glob(f"*/{MANIFEST}")):
        manifest = read_json(path)
        theirs = validate(manifest["parameters"], str(path))
        if (
            is_full(theirs, notebook)
            and _identity(theirs) == _identity(study.parameters)
            and manifest["labels"] == study.labels.fingerprint
        ):
            return path.parent
    return None


def _identity(parameters: Parameters) -> dict[str, Any]:
    return _portable(parameters.model_dump(exclude=PLACES | {"full", "n_resamples"}), {})
