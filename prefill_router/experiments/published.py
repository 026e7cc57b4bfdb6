"""Committed results of runs on real labels, which cannot be published themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from prefill_router.config import PLACES, project_root, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import read_metrics, select, write_metrics
from prefill_router.evaluation.results import results as tidy
from prefill_router.storage import file_hash, read_json, write_json
from prefill_router.validation import read_mapping

PUBLISHED = Path("experiments") / "published"
MANIFEST = "manifest.json"
PATHS = ("labels", "prices", "encoder", "embedding", "untrained")
"""Parameters that may be paths of one machine, and are recorded under their public names."""
POOLS = {
    "mmlu_pro": "MMLU-Pro (realistic)",
    "mmlu_pro_complementary": "MMLU-Pro (most headroom)",
    "zeroeval": "ZeroEval",
}
"""Titles of the pools of real labels, by their experiment's name."""
REAL = "09_real_labels"
"""The chapter that measures them; the next one shows of its results what concerns use."""


def publish(run_dir: Path) -> Path:
    """Copy what a finished run of a pool of real labels found, with what identifies it.

    Parameters
    ----------
    run_dir : pathlib.Path
        As `prefill_router.run.run_experiment` left it; its name is the pool's. A model or table
        whose path ``-p`` gave is recorded under the name that ``experiments/NAME.yaml`` has.

    Returns
    -------
    pathlib.Path
        The manifest, in ``experiments/published/NAME``: parameters, code (the package's version and
        the VERSION of each stage), libraries, machine, seconds, and hashes of files, labels and
        encoders, and prices.

    Raises
    ------
    InputError
        If the run is not finished, is of no pool, differs from its experiment in more than where
        models and tables lie, or read other weights than were published under an encoder's name.
    """
    root, name = project_root(), run_dir.resolve().name
    if name not in POOLS:
        raise InputError(
            f"{run_dir} is no run of a pool of the book; a run directory is named after its pool: "
            f"{', '.join(POOLS)}."
        )
    chapter = f"{REAL}.json"
    if lacking := [n for n in (MANIFEST, f"metrics/{chapter}") if not (run_dir / n).exists()]:
        raise InputError(f"{run_dir} holds no finished run of {REAL}: it has no {lacking[0]}.")
    manifest, into = read_json(run_dir / MANIFEST), root / PUBLISHED / name
    given = {n: value for n, value in manifest["parameters"].items() if n not in PLACES}
    public = read_mapping(root / "experiments" / f"{name}.yaml")
    read = given["encoders"]
    pairs = [(given[n], public[n]) for n in PATHS]
    pairs += zip(read, public["encoders"], strict=False)
    names = {path: title for path, title in pairs if path and (root / path).exists()}
    rows = read_metrics(run_dir / "metrics" / chapter)
    kept = ("code", "versions", "machine", "labels", "prices")
    record = {n: manifest[n] for n in kept} | {"seconds": {REAL: manifest["seconds"][REAL]}}
    own = {n: names.get(given[n], given[n]) for n in PATHS}
    record["parameters"] = given | own | {"encoders": [names.get(path, path) for path in read]}
    record["encoders"] = {names.get(n, n): h for n, h in manifest["encoders"].items()}
    _check_record(root, name, public, record)
    write_metrics(into / chapter, rows.replace(names))
    write_json(into / MANIFEST, record | {"files": {chapter: file_hash(into / chapter)}})
    return into / MANIFEST


def _check_record(root: Path, name: str, public: Mapping, record: Mapping) -> None:
    """Raise InputError if a run is not its experiment's, or calls other weights by a known name."""
    wanted = validate(public).model_dump(mode="json")
    given = record["parameters"]
    if differing := [n for n in given if given[n] != wanted.get(n)]:
        raise InputError(
            f"This is not the run of experiments/{name}.yaml; it differs in {', '.join(differing)}."
        )
    for pool in POOLS:
        path = root / PUBLISHED / pool / MANIFEST
        known = read_json(path)["encoders"] if path.exists() else {}
        for encoder in known.keys() & record["encoders"].keys() - {given["untrained"]}:
            if known[encoder] != record["encoders"][encoder]:
                raise InputError(
                    f"{encoder}: this run read other weights than {path}; give encoders in the "
                    "order of the experiment's, or delete that manifest."
                )


def read_published(directory: Path) -> pd.DataFrame:
    """Return what a published run found.

    Raises
    ------
    InputError
        If a file is missing or was altered after it was published.
    """
    path = directory / f"{REAL}.json"
    expected = read_json(directory / MANIFEST)["files"][path.name]
    if not path.exists() or file_hash(path) != expected:
        raise InputError(
            f"{path} is missing or not what was published; restore it, or run the experiment again "
            "and publish that."
        )
    return read_metrics(path)


def published_pools(root: Path) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Read what is published of each pool of real labels.

    Parameters
    ----------
    root : pathlib.Path
        The project's directory.

    Returns
    -------
    pools : dict of str to DataFrame
        By the experiment's name.
    missing : list of str
        A sentence for each pool of which nothing is published, with the commands that would.

    Raises
    ------
    InputError
        If a file is not what was published.
    """
    pools, missing = {}, []
    for name, title in POOLS.items():
        directory = root / PUBLISHED / name
        if (directory / MANIFEST).exists():
            pools[name] = read_published(directory)
        else:
            missing.append(
                f"{title}: no results are published. Run experiments/{name}.yaml (its first lines "
                f"say how), then prefill-router publish runs/{name}."
            )
    return pools, missing


def settings_table(root: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return what each published pool's run was: one line per pool."""
    manifests = {name: read_json(root / PUBLISHED / name / MANIFEST) for name in names}
    return pd.DataFrame(
        {
            "pool": POOLS[name],
            "targets": ", ".join(manifest["parameters"]["targets"]),
            "encoder": manifest["parameters"]["encoder"],
            "outer folds": manifest["parameters"]["outer_folds"],
            "code": f"prefill-router {manifest['code']['version']}",
        }
        for name, manifest in manifests.items()
    )


def pool_rows(pools: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all pools on test queries, with the pool's title as their `split`.

    A pool that is not in `POOLS` is called by its name.
    """
    found = [select(r, split="test", versus=None, target=None) for r in pools.values()]
    titles = [
        rows.assign(split=POOLS.get(name, name)) for name, rows in zip(pools, found, strict=True)
    ]
    return pd.concat([tidy(), *titles], ignore_index=True)
