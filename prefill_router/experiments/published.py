"""Committed results of full runs, which chapters show instead of running for hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from prefill_router.config import HEAVY, PLACES, Parameters, project_root, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import read_metrics, select, write_metrics
from prefill_router.evaluation.results import results as tidy
from prefill_router.experiments.study import Study
from prefill_router.extraction.sources import weights_hash
from prefill_router.storage import file_hash, read_json, write_json
from prefill_router.validation import read_mapping

PUBLISHED = Path("experiments") / "published"
MANIFEST = "manifest.json"
REDUCED = {"n_queries": 1200, "n_seeds": 2, "keep": 1, "n_resamples": 200, "dimensions": [16, 32]}
"""What a heavy chapter runs at, unless `Parameters.full` names it."""
RECIPE = {"inner_folds"}
"""Parameters that the recipe of a version decides: the version is named beside its results."""
POOLS = {
    "mmlu_pro": "MMLU-Pro, realistic pool",
    "mmlu_pro_complementary": "MMLU-Pro, pool picked for its headroom",
    "zeroeval": "ZeroEval",
}
"""Titles of the pools of real labels, by their experiment's name."""
CHAPTER = "08_beating_the_recipe"
CHECKED = ["gap closed", "cost saving", "AUC"]


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
    return read_published(directory, notebook) if directory else ask(sized(study, notebook))


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
        f"{n:,} queries, computed by {_code(manifest)} with {versions}."
    )


def _code(manifest: Mapping[str, Any]) -> str:
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


def identify(study: Study) -> dict[str, Any]:
    """Return what a study's labels, prices and encoders hold, wherever they lie.

    Returns
    -------
    dict
        ``labels``: a fingerprint; ``prices``: the table or None; ``encoders``: hashes by name.

    Raises
    ------
    InputError
        If one of them is missing or cannot be used.
    """
    labels, prices = study.labels.fingerprint, study.prices and dict(vars(study.prices))
    if prices:
        del prices["source"]
    embedding = study.parameters.embedding
    encoders = [*study.encoders, *([] if embedding == "lsa" else [embedding])]
    hashes = {encoder: weights_hash(study.source(encoder)) for encoder in encoders}
    return {"labels": labels, "prices": prices, "encoders": hashes}


def published_run(study: Study, notebook: str) -> Path | None:
    """Return the directory of a published full run of the same study, made from the same inputs."""
    if is_full(study.parameters, notebook):
        return None
    for path in sorted((study.root / PUBLISHED).glob(f"*/{MANIFEST}")):
        manifest = read_json(path)
        theirs = validate(manifest["parameters"], str(path))
        if is_full(theirs, notebook) and _identity(theirs) == _identity(study.parameters):
            mine = identify(study)
            held = mine | manifest  # manifests of v0.1 do not say what the prices were
            a, b = ({*of["encoders"].values()} for of in (mine, held))
            if a == b and all(held[name] == mine[name] for name in ("labels", "prices")):
                return path.parent
    return None


def _identity(parameters: Parameters) -> dict[str, Any]:
    values = parameters.model_dump(exclude=PLACES | RECIPE | {"full", "n_resamples"})
    return _renamed(values, _path_names(values, {}))


def publish(run_dir: Path) -> Path:
    """Copy what a finished run computed in full of heavy chapters, with what identifies it.

    Paths of this machine are recorded as ``experiments/NAME.yaml`` names them, NAME being the run
    directory's, if there is such a file, else by their last part; the content of encoders is
    identified by hashes all the same.

    Parameters
    ----------
    run_dir : pathlib.Path
        As `prefill_router.run.run_experiment` left it.

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
    parameters = manifest["parameters"]
    full = validate(parameters, str(run_dir / MANIFEST)).full
    root, name = project_root(), run_dir.resolve().name
    into, experiment = root / PUBLISHED / name, root / "experiments" / f"{name}.yaml"
    names = _path_names(parameters, read_mapping(experiment) if experiment.exists() else {})
    hashes = {}
    for path in sorted(run_dir.glob("metrics/*.json")):
        if chapter(path.stem) in full:
            columns = ["router", "versus", "encoder"]
            rows = read_metrics(path)
            rows[columns] = rows[columns].replace(names)
            write_metrics(into / path.name, rows)
            hashes[path.name] = file_hash(into / path.name)
    kept = ("code", "versions", "machine", "labels", "prices", "seconds")
    record = {name: manifest[name] for name in kept}
    record |= {"parameters": _renamed(parameters, names), "files": hashes}
    record["encoders"] = {names.get(n, n): h for n, h in manifest["encoders"].items()}
    write_json(into / MANIFEST, record)
    return into / MANIFEST


def _path_names(parameters: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, str]:
    """Return what to call each path of this machine: as `names` has it, else by its last part."""
    called: dict[str, str] = {}
    for name, value in parameters.items():
        paths, public = (v if isinstance(v, list) else [v] for v in (value, names.get(name)))
        if len(paths) != len(public):
            public = [None] * len(paths)
        for path, known in zip(paths, public, strict=True):
            if isinstance(path, str) and Path(path).is_absolute():
                called[path] = known or called.get(path) or Path(path).name
    return called


def _renamed(parameters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    def renamed(value: Any) -> Any:
        return list(map(renamed, value)) if isinstance(value, list) else names.get(value, value)

    return {name: renamed(value) for name, value in parameters.items()}


def published_pools(
    root: Path, notebook: str = CHAPTER
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Read what is published of each of the `POOLS`.

    Parameters
    ----------
    root : pathlib.Path
        The project's directory.
    notebook : str, default `CHAPTER`
        Whose results.

    Returns
    -------
    pools : dict of str to DataFrame
        By the experiment's name.
    missing : list of str
        A sentence for each pool whose results of that chapter are not published, with the commands
        that would.

    Raises
    ------
    InputError
        If a file is not what was published.
    """
    pools, missing = {}, []
    for name, title in POOLS.items():
        manifest = root / PUBLISHED / name / MANIFEST
        if manifest.exists() and f"{notebook}.json" in read_json(manifest)["files"]:
            pools[name] = read_published(manifest.parent, notebook)
        else:
            missing.append(
                f"{title}: no results of chapter {chapter(notebook)} are published. Run "
                f"experiments/{name}.yaml (its first lines say how), then prefill-router publish "
                f"runs/{name}."
            )
    return pools, missing


def settings_table(root: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return what each published pool's run was: one line per pool."""
    manifests = {name: read_json(root / PUBLISHED / name / MANIFEST) for name in names}
    return pd.DataFrame(
        {
            "pool": POOLS[name],
            "targets": ", ".join(p["targets"]),
            "encoder": p["encoder"],
            "outer folds": p["outer_folds"],
            "networks trained, kept": f"{p['n_seeds']}, {p['keep']}",
            "resamples": p["n_resamples"],
            "minutes of this chapter": round(manifest["seconds"][CHAPTER] / 60, 1),
            "code": _code(manifest),
        }
        for name, manifest in manifests.items()
        for p in [manifest["parameters"]]
    )


def pool_rows(pools: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the main rows of all pools, with the pool's title as their `target`."""
    found = [
        select(rows, metric=CHECKED, versus=None, split="test").assign(target=POOLS[name])
        for name, rows in pools.items()
    ]
    return pd.concat([tidy(), *found], ignore_index=True)
