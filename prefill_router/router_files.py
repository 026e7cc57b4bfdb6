"""A router's files, read as if a stranger had written them: sizes, links, shapes, hashes first.

A router is a directory of ``router.json``, ``router.safetensors``, perhaps ``tokenizer-N.json`` of
targets, and a model card, which nobody parses. No other file is opened, and none is executed.
"""

from __future__ import annotations

import hashlib
import itertools
import stat
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from tokenizers import Tokenizer

from prefill_router.errors import InputError
from prefill_router.router_config import RouterConfig
from prefill_router.storage import atomic_write

CONFIG, TENSORS, CARD = "router.json", "router.safetensors", "README.md"
TOKENIZER = "tokenizer-{}.json"
PATTERNS = (CONFIG, TENSORS, CARD, TOKENIZER.format("*"))
LIMITS = {CONFIG: 2 * 2**20, TENSORS: 2 * 2**30, TOKENIZER: 64 * 2**20}  # bytes
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".npy", ".npz")
SHOWN = 3  # faults of a file that a message names


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
        If it is neither, or the hub cannot be reached.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise InputError(f"{name}: no such directory; give that of a saved router, or a hub id.")
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(PATTERNS)))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at {revision}" if revision else ""
        raise InputError(
            f"The Hugging Face hub has no router {name!r}{at} that it would show (is it spelled "
            "right; does it ask for a login?), and there is no such directory."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name!r} is no directory, and the Hugging Face hub cannot be reached for it "
            f"({type(error).__name__}): this machine is offline, or the name is no hub id."
        ) from error


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


def tensor_layout(config: RouterConfig) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Return the type and shape of every tensor that a router has, by name; None is any length."""
    n_places, n_targets, shapes = len(config.places), len(config.targets), config.shapes
    n_inputs = n_places * shapes.components
    layout = {
        "centre": ("float32", (n_places, 1, shapes.width)),
        "projection": ("float32", (n_places, shapes.width, shapes.components)),
        "calibration.coefficients": ("float64", (n_targets, 3)),
        "validation.p": ("float64", (shapes.validation, n_targets)),
        "validation.correct": ("int8", (shapes.validation, n_targets)),
    }
    widths = [n_inputs, *shapes.hidden, n_targets]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layout[f"weight.{i}"] = ("float32", (shapes.networks, inputs, outputs))
        layout[f"bias.{i}"] = ("float32", (shapes.networks, 1, outputs))
    for k, family in enumerate(config.calibration):
        if family == "isotonic":
            layout[f"calibration.steps.{k}"] = ("float64", (2, None))
    if config.prices is not None:
        layout["validation.cost"] = ("float64", (shapes.validation, n_targets))
        layout["lengths.slopes"] = ("float64", (n_inputs, n_targets))
        layout["lengths.bounds"] = ("float64", (2, n_targets))
        for name in ("intercepts", "smearing"):
            layout[f"lengths.{name}"] = ("float64", (n_targets,))
    return layout


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
