"""A router on the Hugging Face hub: only its own files are fetched, and none that is too large."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from prefill_router.errors import InputError
from prefill_router.extraction.sources import local_path
from prefill_router.router.files import (
    CONFIG,
    LIMITS,
    TENSORS,
    TOKENIZER,
    read_config,
    tokenizer_files,
)


def find(name: str, revision: str | None = None) -> Path:
    """Return the directory of a router: a local one, else its snapshot from the hub.

    Parameters
    ----------
    name : str
        A path, or ``owner/name`` on the Hugging Face hub.
    revision : str, optional
        A commit, branch or tag on the hub.

    Raises
    ------
    InputError
        If it is neither, the hub cannot be reached, or the repository there is no router or has a
        file that is too large.
    """
    directory = local_path(name)
    if directory is not None and directory.is_dir():
        return directory
    if directory is not None or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such directory; give that of a saved router, or a hub id.")
    try:
        return _fetch(name, revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at {revision}" if revision else ""
        raise InputError(
            f"The Hugging Face hub has no router {name!r}{at} that it would show (is it spelled "
            "right; does it ask for a login?), and there is no such directory."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name!r} is no directory, and the Hugging Face hub cannot be reached for it "
            f"({type(error).__name__}): this machine is offline, or the name is no hub id."
        ) from error


def _fetch(name: str, revision: str | None) -> Path:
    """Download the files that a router consists of, each once its size is known."""
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # however the client says that there is no connection: what was fetched once
        kept = [CONFIG, TENSORS]
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=kept, local_files_only=True)
        )
    sizes = {file.rfilename: file.size for file in info.siblings}

    def fetch(files: Iterable[str], revision: str | None) -> Path:
        for file in files:
            _check_size(name, sizes, file)
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))

    directory = fetch([CONFIG], revision)
    needed = [TENSORS, *tokenizer_files(read_config(directory)).values()]
    return fetch(needed, directory.name)  # of the same commit


def _check_size(name: str, sizes: dict[str, int | None], file: str) -> None:
    limit = LIMITS.get(file, LIMITS[TOKENIZER])
    if file not in sizes:
        raise InputError(f"{name} on the Hugging Face hub is no router: it has no {file}.")
    if sizes[file] is None or sizes[file] > limit:
        size = "an unknown number of" if sizes[file] is None else f"{sizes[file]:,}"
        raise InputError(
            f"{file} of {name} has {size} bytes on the Hugging Face hub and is not fetched; at "
            f"most {limit:,} are."
        )
