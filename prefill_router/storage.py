"""Artifacts on disk: content-addressed, written atomically, verified when they are read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from prefill_router.errors import InputError

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "transformers", "datasets", "scikit-learn", "scipy", "numpy", "pandas")
STAGES = {
    "metrics": 1,
    "labels": 1,
    "extraction": 1,
    "answers": 1,
    "probes": 1,
    "features": 2,
    "trunk": 1,
    "baselines": 1,
    "policy": 1,
    "evaluation": 1,
    "recipe": 3,
    "router": 2,
    "zoo": 1,
    "config": 1,
    "report": 1,
    "experiments": 4,
}
"""The stages in order, each with the VERSION of its numbers.

A stage imports only earlier ones. Whoever changes the numbers of a stage raises its VERSION, so
that its artifacts, and those of all later stages, are made again; `tests/test_golden.py` fails
where that was forgotten. `report` and `config` hold no numbers, and have their place for imports
alone.
"""


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal characters that identify `parts` by value.

    Parameters
    ----------
    *parts : JSON-able values or ndarrays
        Dictionaries are compared without regard to the order of their keys; arrays by type, shape
        and bytes (object arrays as lists).

    Returns
    -------
    str
        The head of a SHA-256 digest.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            value = part.tolist() if isinstance(part, np.ndarray) else part
            digest.update(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def file_hash(path: str | os.PathLike) -> str:
    """Return the SHA-256 digest of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions(stage: str) -> dict[str, int | str]:
    """Return what the numbers of a stage rest on besides its inputs.

    Parameters
    ----------
    stage : str
        A key of `STAGES`.

    Returns
    -------
    dict
        The VERSION of this stage and of all earlier ones, and the version of every library that
        computes.
    """
    names = list(STAGES)
    earlier = names[: names.index(stage) + 1]
    return {name: STAGES[name] for name in earlier} | library_versions()


@functools.cache
def library_versions() -> dict[str, str]:
    """Return the installed version of every library that computes."""
    return {name: version(name) for name in LIBRARIES}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it only if the block succeeds.

    A reader sees the old file or the new one, never a part of one, even if the machine stops.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as temporary:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore or delete it.") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` against other processes; a process that is killed releases it.

    Where another process holds it, that is said once, if somebody watches, and waited for.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if sys.stderr.isatty():  # a notebook would keep it in its outputs
            print(f"Another process is making {path}; waiting until it is done.", file=sys.stderr)
        held = lock.acquire()
    with held:
        yield


class Store:
    """A directory of artifacts, each named by what it was made from.

    Parameters
    ----------
    root : path-like
        The directory; it is created when the first artifact is.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    def path(self, kind: str, key: dict[str, Any]) -> Path:
        """Return where the artifact of a key is, or would be."""
        return self.root / f"{kind}-{fingerprint(key)}"

    def get(
        self, kind: str, key: dict[str, Any], build: Callable[[Path], None], *, stage: str
    ) -> Path:
        """Return the artifact's directory: the verified one on disk, else a newly built one.

        The `versions` of its stage are part of the key, so nothing stale is served after a stage's
        VERSION was raised or a library upgraded.

        Parameters
        ----------
        kind : str
            What it is; the first part of the directory's name.
        key : dict
            Everything the content depends on, JSON-able.
        build : callable
            Writes the artifact's files into the (temporary) directory it is given.
        stage : str
            The latest stage, a key of `STAGES`, whose numbers the content holds.

        Returns
        -------
        pathlib.Path
            A directory with the files and a ``manifest.json`` that holds their hashes.

        Raises
        ------
        InputError
            If the manifest or a file is missing, or a file was altered or cut short.
        """
        key = {**key, "versions": versions(stage)}
        directory = self.path(kind, key)
        if not directory.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(directory):
                if not directory.exists():  # nor has another process just made it
                    self._make(directory, {"kind": kind, "key": key}, build)
        for name, expected in read_json(directory / MANIFEST)["files"].items():
            path = directory / name
            if not path.is_file() or file_hash(path) != expected:
                raise InputError(
                    f"{path} is missing or is not the file that was written (its hash differs "
                    f"from {MANIFEST}); delete {directory} to have it made again."
                )
        return directory

    def _make(self, directory: Path, about: dict[str, Any], build: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(dir=self.root, prefix=f".{directory.name}-") as temporary:
            made = Path(temporary) / about["kind"]
            made.mkdir()
            build(made)
            files = sorted(path for path in made.rglob("*") if path.is_file())
            hashes = {path.relative_to(made).as_posix(): file_hash(path) for path in files}
            write_json(made / MANIFEST, {**about, "files": hashes})
            os.replace(made, directory)
