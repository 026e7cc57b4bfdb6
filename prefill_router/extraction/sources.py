"""Finding language models: in the zoo, in a directory, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import file_hash, read_json

ZOO = Path(__file__).parents[1] / "zoo" / "models"
LOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # what a model consists of
WHOLE = "model.safetensors"
INDEX = f"{WHOLE}.index.json"  # of weights in several files
GIVE_A_DIRECTORY = (
    "A model on this disk is given by its directory (config.json, *.safetensors and the "
    "tokenizer's files), an encoder for example by: -p encoder=path/to/directory (papermill: a "
    "space for the =)"
)


REQUIRED = (
    (("config.json",), "config.json", GIVE_A_DIRECTORY),
    (
        ("*.safetensors",),
        "*.safetensors",
        "Pickled weights (.bin, .pt) can run code when they are opened, so they are refused: load "
        "them once where you trust them and convert them with model.save_pretrained(directory), "
        "which writes safetensors.",
    ),
    (
        ("tokenizer.json", "vocab.txt", "vocab.json", "*.model"),
        "tokenizer",
        "Save it there with tokenizer.save_pretrained(directory). A model that reads no text has "
        "none, and cannot be read here.",
    ),
)
"""Files of which one must be there, what they are, and what to do without."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies; made by `resolve`.

    Attributes
    ----------
    name : str
        The name that was asked for.
    location : pathlib.Path
        The local directory that holds it (for the hub: its snapshot in the cache).
    revision : str or None
        The commit on the hub, None elsewhere.
    """

    name: str
    location: Path
    revision: str | None = None

    def files(self) -> list[Path]:
        """Return every file that decides what the model computes.

        Weights, configuration, tokenizer, chat template and code of its own count; a model card
        does not.
        """
        found = {path for kind in (*LOADED, "*.py") for path in self.location.glob(kind)}
        return sorted(path for path in found if path.is_file())

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each of these files, by name."""
        return {path.name: file_hash(path) for path in self.files()}


def zoo_names() -> list[str]:
    """Return the names of the models that come with the package, ``zoo/NAME``, sorted."""
    return sorted(f"zoo/{path.name}" for path in ZOO.glob("*/") if (path / "config.json").is_file())


def resolve(name: str) -> ModelSource:
    """Find a model: in the zoo (``zoo/NAME``), as a directory, else on the Hugging Face hub.

    Parameters
    ----------
    name : str
        ``zoo/NAME``, a path, or ``owner/name`` on the hub, where ``owner/name@revision`` pins a
        commit, branch or tag. Of a model on the hub only configuration, tokenizer and safetensors
        are fetched, into the hub's own cache.

    Returns
    -------
    ModelSource

    Raises
    ------
    InputError
        If there is no such model, the hub cannot be reached, or its weights are pickled only.
    """
    name = str(name)
    if name.startswith("zoo/"):
        if name not in (known := zoo_names()):
            raise InputError(f"There is no model {name!r} in the zoo." + did_you_mean(name, known))
        source = ModelSource(name, ZOO / name.removeprefix("zoo/"))
    elif (directory := local_path(name)) is not None:
        source = ModelSource(name, directory.resolve())
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such directory. {GIVE_A_DIRECTORY}")
    else:
        source = _fetch(name)
    for patterns, what, remedy in REQUIRED:
        if not any(any(source.location.glob(pattern)) for pattern in patterns):
            raise InputError(f"{source.name}: no {what} in {source.location}. {remedy}")
    return source


def local_path(name: str) -> Path | None:
    """Return the path that a name is on this disk, ``~`` being a home, or None if it is none."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # longer than a path can be; the home of nobody
        return None


def _fetch(name: str) -> ModelSource:
    repository, _, revision = name.partition("@")
    try:
        # "*/*": copies for other runtimes in sub-folders
        location = snapshot_download(
            repository, revision=revision or None, allow_patterns=LOADED, ignore_patterns="*/*"
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name!r} is neither a directory nor in the zoo ({', '.join(zoo_names())}), and the "
            f"Hugging Face hub does not give it ({type(error).__name__}): is it spelled right, "
            f"does it ask for a login, or is this machine offline? {GIVE_A_DIRECTORY}"
        ) from error
    return ModelSource(name, Path(location), revision=Path(location).name)


def weights_hash(source: ModelSource) -> str:
    """Return a SHA-256 over every file that decides what a model computes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, content in source.hashes().items():
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def same_architecture(a: ModelSource, b: ModelSource) -> bool:
    """Say whether what reads text has the same kind and shape in two models."""
    mine, theirs = text_config(a), text_config(b)
    return mine is not None and all(
        getattr(mine, name, None) == getattr(theirs, name, None)
        for name in ("model_type", "hidden_size", "num_hidden_layers")
    )


def read_config(source: ModelSource) -> Any:
    """Return a model's config, without any weights.

    Raises
    ------
    InputError
        If transformers does not know the architecture.
    """
    try:
        # unless told not to, transformers asks the terminal whether it may run code
        how = {"trust_remote_code": False, "local_files_only": True}
        return AutoConfig.from_pretrained(source.location, **how)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{source.name}: its config.json cannot be used: {error}") from error


def text_config(source: ModelSource) -> Any | None:
    """Return the config of what reads text, without any weights; None where there is none.

    What is wrong with such a model, loading it says.
    """
    try:
        return read_config(source).get_text_config()
    except InputError:
        return None


def n_parameters(source: ModelSource) -> int:
    """Count the weights that a model stores; nothing is loaded.

    Parameters
    ----------
    source : ModelSource
        From `prefill_router.extraction.sources.resolve`.

    Returns
    -------
    int
        Embeddings and the language-model head included; tied ones are stored, and counted, once.
    """
    index = source.location / INDEX
    names = set(read_json(index)["weight_map"].values()) if index.exists() else {WHOLE}
    total = 0
    for name in names:
        with safe_open(source.location / name, "numpy") as weights:
            total += sum(prod(weights.get_slice(k).get_shape()) for k in weights.offset_keys())
    return total
