"""The one exception that means: what was given cannot be used, and here is how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from textwrap import shorten

MOST = 600  # characters of a list of names that a message shows


class InputError(ValueError):
    """Raised for bad input: names the file, row or parameter at fault and how to mend it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suffix for an error message that suggests known names close to `name`.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable of str
        What would have been accepted.

    Returns
    -------
    str
        ``" Did you mean 'x'?"`` or, if nothing is close, ``" Known: ..."``.
    """
    known = {other.casefold(): other for other in sorted(map(str, known))}
    if close := difflib.get_close_matches(str(name).casefold(), known, n=1):
        return f" Did you mean {known[close[0]]!r}?"
    return f" Known: {shorten(', '.join(known.values()), MOST) or 'none'}."


def check_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise InputError if a parameter's value is none of those known."""
    if value not in known:
        raise InputError(f"{name} {value!r} is unknown." + did_you_mean(value, known))
