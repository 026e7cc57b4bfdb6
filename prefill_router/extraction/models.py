"""Load language models that were found: on which device, to read or to answer, or untrained."""

from __future__ import annotations

import contextlib
import io
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from prefill_router.errors import InputError, check_known
from prefill_router.extraction.gguf_files import TAKE_SAFETENSORS, complete, drop_invented
from prefill_router.extraction.sources import ModelSource, read_config
from prefill_router.storage import read_json

SPREAD = "spread"
Device = str | Mapping[str, str | int]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str = "cpu") -> torch.device:
    """Return the device called `name`; ``"auto"`` takes the best there is.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    if name == "auto":
        best = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else best)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); try cpu or auto.") from None
    return device


def device_map(device: Device) -> Any:
    """Return where `from_pretrained` is to put each part of a model; parameters as `load_encoder`.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    if isinstance(device, Mapping):
        return dict(device)
    return "auto" if device == SPREAD else {"": pick_device(device)}


def training_device(device: Device) -> torch.device:
    """Return what trains a head beside an encoder on `device`: the same, or the best if it is many.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    return pick_device("auto" if isinstance(device, Mapping) or device == SPREAD else device)


def device_name(device: torch.device) -> str:
    """Return a device with the kind of hardware that it is, such as ``cpu (x86_64)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"


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
        From `prefill_router.extraction.sources.resolve`. Of an encoder-decoder model the encoder is
        taken, of a model that also sees or hears the part that reads text.
    device : str or mapping, default "cpu"
        As for `pick_device`; or ``"spread"`` for a model that is
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
    reader = _reader(model.base_model if source.is_gguf else model)
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


def load_target(source: ModelSource, *how: Any, **named: Any) -> tuple[Any, Any]:
    """Load a causal language model with its head, to let it answer; otherwise as `load_encoder`."""
    return _load(AutoModelForCausalLM, source, *how, **named)


def load_tokenizer(source: ModelSource, trust_remote_code: bool = False) -> Any:
    """Load a model's tokenizer alone; as `load_encoder`.

    Its chat template may also lie in the file that processors had for it, ``chat_template.json``.
    """
    with source.opened() as opened, _said_of(source):
        tokenizer = AutoTokenizer.from_pretrained(**opened, trust_remote_code=trust_remote_code)
        if source.is_gguf:
            drop_invented(source.location, tokenizer)
    legacy = source.location / "chat_template.json"
    if not tokenizer.chat_template and legacy.exists():
        tokenizer.chat_template = read_json(legacy).get("chat_template")
    tokenizer.name_or_path = source.name
    return tokenizer


@contextlib.contextmanager
def _said_of(source: ModelSource) -> Iterator[None]:
    """Load quietly, and say of which model it is that something cannot be loaded."""
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # bars of its own for GGUF
            yield
    except Exception as error:  # damaged files lead to any kind of error, at any depth
        remedy = f" {TAKE_SAFETENSORS}" if source.is_gguf else ""
        raise InputError(f"{source.name} cannot be loaded: {error}{remedy}") from error


def _load(auto, source: ModelSource, device="cpu", dtype="float32", trust_remote_code=False):
    check_known("dtype", dtype, DTYPES)
    placement = device_map(device)
    if source.is_gguf:
        auto = AutoModelForCausalLM  # names of weights in GGUF files are those with a head
    tokenizer = load_tokenizer(source, trust_remote_code)
    with source.opened() as opened, _said_of(source):
        model, report = auto.from_pretrained(
            **opened,
            dtype=DTYPES[dtype],
            device_map=placement,  # and no `.to` afterwards: quantised weights refuse it
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    # A pooler is not on the way to any hidden state; anything else would be random numbers.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(
            f"{source.name}: {len(missing)} weights are not in {source.location} "
            f"(first: {missing[0]}); the checkpoint is of another kind of model, or incomplete."
        )
    if source.is_gguf:
        complete(source.location, model)
    return model.eval(), tokenizer


def pad_id(tokenizer) -> int:
    """Return an id to pad with: any will do where an attention mask is given.

    Tokenizers without a padding token lend their end-of-text or unknown token.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    return next(token for token in candidates if token is not None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and reports: what they warn of is checked here."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def write_untrained(source: ModelSource, directory: Path, seed: int = 0) -> Path:
    """Write a model of the same architecture whose weights are as before any training.

    Parameters
    ----------
    source : ModelSource
        From `prefill_router.extraction.sources.resolve`.
    directory : pathlib.Path
        Must not exist, or be empty.
    seed : int, default 0
        Draws the weights, as the architecture initialises them.

    Returns
    -------
    pathlib.Path
        The directory: float32 weights, and everything else as it is in `source`.

    Raises
    ------
    InputError
        If the directory holds something, or transformers does not know the architecture.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty; name another directory.")
    config = read_config(source)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (
        quiet(),
        torch.random.fork_rng(),
        tempfile.TemporaryDirectory(dir=directory.parent, prefix=".untrained-") as temporary,
    ):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)
        made = Path(temporary) / "model"
        made.mkdir()
        if source.is_gguf:
            load_tokenizer(source).save_pretrained(made)
        for path in () if source.is_gguf else source.files():
            if ".safetensors" not in path.name:
                shutil.copyfile(path, made / path.name)
        model.save_pretrained(made)
        made.rename(directory)
    return directory
