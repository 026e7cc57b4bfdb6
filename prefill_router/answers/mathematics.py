"""Numbers in LaTeX, read by math-verify in a process that can be ended.

Answers are untrusted: ``9^{9^{9^9}}`` takes forever, in code that no signal interrupts, and signals
reach the main thread alone.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import TimeoutError
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

from joblib.externals.loky import ProcessPoolExecutor

LONGEST_WAIT = 5.0  # seconds; what is sensible takes milliseconds


@lru_cache
def latex_value(latex: str) -> float:
    """Return the value of a number in LaTeX; NaN if it is no number or takes too long."""
    try:
        return _process().submit(_value, latex).result(LONGEST_WAIT)
    except (TimeoutError, BrokenProcessPool):
        _process().shutdown(kill_workers=True)
        _process.cache_clear()
        return math.nan


def _value(latex: str) -> float:
    from math_verify import LatexExtractionConfig, parse

    found = parse(f"${latex}$", [LatexExtractionConfig()], parsing_timeout=None)
    try:
        return float(found[0].evalf())
    except Exception:  # sympy stumbles in too many ways to name
        return math.nan


@lru_cache
def _process() -> ProcessPoolExecutor:
    process = ProcessPoolExecutor(1, initializer=logging.disable)  # each failure would be logged
    process.submit(_value, "1").result()  # its imports do not count against the first number
    return process
