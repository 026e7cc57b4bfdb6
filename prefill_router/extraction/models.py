"""Finding and loading language models: the zoo, a directory, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from prefill_router.errors import InputError, did_you_mean
from prefill_router.extraction.devices import Device, device_map
from prefill_router.storage import file_hash, read_json

ZOO = Path(__file__).parents[1] / "zoo" / "models"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # what a model consists of
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
GIVE_A_DIRECTORY = (
    "A model on this disk is given by its directory (config.json, *.safetensors and the "
    "tokenizer's files), an encoder for example by: -p encoder=path/to/directory (papermill: a "
    "space for the =)"
)


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
    is_hub : bool
        Whether it came from the hub.
    """

    name: str
    location: Path
    revision: str | None = None
    is_hub: bool = False

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every file that decides what the model computes, by name.

        Weights, configuration, tokenizer, chat template and code of its own count; a model card
        does not.
        """
        return {
            path.name: file_hash(path)
            for path in sorted(self.location.iterdir())
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in (*LOADED, "*.py"))
        }


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
    _check_files(source)
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
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise InputError(
            f"The Hugging Face hub has no model {name!r} that it would show (is it spelled right; "
            f"does it ask for a login?). {GIVE_A_DIRECTORY}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name!r} is neither a directory nor in the zoo ({', '.join(zoo_names())}), "
            f"and the Hugging Face hub cannot be reached for it ({type(error).__name__}): this "
            f"machine is offline, or the name is no hub id. {GIVE_A_DIRECTORY}"
        ) from error
    return ModelSource(name, Path(location), revision=Path(location).name, is_hub=True)


def _check_files(source: ModelSource) -> None:
    location = source.location
    if not (location / "config.json").is_file():
        raise InputError(f"{source.name}: no config.json in {location}. {GIVE_A_DIRECTORY}")
    if not any(location.glob("*.safetensors")):
        raise InputError(
            f"{source.name}: no *.safetensors in {location}. Pickled weights (.bin, .pt) can run "
            "code when they are opened, so they are refused: load them once where you trust them "
            "and convert them with model.save_pretrained(directory), which writes safetensors."
        )
    if not any(path for pattern in VOCABULARIES for path in location.glob(pattern)):
        raise InputError(
            f"{source.name}: no tokenizer in {location}; save it there with "
            "tokenizer.save_pretrained(directory). A model that reads no text has none, and cannot "
            "be read here."
        )


def weights_hash(source: ModelSource) -> str:
    """Return a SHA-256 over every file that decides what a model computes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, content in source.hashes().items():
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def text_config(source: ModelSource) -> Any | None:
    """Return the config of what reads text, without any weights; None where there is none.

    What is wrong with such a model, loading it says.
    """
    try:
        options = {"trust_remote_code": False, "local_files_only": True}
        return AutoConfig.from_pretrained(source.location, **options).get_text_config()
    except (OSError, ValueError, KeyError):
        return None


def input_device(model) -> torch.device:
    """Return the device on which a model wants its input, also where its weights lie elsewhere."""
    if model.device.type != "meta":
        return model.device
    # Weights that wait on the host or on disk are brought where accelerate's hooks compute.
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next(device for device in devices if device is not None))


def load_encoder(
    source: ModelSource,
    device: Device = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load a model without its language-model head, to read its prefill states.

    Parameters
    ----------
    source : ModelSource
        From `resolve`. Of an encoder-decoder model the encoder is taken, of a model that also sees
        or hears the part that reads text.
    device : str or mapping, default "cpu"
        As for `prefill_router.extraction.devices.pick_device`; or ``"spread"`` for a model that is
        too large for one device: over all GPUs, then the machine's memory, then its disk. A mapping
        of modules to devices says where each part goes (the `device_map` of transformers).
    dtype : {"float32", "bfloat16", "float16"}, default "float32"
        Type that it computes in. Weights that config.json says are quantised stay quantised.
    trust_remote_code : bool, default False
        Whether a model that brings its own Python code may run it.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    InputError
        If the directory holds no loadable model, lacks some of its weights, needs code of its own
        that is not trusted, or if the model does not read text.
    """
    model, tokenizer = _load(AutoModel, source, device, dtype, trust_remote_code)
    reader = _reader(model)
    if reader.main_input_name != "input_ids":
        raise InputError(
            f"{source.name} is a {type(model).__name__}, which reads {reader.main_input_name}, not "
            "text; take a language model as encoder."
        )
    return reader, tokenizer


def _reader(model):
    """Return the part of a model that reads the prompt: encoder, text tower, or all of it."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    # only where there are several towers: some single ones, such as Funnel's, end in a "decoder"
    has_towers = model.config.get_text_config() is not model.config
    return model.get_decoder() if has_towers else model


def load_target(
    source: ModelSource,
    device: Device = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load a causal language model with its head, to let it answer; otherwise as `load_encoder`."""
    return _load(AutoModelForCausalLM, source, device, dtype, trust_remote_code)


def _load(auto, source: ModelSource, device: Device, dtype: str, trust_remote_code: bool):
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown." + did_you_mean(dtype, DTYPES))
    _check_code(source, trust_remote_code)
    placement = device_map(device)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
            model, report = auto.from_pretrained(
                source.location,
                dtype=DTYPES[dtype],
                device_map=placement,  # and no `.to` afterwards: quantised weights refuse it
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"{source.name} cannot be loaded: {error}") from error
    # A pooler is not on the way to any hidden state; anything else would be random numbers.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(
            f"{source.name}: {len(missing)} weights are not in {source.location} "
            f"(first: {missing[0]}); the checkpoint is of another kind of model, or incomplete."
        )
    return model.eval(), tokenizer


def _check_code(source: ModelSource, trust_remote_code: bool) -> None:
    """Refuse a model that only its own Python code can load, unless that code is trusted."""
    config = read_json(source.location / "config.json")
    native = config.get("model_type") in CONFIG_MAPPING
    if config.get("auto_map") and not native and not trust_remote_code:
        raise InputError(
            f"{source.name} brings Python code of its own (auto_map in its config.json), which is "
            "not run. Use a model that transformers knows, or, after reading that code, load it "
            "with trust_remote_code=True."
        )


def pad_id(tokenizer) -> int:
    """Return an id to pad with: any will do where an attention mask is given.

    Tokenizers without a padding token lend their end-of-text or unknown token.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    return next(token for token in candidates if token is not None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and reports: what they warn of is checked here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
