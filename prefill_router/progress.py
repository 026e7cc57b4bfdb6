"""Progress bars where somebody watches, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
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
    return iter(tqdm(iterable, description, total, leave=False, disable=None))


def note(text: str) -> None:
    """Write a line to standard error where no bar is shown, so that a log tells how far it is."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def meter(description: str, n_tokens: np.ndarray) -> Iterator[Callable[[np.ndarray], None]]:
    """Show how far a long run over queries is; the time left follows from tokens, which take it.

    Parameters
    ----------
    description : str
        What is being done, in plain words.
    n_tokens : int64 ndarray of shape (N,)
        Tokens of each query.

    Yields
    ------
    callable
        Called with the tokens of each query just done.
    """
    done, shown = 0, {"leave": False, "disable": None, "unit": "tok", "unit_scale": True}
    with tqdm(desc=description, total=int(n_tokens.sum()), **shown) as bar:

        def advance(tokens: np.ndarray) -> None:
            nonlocal done
            done += len(tokens)
            bar.set_postfix_str(f"{done:,}/{len(n_tokens):,} queries", refresh=False)
            bar.update(int(tokens.sum()))

        yield advance
