"""A router's files, read as if a stranger had written them: sizes, links, hashes and shapes first.

A router is a directory of ``router.json``, ``router.safetensors``, perhaps ``tokenizer-N.json`` of
targets, and a model card, which nobody parses. No other file is opened, and none is executed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from tokenizers import Tokenizer

from prefill_router.errors import InputError, did_you_mean
from prefill_router.router.config import FORMAT, RouterConfig
from prefill_router.router.tensors import check_tensors
from prefill_router.storage import atomic_write

CONFIG, TENSORS, CARD = "router.json", "router.safetensors", "README.md"
TOKENIZER = "tokenizer-{}.json"
LIMITS = {CONFIG: 2 * 2**20, TENSORS: 2 * 2**30, TOKENIZER: 64 * 2**20}  # bytes
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".npy", ".npz")
SHOWN = 3  # faults of a file that a message names


def read_config(directory: Path) -> RouterConfig:
    """Read ``router.json``.

    Raises
    ------
    InputError
        If `read_bytes` refuses it, or it is not what `RouterConfig` says.
    """
    path, content = directory / CONFIG, read_bytes(directory, CONFIG)
    try:
        return RouterConfig.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["loc"] == ("format",) and found[0]["type"] == "literal_error":
            raise InputError(
                f"{path} is not of format {FORMAT}: another version saved it. Make the router anew "
                "with this one: prefill-router fit LOOP.yaml, or Router.fit and save_pretrained."
            ) from None
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"[:200]
            for fault in found[:SHOWN]
        ]
        more = f" (and {len(found) - SHOWN} more)" if len(found) > SHOWN else ""
        raise InputError(
            f"{path} describes no router: {'; '.join(faults)}{more}. Fetch or save it again."
        ) from None


def read_tensors(directory: Path, config: RouterConfig) -> dict[str, np.ndarray]:
    """Read ``router.safetensors``: hash, names, types, shapes and values must be as they say.

    Raises
    ------
    InputError
        If they are not.
    """
    content = read_bytes(directory, TENSORS)
    _check_hash(directory / TENSORS, content, config.tensors)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{directory / TENSORS} is no safetensors file: {error}.") from error
    check_tensors(config, tensors, str(directory / TENSORS))
    return tensors


def read_tokenizers(directory: Path, config: RouterConfig) -> dict[int, Tokenizer]:
    """Read the targets' own tokenizers; their hashes must be those in ``router.json``.

    Raises
    ------
    InputError
        If one is not the file that was saved.
    """
    tokenizers = {}
    for k, name in tokenizer_files(config).items():
        content = read_bytes(directory, name)
        _check_hash(directory / name, content, config.prices[k].tokenizer)
        tokenizers[k] = parse_tokenizer(content, directory / name)
    return tokenizers


def tokenizer_files(config: RouterConfig) -> dict[int, str]:
    """Return the names of the files of targets' own tokenizers, by column."""
    prices = enumerate(config.prices or ())
    return {k: TOKENIZER.format(k) for k, price in prices if price.tokenizer is not None}


def read_bytes(directory: Path, name: str) -> bytes:
    """Return a file's bytes, once it is known to be a plain file of that directory, not too large.

    A link may lead to another file of the directory; in the hub's cache, to its blobs.

    Raises
    ------
    InputError
        If the file is missing, too large, no plain file, or lies elsewhere.
    """
    path = directory / name
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError) as error:
        found = sorted(file.name for file in directory.glob("*") if file.suffix in PICKLES)
        pickled = found and (
            f", though there is {found[0]!r}: pickled files can run code when they are opened, and "
            "are not read. Save the router again with save_pretrained"
        )
        raise InputError(f"{path}: no such file{pickled or ''}.") from error
    home = directory.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if real.parent not in homes:
        raise InputError(
            f"{path} is a link out of its directory, to {real}; put the file itself there."
        )
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no plain file; it is not opened.")
    limit = LIMITS.get(name, LIMITS[TOKENIZER])
    if status.st_size > limit:
        raise InputError(
            f"{path} has {status.st_size:,} bytes and is not read; at most {limit:,} are."
        )
    return real.read_bytes()


def _check_hash(path: Path, content: bytes, expected: str) -> None:
    if hashlib.sha256(content).hexdigest() != expected:
        raise InputError(
            f"{path} is not the file that was saved: its hash differs from the one in {CONFIG}. "
            "Fetch or save the router again."
        )


def parse_tokenizer(content: bytes, path: Path) -> Tokenizer:
    """Return the tokenizer that a ``tokenizer.json`` describes.

    Raises
    ------
    InputError
        If it describes none.
    """
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises nothing more specific
        raise InputError(f"{path} is no tokenizer ({str(error)[:200]}).") from error
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
        if target not in targets:
            hint = did_you_mean(target, targets)
            raise InputError(f"tokenizers: unknown target {target!r}.{hint}")
        path = Path(name).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"tokenizers: {target!r} has no {path}.")
        tokenizers[targets.index(target)] = parse_tokenizer(path.read_bytes(), path)
    return tokenizers


def write(
    directory: Path,
    config: RouterConfig,
    tensors: Mapping[str, np.ndarray],
    tokenizers: Mapping[int, Tokenizer],
    card: str,
) -> None:
    """Write a router's files, each whole or not at all; ``router.json`` comes last."""
    contents = {TOKENIZER.format(k): own.to_str().encode() for k, own in tokenizers.items()}
    contents[TENSORS] = tensor_bytes(tensors)
    contents[CARD] = card.encode()
    contents[CONFIG] = (config.model_dump_json(indent=1) + "\n").encode()
    for name, content in contents.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_bytes(content)


def tensor_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    return save_tensors({name: np.ascontiguousarray(t) for name, t in tensors.items()})


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the hash of the file that tensors are saved as."""
    return hashlib.sha256(tensor_bytes(tensors)).hexdigest()
