"""Do the numbers of a run agree with the committed ones of the same parameters?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefill_router.evaluation.estimates import Estimate, as_estimates
from prefill_router.experiments.routers import PRIMARY
from prefill_router.experiments.study import Study
from prefill_router.storage import read_json, write_json

EXPECTED = Path("experiments") / "expectations.json"
SHARE_OF_WIDTH = 0.25
"""A number with an interval may differ by as much of the interval's width..."""
SHARE_OF_NETWORKS = 0.5
"""...and by as much where trained networks are named: other seeds move them so."""
RELATIVE = 0.01
"""A number without an interval (J, d_eff...) may differ by one part in a hundred..."""
ROUNDING = 1e-6
"""...and by this where it is zero but for rounding."""
OPERATING = {"cost saving": (0.05, 0), "saving against": (0.05, 0), "mean cost": (0, 0.1)}
"""What hangs on a tolerance chosen on validation may differ by as much, absolute or relative.

Predictions that differ in the last digits may be best at another tolerance, at which a router is
about as accurate and saves another share. Networks of other seeds stay within this.
"""
UNTUNED = ("always ", "best single", "oracle", "random", "single target", "training accuracy")
"""Routers of which no tolerance is chosen."""
JUMPING = ("p-value", "detectable", "deviation", "saving at equal accuracy")
"""Numbers that jump where a single answer turns, unless they come with an interval."""
STEPPING = ("certified tau", "median certified tau")
ALONE = (", seed ", ", prices to the ")
"""Marks of routers that are one network, or the best point of one curve."""


def jumps(row: Estimate) -> bool:
    """Return whether a number is recorded and not held to: it may differ between machines."""
    has_interval = row.upper > row.lower  # False where they are undefined
    return (
        row.metric in STEPPING
        or any(mark in row.router for mark in ALONE)
        or (row.metric.startswith(JUMPING) and not has_interval)
    )


def _name(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[part]) for part in ("metric", "router", "target", "split"))


def tolerance(row: dict[str, Any]) -> float:
    """Return by how much a number may differ from an expected row."""
    size = abs(row["estimate"] or 0.0)
    if row["lower"] is not None and row["upper"] is not None and row["upper"] > row["lower"]:
        share = SHARE_OF_NETWORKS if PRIMARY in row["router"] else SHARE_OF_WIDTH
        allowed = share * (row["upper"] - row["lower"])
    else:
        allowed = max(RELATIVE * size, ROUNDING)
    if row["router"].startswith(UNTUNED):
        return allowed
    more = [a + r * size for name, (a, r) in OPERATING.items() if row["metric"].startswith(name)]
    return max([allowed, *more])


def compare(found: Sequence[Estimate], expected: Sequence[dict[str, Any]]) -> list[str]:
    """Return one line for every number that is not as expected, none if all are.

    Parameters
    ----------
    found : sequence of Estimate
        The results of this run.
    expected : sequence of dict
        Committed rows: the fields of `Estimate`, None where a number is undefined.
    """
    rows = {_name(asdict(estimate)): estimate for estimate in found}
    lines = [f"{' / '.join(filter(None, _name(row)))}: missing" for row in expected
             if _name(row) not in rows]  # fmt: skip
    known = {_name(row) for row in expected}
    lines += [f"{' / '.join(filter(None, name))}: not expected" for name in rows.keys() - known]
    for row in expected:
        if _name(row) not in rows:
            continue
        name = " / ".join(filter(None, _name(row)))
        for part in ("estimate", "lower", "upper"):
            mine = getattr(rows[_name(row)], part)
            theirs = math.nan if row[part] is None else row[part]
            both_undefined = math.isnan(mine) and math.isnan(theirs)
            if not (abs(mine - theirs) <= tolerance(row) or both_undefined):
                which = "" if part == "estimate" else f" ({part} bound)"
                lines.append(
                    f"{name}{which}: {mine:.4g}, expected {theirs:.4g} +- {tolerance(row):.2g}"
                )
        if rows[_name(row)].n != row["n"]:
            lines.append(f"{name}: n = {rows[_name(row)].n}, expected {row['n']}")
    return sorted(lines)


def check(study: Study, notebook: str, found: Sequence[Estimate]) -> str:
    """Record a notebook's results and say whether they are as expected.

    Parameters
    ----------
    study : Study
        Expectations are kept for its exact parameters only.
    notebook : str
        Name of the notebook, without its ending.
    found : sequence of Estimate
        Its results; those that `jumps` tells are recorded, and not compared.

    Returns
    -------
    str
        The verdict; the same text on every machine as long as all numbers are as expected.
    """
    found = as_estimates(found)
    study.record(notebook, found)
    path = study.root / EXPECTED
    by_parameters = read_json(path) if path.exists() else {}
    expected = by_parameters.get(study.parameters.fingerprint, {}).get(notebook)
    if expected is None:
        return "recorded; there are no committed numbers of these parameters to compare with"
    held = [row for row in found if not jumps(row)]
    jumping = {_name(asdict(row)) for row in found if jumps(row)}
    expected = [row for row in expected if _name(row) not in jumping]
    lines = compare(held, expected)
    if not lines:
        return f"all {len(expected)} numbers are as expected"
    return "\n".join([f"{len(lines)} numbers are not as expected:", *lines])


def accept(study: Study) -> Path:
    """Make a run's recorded results the expectation for its parameters, and return the file."""
    path = study.root / EXPECTED
    by_parameters = read_json(path) if path.exists() else {}
    by_parameters[study.parameters.fingerprint] = {
        metrics.stem: read_json(metrics) for metrics in sorted(study.run_dir.glob("metrics/*.json"))
    }
    write_json(path, by_parameters)
    return path
