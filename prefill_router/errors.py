"""The one exception that means: what was given cannot be used, and here is how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known) or 'none'}."


def check_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise InputError if a parameter's value is none of those known."""
    if value not in known:
        raise InputError(f"{name} {value!r} is unknown." + did_you_mean(value, known))
