"""Finding language models: in the zoo, in a directory, or on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.gguf_files import n_weights, read_gguf
from prefill_router.storage import file_hash, read_json

ZOO = Path(__file__).parents[1] / "zoo" / "models"
LOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # what a model consists of
WHOLE = "model.safetensors"
INDEX = f"{WHOLE}.index.json"  # of weights in several files
GIVE_A_DIRECTORY = (
    "A model on this disk is given by its directory (config.json, *.safetensors and the "
    "tokenizer's files) or its GGUF file (one of several: DIRECTORY:FILE, on the hub "
    "OWNER/NAME:FILE), an encoder for example by: -p encoder=path/to/directory (papermill: a space "
    "for the =)"
)
OBJECTS = ("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.json")
LFS = b"version https://git-lfs.github.com/spec/"

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
        The local directory that holds it (for the hub: its snapshot in the cache), or the GGUF file
        that is the whole model, beside which nothing is read.
    revision : str or None
        The commit on the hub, None elsewhere.
    """

    name: str
    location: Path
    revision: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether it is one GGUF file."""
        return self.location.is_file()

    @contextlib.contextmanager
    def opened(self) -> Iterator[dict[str, Any]]:
        """Yield what tells transformers' `from_pretrained` to load this model and nothing else."""
        with tempfile.TemporaryDirectory() as alone:  # a tokenizer beside a GGUF file would be read
            how = {"pretrained_model_name_or_path": str(self.location)}
            if self.is_gguf:
                (Path(alone) / "model.gguf").symlink_to(self.location)
                how = {"pretrained_model_name_or_path": alone, "gguf_file": "model.gguf"}
            yield how | {"local_files_only": True}

    def files(self) -> list[Path]:
        """Return every file that decides what the model computes.

        Weights, configuration, tokenizer, chat template and code of its own count; a model card
        does not.
        """
        if self.is_gguf:
            return [self.location]
        found = {path for kind in (*LOADED, "*.py") for path in self.location.glob(kind)}
        return sorted(path for path in found if path.is_file())

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each of these files, by name."""
        return {path.name: file_hash(path) for path in self.files()}


def zoo_names() -> list[str]:
    """Return the names of the models that come with the package, ``zoo/NAME``, sorted."""
    return sorted(f"zoo/{path.name}" for path in ZOO.glob("*/") if (path / "config.json").is_file())


def resolve(name: str) -> ModelSource:
    """Find a model: in the zoo (``zoo/NAME``), on this disk, else on the Hugging Face hub.

    Parameters
    ----------
    name : str
        ``zoo/NAME``, the path of a directory or GGUF file, or ``owner/name`` on the hub, where
        ``owner/name@revision`` pins a commit, branch or tag. Of a model on the hub only
        configuration, tokenizer and safetensors are fetched, into the hub's own cache.
        ``directory:FILE`` and ``owner/name:FILE`` name one of several GGUF files.

    Returns
    -------
    ModelSource

    Raises
    ------
    InputError
        If there is no such model, the hub cannot be reached, its weights are pickled only, or a
        file is not what its name says.
    """
    name = str(name)
    base, _, file = name.partition(":") if local_path(name) is None else (name, "", "")
    if name.startswith("zoo/"):
        if name not in (known := zoo_names()):
            raise InputError(f"There is no model {name!r} in the zoo." + did_you_mean(name, known))
        source = ModelSource(name, ZOO / name.removeprefix("zoo/"))
    elif (path := local_path(base)) is not None:
        weights = [*path.glob("*.gguf"), *path.glob("*.safetensors")]
        file = file or "".join(w.name for w in weights if len(weights) == 1 and w.suffix == ".gguf")
        source = ModelSource(name, (path / file).absolute())
    elif name.startswith((".", "/", "~")) or base.count("/") > 1:
        raise InputError(f"{name}: no such file or directory. {GIVE_A_DIRECTORY}")
    else:
        source = _fetch(name, base, file)
    _check_files(source)
    return source


def _check_files(source: ModelSource) -> None:
    """Raise InputError if a file that a model needs is missing, or is not what its name says."""
    if (adapter := source.location / "adapter_config.json").exists():
        raise InputError(
            f"{adapter}: this is an adapter, such as LoRA, not a model. Load it with peft, save "
            "what merge_and_unload() returns, and the tokenizer, in one directory, and give that."
        )
    for patterns, what, remedy in () if source.is_gguf else REQUIRED:
        if not any(any(source.location.glob(pattern)) for pattern in patterns):
            raise InputError(f"{source.name}: no {what} in {source.location}. {remedy}")
    for path in source.files():
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                raise InputError(f"{path} is a Git LFS pointer: `git lfs pull` there fetches it.")
        if path.name in OBJECTS and not isinstance(read_json(path), dict):
            raise InputError(f"{path} is no JSON object; restore it from where it came from.")
        try:
            if path.suffix == ".safetensors":
                safe_open(path, "numpy")
        except SafetensorError as error:
            raise InputError(f"{path} is damaged ({error}); fetch it again.") from error
    if source.is_gguf:
        read_gguf(source.location)


def pinned(name: str, revision: str | None) -> str:
    """Return the name that finds the same model again: on the hub, of the same commit."""
    if revision is None:
        return name
    repository, colon, file = name.partition(":")
    return f"{repository.partition('@')[0]}@{revision}{colon}{file}"


def local_path(name: str) -> Path | None:
    """Return the path that a name is on this disk, ``~`` being a home, or None if it is none."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # longer than a path can be; the home of nobody
        return None


def _fetch(name: str, base: str, file: str) -> ModelSource:
    repository, _, revision = base.partition("@")
    try:
        # "*/*": copies for other runtimes in sub-folders
        what = {"allow_patterns": file or LOADED, "ignore_patterns": None if file else "*/*"}
        location = Path(snapshot_download(repository, revision=revision or None, **what))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name!r} is neither on this disk nor in the zoo ({', '.join(zoo_names())}), and the "
            f"Hugging Face hub does not give it ({type(error).__name__}): is it spelled right, "
            f"does it ask for a login, or is this machine offline? {GIVE_A_DIRECTORY}"
        ) from error
    return ModelSource(name, location / file, revision=location.name)


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
        with source.opened() as opened:
            # unless told not to, transformers asks the terminal whether it may run code
            return AutoConfig.from_pretrained(**opened, trust_remote_code=False)
    except Exception as error:  # a strange value leads to any kind of error
        raise InputError(f"{source.name}: its config cannot be used: {error}") from error


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
    if source.is_gguf:
        return n_weights(source.location)
    index = source.location / INDEX
    names = set(read_json(index)["weight_map"].values()) if index.exists() else {WHOLE}
    total = 0
    for name in names:
        with safe_open(source.location / name, "numpy") as weights:
            total += sum(prod(weights.get_slice(k).get_shape()) for k in weights.offset_keys())
    return total
