"""Do the headline numbers of a run agree with the committed ones of the same parameters?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prefill_router.evaluation.comparison import SAVING, SAVING_AGAINST_BEST
from prefill_router.evaluation.results import COLUMNS, read_metrics, records, results
from prefill_router.experiments.study import Study
from prefill_router.storage import read_json, write_json

EXPECTED = Path("experiments") / "expectations.json"
NAME = COLUMNS[:-4]
"""The columns that say what a number is."""
SPENDING = ("mean cost", SAVING, SAVING_AGAINST_BEST)
"""Not held: what a policy spends jumps with its tolerance, which is chosen on validation rows."""
MOST, PER_METRIC = 12, 3
"""Numbers held of a notebook; and of one metric."""
WIDTH = 0.5
"""By how much of its interval's width a number may differ: other machines train other networks."""
RELATIVE, ROUNDING = 0.01, 1e-6
"""A number without an interval may differ by one part in a hundred, or by rounding."""


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers that are held: some of every metric, first of test, and over all targets.

    They have an interval or are of one layer, such as J, for which nothing is trained. Differences,
    single networks, `SPENDING` and what is undefined are left out, for they are less stable.
    """
    found = found[~found["metric"].isin(SPENDING)].reset_index(drop=True)
    held = (found["upper"] > found["lower"]) | found["layer"].notna()
    kept = found[held & found["versus"].eq("") & found["seed"].isna() & found["estimate"].notna()]
    kept = kept.iloc[(kept["target"].ne("") + 2 * kept["split"].ne("test")).argsort(kind="stable")]
    place = kept.groupby("metric", sort=False).cumcount()
    return kept.loc[place[place < PER_METRIC].sort_values(kind="stable").index[:MOST]]


def tolerance(row: Mapping[str, Any]) -> float:
    """Return by how much a number may differ from an expected row."""
    if row["upper"] > row["lower"]:  # False where they are undefined
        return WIDTH * (row["upper"] - row["lower"])
    return max(ROUNDING, RELATIVE * abs(row["estimate"]))  # the former where it is NaN


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> list[str]:
    """Return one line for every number that is not as expected, none if all are.

    Parameters
    ----------
    found, expected : pandas.DataFrame
        Headline results of this run, and the committed ones.
    """
    mine, theirs = (
        {_about(row): row for row in frame.to_dict("records")} for frame in (found, expected)
    )
    wrong = [(about, "missing") for about in theirs if about not in mine]
    wrong += [(about, "not expected") for about in mine if about not in theirs]
    for about, row in theirs.items():
        if about in mine and not _agree(mine[about], row):
            said = f"{_shown(mine[about])}, expected {_shown(row)}, each +- {tolerance(row):.2g}"
            wrong.append((about, said))
    return [f"{' / '.join(str(value) for _, value in about)}: {said}" for about, said in wrong]


def _about(row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return what a number is of: the columns that say something."""
    return tuple((name, row[name]) for name in NAME if pd.notna(row[name]) and row[name] != "")


def _agree(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    a, b = ([row[name] for name in ("estimate", "lower", "upper")] for row in (mine, theirs))
    close = np.allclose(a, b, rtol=0, atol=tolerance(theirs), equal_nan=True)
    return close and str(mine["n"]) == str(theirs["n"])  # as text: either may be unknown


def _shown(row: Mapping[str, Any]) -> str:
    return "{estimate:.4g} [{lower:.4g}, {upper:.4g}] (n = {n})".format(**row)


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
        path.stem: records(headline(read_metrics(path)))
        for path in sorted(study.run_dir.glob("metrics/*.json"))
    }
    write_json(study.root / EXPECTED, by_parameters)
    return study.root / EXPECTED


def _committed(study: Study) -> dict:
    path = study.root / EXPECTED
    return read_json(path) if path.exists() else {}
