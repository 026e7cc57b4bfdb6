"""A router's files, read as if a stranger had written them: sizes, links, hashes and shapes first.

A router is a directory of ``router.json``, ``router.safetensors``, perhaps ``tokenizer-N.json`` of
targets, and a model card, which nobody parses. No other file is opened, and none is executed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from tokenizers import Tokenizer

from prefill_router.errors import InputError, check_known
from prefill_router.extraction.sources import local_path
from prefill_router.router.card import model_card
from prefill_router.router.contents import FORMAT, RouterConfig, Tensors, check_tensors
from prefill_router.storage import atomic_write

CONFIG, TENSORS, CARD = "router.json", "router.safetensors", "README.md"
TOKENIZER = "tokenizer-{}.json"
LIMITS = {CONFIG: 2 * 2**20, TENSORS: 2 * 2**30, TOKENIZER: 64 * 2**20}  # bytes


def read(directory: Path) -> tuple[RouterConfig, dict[str, np.ndarray], dict[int, Tokenizer]]:
    """Read a router's description, its tensors, and targets' own tokenizers by column.

    Raises
    ------
    InputError
        If a file is missing, too large, no plain file of that directory, or not what it should be.
    """
    config = _parse_config(_read_bytes(directory, CONFIG), directory / CONFIG)
    content = _read_bytes(directory, TENSORS, config.tensors)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{directory / TENSORS} is no safetensors file: {error}.") from error
    check_tensors(config, tensors, str(directory / TENSORS))
    tokenizers = {}
    for target, digest in config.tokenizers.items():
        name = TOKENIZER.format(k := config.targets.index(target))
        tokenizers[k] = parse_tokenizer(_read_bytes(directory, name, digest), name)
    return config, tensors, tokenizers


def _parse_config(content: bytes, path: Path) -> RouterConfig:
    try:
        return RouterConfig.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    where, what = found[0]["loc"], found[0]["msg"]
    if where == ("format",) and found[0]["type"] == "literal_error":
        raise InputError(
            f"{path} is not of format {FORMAT}: another version saved it. Make the router anew "
            "with this one: prefill-router fit LOOP.yaml, or Router.fit and save_pretrained."
        )
    fault = f"{'.'.join(map(str, where)) or 'the file'}: {what}"[:200]
    raise InputError(f"{path} describes no router: {fault}. Fetch or save it again.")


def _read_bytes(directory: Path, name: str, sha256: str | None = None) -> bytes:
    """Return a file's bytes, once it is known to be a plain file of that directory, not too large.

    A link may lead to another file of the directory; in the hub's cache, to its blobs.
    """
    path = directory / name
    try:
        real = path.resolve(strict=True)
        size = real.stat().st_size
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: no such file. (Pickled files can run code, and are never opened.)"
        ) from error
    home = directory.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if real.parent not in homes or not real.is_file():
        raise InputError(
            f"{path} is a link out of its directory or no plain file ({real}), and is not opened; "
            "put the file itself there."
        )
    _check_size(size, name, path)
    content = real.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"{path} is not the file that was saved: its hash differs from the one in {CONFIG}. "
            "Fetch or save the router again."
        )
    return content


def _check_size(size: int | None, name: str, where: str | Path) -> None:
    most = LIMITS.get(name, LIMITS[TOKENIZER])
    if size is None or size > most:
        has = "an unknown number of" if size is None else f"{size:,}"
        raise InputError(f"{where} has {has} bytes and is not read; at most {most:,} are.")


def parse_tokenizer(content: bytes, name: str) -> Tokenizer:
    """Return the tokenizer that a ``tokenizer.json`` describes.

    Raises
    ------
    InputError
        If it describes none.
    """
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises nothing more specific
        raise InputError(f"{name} is no tokenizer ({str(error)[:200]}).") from error
    tokenizer.no_truncation()  # what is counted is all that is paid for, and nothing else
    tokenizer.no_padding()
    return tokenizer


def read_own_tokenizers(
    paths: Mapping[str, str | os.PathLike], targets: Sequence[str]
) -> dict[int, Tokenizer]:
    """Return the tokenizers of some targets, by their column.

    Raises
    ------
    InputError
        If a target is unknown, or has no ``tokenizer.json`` there.
    """
    tokenizers = {}
    for target, name in paths.items():
        check_known("tokenizers: target", target, targets)
        path = Path(name).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"tokenizers: {target!r} has no {path}.")
        tokenizers[targets.index(target)] = parse_tokenizer(path.read_bytes(), str(path))
    return tokenizers


def write(
    directory: Path, config: RouterConfig, tensors: Tensors, tokenizers: Mapping[int, Tokenizer]
) -> None:
    """Write a router's files, each whole or not at all; ``router.json`` comes last."""
    contents = {TOKENIZER.format(k): own.to_str() for k, own in tokenizers.items()}
    contents |= {TENSORS: tensor_bytes(tensors), CARD: model_card(config)}
    contents[CONFIG] = config.model_dump_json(indent=1) + "\n"
    for name, content in contents.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def tensor_bytes(tensors: Tensors) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    return save_tensors({name: np.ascontiguousarray(t) for name, t in tensors.items()})


def tensors_digest(tensors: Tensors) -> str:
    """Return the hash of the file that tensors are saved as."""
    return hashlib.sha256(tensor_bytes(tensors)).hexdigest()


def find(name: str, revision: str | None = None) -> Path:
    """Return the directory of a router: a local one, else its snapshot from the hub.

    Of a repository only a router's own files are fetched, and none that is too large.

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
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"There is no such directory as {name!r}, and no router {name!r} that the Hugging Face "
            "hub would show (is it spelled right; does it ask for a login?), or the hub cannot be "
            f"reached ({type(error).__name__})."
        ) from error


def _fetch(name: str, revision: str | None) -> Path:
    """Download the files that a router may consist of, once their sizes are known."""
    own = [CONFIG, TENSORS, TOKENIZER.format("*")]
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # however the client says that there is no connection: what was fetched once
        info = None
    else:
        sizes = {file.rfilename: file.size for file in info.siblings}
        for file in {CONFIG, TENSORS} - {*sizes}:
            raise InputError(f"{name} on the Hugging Face hub is no router: it has no {file}.")
        for file in filter_repo_objects(sizes, allow_patterns=own):
            _check_size(sizes[file], file, f"{file} of {name}")
    offline = info is None
    return Path(
        snapshot_download(name, revision=revision, allow_patterns=own, local_files_only=offline)
    )
