"""Progress bars where somebody watches, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def _bar(items: Iterable[T] | None, description: str, **options: Any) -> tqdm:
    hidden = not sys.stderr.isatty()
    return tqdm(items, desc=description, disable=hidden, leave=False, **options)


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
    return iter(_bar(iterable, description, total=total))


def note(text: str) -> None:
    """Write a line to standard error where no bar is shown, so that a log tells how far it is."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def meter(description: str, n_queries: int, n_tokens: int) -> Iterator[Callable[[int, int], None]]:
    """Show how far a long run over queries is; the time left follows from tokens, which take it.

    Parameters
    ----------
    description : str
        What is being done, in plain words.
    n_queries, n_tokens : int
        All that is to be done.

    Yields
    ------
    callable
        Called with the queries and the tokens just done.
    """
    done = 0
    with _bar(None, description, total=n_tokens, unit="tok", unit_scale=True) as bar:

        def advance(queries: int, tokens: int) -> None:
            nonlocal done
            done += queries
            bar.set_postfix_str(f"{done:,}/{n_queries:,} queries", refresh=False)
            bar.update(tokens)

        yield advance
