"""The control of an encoder: its architecture and tokenizer with random weights."""

from __future__ import annotations

import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

from prefill_router.errors import InputError
from prefill_router.extraction.models import quiet
from prefill_router.extraction.sources import LOADED, ModelSource

WEIGHTS = "*.safetensors*"


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
    try:
        config = AutoConfig.from_pretrained(
            source.location, trust_remote_code=False, local_files_only=True
        )
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModel.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{source.name}: no model can be made from its config.json: {error}"
        ) from error
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".untrained-") as temporary:
        made = Path(temporary) / "model"
        with quiet():
            model.save_pretrained(made)
        for path in sorted(source.location.iterdir()):
            kept = any(fnmatch(path.name, pattern) for pattern in LOADED)
            if kept and not fnmatch(path.name, WEIGHTS) and path.name != "config.json":
                shutil.copyfile(path, made / path.name)
        made.rename(directory)
    return directory
