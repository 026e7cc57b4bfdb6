"""Do the headline numbers of a run agree with the committed ones of the same parameters?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prefill_router.errors import InputError
from prefill_router.evaluation.results import COLUMNS, records, results
from prefill_router.experiments.published import published_run
from prefill_router.experiments.study import Study
from prefill_router.storage import read_json, write_json

EXPECTED = Path("experiments") / "expectations.json"
NAME = COLUMNS[:-4]
"""The columns that say what a number is."""
NETWORKS, DATA = 0.5, 0.25
UNIT = {
    **dict.fromkeys(("accuracy", "gap closed", "AUC", "Brier", "pairwise Brier", "ECE"), NETWORKS),
    **dict.fromkeys(("headroom", "cross-validated AUC", "mean norm"), DATA),
    **dict.fromkeys(("J", "J_white", "d_eff", "anisotropy"), DATA),
}
"""The metrics held to, and by how much of its interval's width a number may differ.

Other machines train other networks, which move what rests on them by up to half a width.
"""
RELATIVE, ROUNDING = 0.01, 1e-6
"""A number without an interval may differ by one part in a hundred, or by rounding."""
MOST, PER_METRIC = 11, 3
"""Numbers of a notebook that are held to, in all and of one metric."""


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Return the first numbers of each metric in `UNIT`, those over all targets before others.

    Differences, single networks and what is undefined are left out: they are less stable.
    """
    stable = found["metric"].isin(list(UNIT)) & found["versus"].eq("") & found["seed"].isna()
    kept = found[stable & found["estimate"].notna()]
    kept = kept.sort_values("target", key=lambda target: target.ne(""), kind="stable")
    return kept.groupby("metric", sort=False).head(PER_METRIC).head(MOST)


def tolerance(row: pd.Series) -> float:
    """Return by how much a number may differ from an expected row."""
    if row["upper"] > row["lower"]:  # False where they are undefined
        return UNIT[row["metric"]] * (row["upper"] - row["lower"])
    return max(RELATIVE * abs(row["estimate"]), ROUNDING)


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
        if str(row["n"]) != str(row["n found"]):  # as text: either may be unknown
            lines.append(f"{name}: n = {row['n found']}, expected {row['n']}")
        for part, said in (("estimate", ""), ("lower", " (lower)"), ("upper", " (upper)")):
            mine, theirs = row[f"{part} found"], row[part]
            undefined = pd.isna(mine) and pd.isna(theirs)
            if not (undefined or abs(mine - theirs) <= tolerance(row)):
                lines.append(
                    f"{name}{said}: {mine:.4g}, expected {theirs:.4g} +- {tolerance(row):.2g}"
                )
    return lines


def check(
    study: Study, notebook: str, found: pd.DataFrame, held: pd.DataFrame | None = None
) -> str:
    """Record a notebook's results and say whether its headline numbers are as expected.

    Parameters
    ----------
    study : Study
        Expectations are kept for its exact parameters only.
    notebook : str
        Name of the notebook, without its ending.
    found : pandas.DataFrame
        Its results, all of which are recorded unless they are another run's, published.
    held : pandas.DataFrame, optional
        Those that are held to; by default the `headline`.

    Returns
    -------
    str
        The verdict; the same text on every machine as long as all numbers are as expected.

    Raises
    ------
    InputError
        If what is to be held is of a metric without a tolerance, or too much.
    """
    held = headline(found) if held is None else held
    if unknown := sorted(set(held["metric"]) - set(UNIT)):
        raise InputError(f"No tolerance is known of {', '.join(unknown)}: see UNIT.")
    if len(held) > MOST:
        raise InputError(f"{len(held)} numbers are to be held; at most {MOST} per notebook are.")
    if published_run(study, notebook) is None:
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
