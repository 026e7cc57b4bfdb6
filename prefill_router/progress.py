"""Progress bars where somebody watches, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar on standard error if it is a terminal, silently otherwise.

    Notebooks, logs and continuous integration write no bar: a bar stored in a notebook's output
    differs on every run, so it could never be compared.

    Parameters
    ----------
    iterable : iterable
        What to iterate over.
    description : str
        What is being done, in plain words.
    total : int, optional
        Number of items, where `iterable` has no length.

    Returns
    -------
    iterator
        The items of `iterable`.
    """
    hidden = not sys.stderr.isatty()
    return iter(tqdm(iterable, desc=description, total=total, disable=hidden, leave=False))
