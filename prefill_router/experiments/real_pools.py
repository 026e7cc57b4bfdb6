"""Published results on pools of real labels, as one chapter shows them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from prefill_router.evaluation.results import results, select
from prefill_router.experiments.published import (
    MANIFEST,
    PUBLISHED,
    chapter,
    code_of,
    read_published,
)
from prefill_router.storage import read_json

POOLS = {
    "mmlu_pro": "MMLU-Pro, realistic pool",
    "mmlu_pro_complementary": "MMLU-Pro, pool picked for its headroom",
    "zeroeval": "ZeroEval",
}
"""Titles of the pools, by their experiment's name."""
CHAPTER = "08_beating_the_recipe"
CHECKED = ["gap closed", "cost saving", "AUC"]


def published_pools(
    root: Path, notebook: str = CHAPTER
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Read what is published of each pool.

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
    lines = []
    for name in names:
        manifest = read_json(root / PUBLISHED / name / MANIFEST)
        parameters = manifest["parameters"]
        lines.append(
            {
                "pool": POOLS[name],
                "targets": ", ".join(parameters["targets"]),
                "encoder": parameters["encoder"],
                "outer folds": parameters["outer_folds"],
                "networks trained, kept": f"{parameters['n_seeds']}, {parameters['keep']}",
                "resamples": parameters["n_resamples"],
                "minutes of this chapter": round(manifest["seconds"][CHAPTER] / 60, 1),
                "code": code_of(manifest),
            }
        )
    return pd.DataFrame(lines)


def pool_rows(pools: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the main rows of all pools, with the pool's title as their `target`."""
    found = [
        select(rows, metric=CHECKED, versus=None, split="test").assign(target=POOLS[name])
        for name, rows in pools.items()
    ]
    return pd.concat([results(), *found], ignore_index=True)
