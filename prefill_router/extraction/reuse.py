"""States that an earlier extraction holds, so that they need not be read again."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefill_router.errors import InputError
from prefill_router.extraction import Reading
from prefill_router.extraction.activations import StoredStates
from prefill_router.extraction.layout import Layout
from prefill_router.storage import MANIFEST, read_json

MAY_DIFFER = ("questions", "layers", "poolings")


@dataclass(frozen=True)
class Known:
    """What an earlier extraction knows of N queries.

    Attributes
    ----------
    earlier : StoredStates
        The earlier extraction.
    rows : int64 ndarray of shape (N,)
        Where each query stands there, -1 for a new one.
    layers : list of int
        Layers wanted that are there, with every pooling wanted.
    """

    earlier: StoredStates
    rows: np.ndarray
    layers: list[int]

    def in_order(self) -> np.ndarray:
        """Return the known queries in the order in which the earlier extraction keeps them."""
        place = np.empty(self.earlier.n_queries, dtype=np.int64)
        place[self.earlier.layout.plan.rows] = np.arange(self.earlier.n_queries)
        known = np.flatnonzero(self.rows >= 0)
        return known[np.argsort(place[self.rows[known]], kind="stable")]

    def take(self, layer: int, pooling: str, rows: np.ndarray) -> np.ndarray:
        """Return the states of some queries, float32 (n, D)."""
        return self.earlier.take(layer, pooling, self.rows[rows])

    def describe(self) -> dict[str, Any]:
        """Return what identifies the earlier extraction, JSON-able."""
        return {"name": self.earlier.path.name, "owner": self.earlier.layout.owner}


def find_known(
    directories: Iterable[Path], key: dict[str, Any], digests: np.ndarray, reading: Reading
) -> Known | None:
    """Return the earlier extraction that spares most work, or None if none does.

    Parameters
    ----------
    directories : iterable of path-like
        Finished extractions; what cannot be opened is passed over.
    key : dict
        That of the new extraction. Only questions, layers and poolings may differ.
    digests : uint8 ndarray of shape (N, 16)
        Of the new extraction's questions.
    reading : Reading
        Whose layers and poolings are wanted. A pooling that the earlier extraction lacks needs its
        whole forward pass again, so nothing is taken over then.

    Returns
    -------
    Known or None
    """
    found = [_compare(Path(d), key, digests, reading.layers, reading.poolings) for d in directories]
    useful = [known for known in found if known is not None and known.layers]
    worth = [(known.rows >= 0).sum() * len(known.layers) for known in useful]
    return useful[int(np.argmax(worth))] if useful and max(worth) else None


def named_known(layout: Layout, directories: Iterable[Path]) -> Known | None:
    """Return the earlier extraction that a plan names; None, to read all anew, if it is gone."""
    named = layout.description["taken_over"]
    for directory in map(Path, directories if named else ()):
        if directory.name == named["name"]:
            d = layout.description
            known = _compare(directory, d["key"], layout.digests, d["layers"], d["poolings"])
            if known is not None and known.describe() == named:
                return known
    return None


def _compare(
    directory: Path,
    key: dict[str, Any],
    digests: np.ndarray,
    layers: list[int],
    poolings: list[str],
) -> Known | None:
    with contextlib.suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # states that are not finite stay so, and are reported anew
        manifest = read_json(directory / MANIFEST)
        same = {**manifest["key"], **{name: key[name] for name in MAY_DIFFER}} == key
        if not same or not set(poolings) <= set(manifest["poolings"]):
            return None
        earlier = StoredStates.open(directory)
        places = {digest.tobytes(): row for row, digest in enumerate(earlier.layout.digests)}
        rows = np.array([places.get(digest.tobytes(), -1) for digest in digests])
        return Known(earlier, rows, [layer for layer in layers if layer in manifest["layers"]])
    return None
