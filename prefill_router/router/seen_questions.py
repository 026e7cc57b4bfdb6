"""Questions that a router was fitted to, kept as digests, so that it tells them from others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from prefill_router.extraction.keys import question_digest

BYTES = 8
"""Of a digest: of a million questions and a million others, two are taken for one by 5e-8."""


def digests(questions: Iterable[str]) -> np.ndarray:
    """Return what is kept of questions.

    Parameters
    ----------
    questions : iterable of str
        White space around them does not count, as it does not for groups.

    Returns
    -------
    ndarray of uint64 of shape (n,)
        Sorted, each once.
    """
    return np.unique(_digests(questions))


def are_seen(questions: Iterable[str], known: np.ndarray) -> np.ndarray:
    """Return which of N questions are among those whose `digests` are known, bool (N,)."""
    return np.isin(_digests(questions), known)


def _digests(questions: Iterable[str]) -> np.ndarray:
    heads = b"".join(question_digest(text.strip())[:BYTES].tobytes() for text in questions)
    return np.frombuffer(heads, dtype="<u8").astype(np.uint64)
