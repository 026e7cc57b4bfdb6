"""Published results on pools of real labels, as one chapter shows them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments.published import MANIFEST, PUBLISHED, code_of, read_published
from prefill_router.storage import read_json

POOLS = {
    "mmlu_pro": "MMLU-Pro, realistic pool",
    "mmlu_pro_complementary": "MMLU-Pro, pool picked for its headroom",
    "zeroeval": "ZeroEval",
}
"""Titles of the pools, by their experiment's name."""
CHAPTER = "08_beating_the_recipe"
CHECKED = ("gap closed", "cost saving", "AUC", "gap closed difference")


def published_pools(
    root: Path, chapter: str = CHAPTER
) -> tuple[dict[str, list[Estimate]], list[str]]:
    """Read what is published of each pool.

    Parameters
    ----------
    root : pathlib.Path
        The project's directory.
    chapter : str, default `CHAPTER`
        Whose results.

    Returns
    -------
    pools : dict of str to list of Estimate
        By the experiment's name.
    missing : list of str
        A sentence for each pool of which nothing is published, with the commands that would, or
        whose published run did not ask that chapter in full.

    Raises
    ------
    InputError
        If a file is not what was published.
    """
    pools, missing = {}, []
    for name, title in POOLS.items():
        directory = root / PUBLISHED / name
        again = f"Run experiments/{name}.yaml (its first lines say how), then prefill-router "
        again += f"publish runs/{name}."
        if not (directory / MANIFEST).exists():
            missing.append(f"{title}: nothing is published yet. {again}")
        elif f"{chapter}.json" not in read_json(directory / MANIFEST)["files"]:
            number = int(chapter.split("_")[0])
            missing.append(
                f"{title}: the published run has no results of chapter {number}. {again}"
            )
        else:
            pools[name] = read_published(directory, chapter)
    return pools, missing


def settings_table(root: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return what each published pool's run was: a line a pool."""
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


def pool_rows(pools: Mapping[str, Sequence[Estimate]]) -> list[Estimate]:
    """Return the main rows of all pools, each router's name led by its pool's."""
    return [
        replace(row, router=f"{POOLS[name]}: {row.router}")
        for name, rows in pools.items()
        for row in rows
        if row.metric in CHECKED and row.split == "test" and not row.target
    ]
