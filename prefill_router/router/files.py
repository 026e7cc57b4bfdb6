"""A router's files, read as if a stranger had written them: sizes, links, shapes, hashes first.

A router is a directory of ``router.json``, ``router.safetensors``, perhaps ``tokenizer-N.json`` of
targets, and a model card, which nobody parses. No other file is opened, and none is executed.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from tokenizers import Tokenizer

from prefill_router.errors import InputError
from prefill_router.router.config import RouterConfig
from prefill_router.router.parts import tensor_layout
from prefill_router.storage import atomic_write

CONFIG, TENSORS, CARD = "router.json", "router.safetensors", "README.md"
TOKENIZER = "tokenizer-{}.json"
LIMITS = {CONFIG: 2 * 2**20, TENSORS: 2 * 2**30, TOKENIZER: 64 * 2**20}  # bytes
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".npy", ".npz")
SHOWN = 3  # faults of a file that a message names


def read_bytes(directory: Path, name: str, limit: int) -> bytes:
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
        raise InputError(f"{path}: no such file{_pickled(directory)}.") from error
    home = directory.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if real.parent not in homes:
        raise InputError(
            f"{path} is a link out of its directory, to {real}; put the file itself there."
        )
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no plain file; it is not opened.")
    if status.st_size > limit:
        raise InputError(
            f"{path} has {status.st_size:,} bytes and is not read; at most {limit:,} are."
        )
    with real.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{path} grew beyond {limit:,} bytes while it was read.")
    return content


def _pickled(directory: Path) -> str:
    found = sorted(path.name for path in directory.glob("*") if path.suffix in PICKLES)
    if not found:
        return ""
    return (
        f", though there is {found[0]!r}: pickled files can run code when they are opened, and are "
        "not read. Save the router again with save_pretrained"
    )


def read_config(directory: Path) -> RouterConfig:
    """Read ``router.json``.

    Raises
    ------
    InputError
        If `read_bytes` refuses it, or it is not what `RouterConfig` says.
    """
    content = read_bytes(directory, CONFIG, LIMITS[CONFIG])
    try:
        return RouterConfig.model_validate_json(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"[:200]
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        raise InputError(
            f"{directory / CONFIG} is no router of this version: "
            f"{'; '.join(faults[:SHOWN])}{more}. If an earlier version "
            "saved it, fit and save it again."
        ) from None


def read_tensors(directory: Path, config: RouterConfig) -> dict[str, np.ndarray]:
    """Read ``router.safetensors``: the hash, names, types, shapes and values must be as they say.

    Raises
    ------
    InputError
        If they are not.
    """
    path = directory / TENSORS
    content = read_bytes(directory, TENSORS, LIMITS[TENSORS])
    if hashlib.sha256(content).hexdigest() != config.tensors:
        raise InputError(
            f"{path} is not the file that was saved: its hash differs from the one in {CONFIG}. "
            "Fetch or save the router again."
        )
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is no safetensors file: {error}.") from error
    expected = tensor_layout(config)
    if set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))[0][:100]
        raise InputError(
            f"{path} {'lacks' if odd in expected else 'has an unexpected'} tensor {odd!r}."
        )
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        fits = len(tensor.shape) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != dtype:
            raise InputError(
                f"{path}: {name} is {tensor.dtype} {tensor.shape}; it must be {dtype} "
                f"{tuple('any' if n is None else n for n in shape)}."
            )
        if not np.isfinite(tensor).all() or tensor.size == 0:
            raise InputError(f"{path}: {name} holds values that are no finite numbers, or none.")
    return tensors


def read_tokenizers(directory: Path, config: RouterConfig) -> dict[int, Tokenizer]:
    """Read the targets' own tokenizers; their hashes must be those in ``router.json``.

    Raises
    ------
    InputError
        If one is not the file that was saved.
    """
    tokenizers = {}
    for k, record in enumerate(config.prices or ()):
        if record.tokenizer is None:
            continue
        name = TOKENIZER.format(k)
        content = read_bytes(directory, name, LIMITS[TOKENIZER])
        if hashlib.sha256(content).hexdigest() != record.tokenizer:
            raise InputError(
                f"{directory / name} is not the file that was saved: {CONFIG} has another hash."
            )
        tokenizers[k] = parse_tokenizer(content, directory / name)
    return tokenizers


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


def write(
    directory: Path,
    config: RouterConfig,
    tensors: dict[str, np.ndarray],
    tokenizers: dict[int, Tokenizer],
    card: str,
) -> None:
    """Write a router's files, each whole or not at all; ``router.json`` comes last."""
    contents = {
        TOKENIZER.format(k): tokenizer.to_str().encode() for k, tokenizer in tokenizers.items()
    }
    contents[TENSORS] = tensor_bytes(tensors)
    contents[CARD] = card.encode()
    contents[CONFIG] = (config.model_dump_json(indent=1) + "\n").encode()
    for name, content in contents.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_bytes(content)


def tensor_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    return save_tensors({name: np.ascontiguousarray(t) for name, t in tensors.items()})
