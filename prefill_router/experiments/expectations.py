"""Do the headline numbers of a run agree with the committed ones of the same parameters?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from prefill_router.evaluation.results import COLUMNS, records, results
from prefill_router.experiments.study import Study
from prefill_router.storage import read_json, write_json

EXPECTED = Path("experiments") / "expectations.json"
NAME = COLUMNS[:-4]
"""The columns that say what a number is."""
PROBED = ("J", "J_pca", "J_white", "d_eff", "anisotropy")
DATA = ("headroom", "cross-validated AUC", "mean norm", *PROBED)
"""Metrics of data and encoders alone, no network trained."""
WIDTHS = 0.25, 0.5
"""By how much of its interval's width a number may differ: of `DATA`, and any other.

Other machines train other networks, which move what rests on them by up to half a width.
"""
RELATIVE, ROUNDING = 0.01, 1e-6
"""A number without an interval may differ by one part in a hundred, or by rounding."""
SPENDING = ("mean cost", "cost saving", "saving against the best single target")
"""Not held: what a policy spends jumps with its tolerance, which is chosen on validation rows."""
MOST, PER_METRIC = 11, 3
"""Numbers held of a notebook, unless it has more metrics; and of one metric."""


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers that are held: some of every metric, first of test, and over all targets.

    Differences, single networks, `SPENDING` and what is undefined are left out, for they are less
    stable; so are numbers without an interval (counts, p-values, deviations) unless they are of
    `DATA`.
    """
    found = found[~found["metric"].isin(SPENDING)].reset_index(drop=True)
    held = found["metric"].isin(DATA) | (found["upper"] > found["lower"])
    kept = found[held & found["versus"].eq("") & found["seed"].isna() & found["estimate"].notna()]
    kept = kept.iloc[(kept["target"].ne("") + 2 * kept["split"].ne("test")).argsort(kind="stable")]
    place = kept.groupby("metric", sort=False).cumcount()
    most = max(MOST, kept["metric"].nunique())
    return kept.loc[place[place < PER_METRIC].sort_values(kind="stable").index[:most]]


def tolerance(row: pd.Series) -> float:
    """Return by how much a number may differ from an expected row."""
    if row["upper"] > row["lower"]:  # False where they are undefined
        return WIDTHS[row["metric"] not in DATA] * (row["upper"] - row["lower"])
    return max(ROUNDING, RELATIVE * abs(row["estimate"]))  # the former where it is NaN


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> list[str]:
    """Return one line for every number that is not as expected, none if all are.

    Parameters
    ----------
    found, expected : pandas.DataFrame
        Headline results of this run, and the committed ones.
    """
    both = expected.merge(
        found, "outer", NAME, suffixes=("", " found"), indicator=True, validate="one_to_one"
    )
    lines = []
    for _, row in both.iterrows():
        name = " / ".join(str(v) for v in row[NAME] if pd.notna(v) and v != "")
        if row["_merge"] != "both":
            lines.append(f"{name}: {'missing' if row['_merge'] == 'left_only' else 'not expected'}")
            continue
        mine, theirs = (
            row[[f"{part}{whose}" for part in ("estimate", "lower", "upper")]].to_numpy(float)
            for whose in (" found", "")
        )
        agree = np.allclose(mine, theirs, rtol=0, atol=tolerance(row), equal_nan=True)
        if not agree or str(row["n"]) != str(row["n found"]):  # as text: either may be unknown
            lines.append(
                f"{name}: {_shown(mine, row['n found'])}, expected {_shown(theirs, row['n'])}, "
                f"each +- {tolerance(row):.2g}"
            )
    return lines


def _shown(values: np.ndarray, n: int) -> str:
    return f"{values[0]:.4g} [{values[1]:.4g}, {values[2]:.4g}] (n = {n})"


def check(study: Study, notebook: str, found: pd.DataFrame) -> str:
    """Record a notebook's results and say whether its headline numbers are as expected.

    Parameters
    ----------
    study : Study
        Expectations are kept for its exact parameters only.
    notebook : str
        Name of the notebook, without its ending.
    found : pandas.DataFrame
        Its results, all of which are recorded. The `headline` is held to.

    Returns
    -------
    str
        The verdict; the same text on every machine as long as all numbers are as expected.
    """
    held = headline(found)
    study.record(notebook, found)
    write_json(study.run_dir / "headline" / f"{notebook}.json", records(held))
    expected = _committed(study).get(study.parameters.fingerprint, {}).get(notebook)
    if expected is None:
        return "recorded; there are no committed numbers of these parameters to compare with"
    if not expected and held.empty:
        return "recorded; none of these numbers is held to any"
    if lines := compare(held, results(expected)):
        return "\n".join([f"{len(lines)} numbers are not as expected:", *lines])
    return f"all {len(held)} headline numbers are as expected"


def accept(study: Study) -> Path:
    """Make a run's headline numbers the expectation for its parameters, and return the file."""
    by_parameters = _committed(study)
    by_parameters[study.parameters.fingerprint] = {
        path.stem: read_json(path) for path in sorted(study.run_dir.glob("headline/*.json"))
    }
    write_json(study.root / EXPECTED, by_parameters)
    return study.root / EXPECTED


def _committed(study: Study) -> dict:
    path = study.root / EXPECTED
    return read_json(path) if path.exists() else {}
