"""Pooled prefill states on disk: what extraction writes and every later stage reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prefill_router.errors import InputError, did_you_mean
from prefill_router.storage import atomic_write

FILE = "activations.safetensors"
STORAGE = {"float32": np.float32, "float16": np.float16}


def tensor_key(layer: int, pooling: str) -> str:
    """Return the name of one layer's tensor in the file, such as ``mean.003``."""
    return f"{pooling}.{layer:03d}"


@dataclass(frozen=True)
class Activations:
    """Pooled prefill states of N prompts, opened with `open` and read one tensor at a time.

    Attributes
    ----------
    path : pathlib.Path
        The safetensors file.
    layers : list of int
        Hidden states kept: 0 is the embedding output, L the last block's.
    poolings : list of str
        Ways in which tokens were pooled.
    width : int
        D, numbers in a state.
    n_tokens : int64 ndarray of shape (N,)
        Prompt tokens of each query.
    n_truncated : int
        Prompts that were cut to fit.
    """

    path: Path
    layers: list[int]
    poolings: list[str]
    width: int
    n_tokens: np.ndarray
    n_truncated: int

    @property
    def n_queries(self) -> int:
        """Return N."""
        return len(self.n_tokens)

    @classmethod
    def open(cls, directory: str | Path) -> Activations:
        """Open what `write_activations` wrote, reading no state yet.

        Raises
        ------
        InputError
            If the file is missing or damaged, or its tensors are not those its header promises.
        """
        path = Path(directory) / FILE
        if not path.is_file():
            raise InputError(f"{directory} holds no activations ({FILE} is missing).")
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads(file.metadata()["activations"])
                n_tokens = file.get_tensor("n_tokens")
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.offset_keys()}
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} is not a readable file of activations ({error}).") from error
        expected = {
            tensor_key(layer, pooling): (len(n_tokens), header["width"])
            for layer in header["layers"]
            for pooling in header["poolings"]
        }
        if shapes != {"n_tokens": n_tokens.shape, **expected}:
            raise InputError(f"{path}: its tensors are not those of its header; delete it.")
        return cls(path=path, n_tokens=n_tokens, **header)

    def states(self, layer: int, pooling: str) -> np.ndarray:
        """Read one layer's pooled states; no other tensor is touched.

        Parameters
        ----------
        layer : int
            One of `layers`.
        pooling : str
            One of `poolings`.

        Returns
        -------
        float32 ndarray of shape (N, D)

        Raises
        ------
        InputError
            If that layer or pooling was not extracted.
        """
        if layer not in self.layers:
            raise InputError(f"layer {layer} was not extracted; there are {self.layers}.")
        if pooling not in self.poolings:
            raise InputError(
                f"pooling {pooling!r} was not extracted." + did_you_mean(pooling, self.poolings)
            )
        with safe_open(self.path, framework="numpy") as file:
            return file.get_tensor(tensor_key(layer, pooling)).astype(np.float32, copy=False)


def check_storage(name: str) -> type[np.floating]:
    """Return the NumPy type that a storage type's name stands for, or raise InputError."""
    if name not in STORAGE:
        raise InputError(f"storage_dtype {name!r} is unknown." + did_you_mean(name, STORAGE))
    return STORAGE[name]


def write_activations(
    directory: str | Path,
    states: np.ndarray,
    layers: Sequence[int],
    poolings: Sequence[str],
    n_tokens: np.ndarray,
    n_truncated: int = 0,
    storage_dtype: str = "float32",
) -> None:
    """Write pooled states, one tensor for each layer and pooling.

    Parameters
    ----------
    directory : path-like
        Made if need be.
    states : ndarray of shape (n_layers, n_poolings, N, D)
        In the order of `layers` and `poolings`.
    layers, poolings : sequences
        What the first two axes are.
    n_tokens : ndarray of shape (N,)
        Prompt tokens of each query.
    n_truncated : int, default 0
        Prompts that were cut to fit.
    storage_dtype : {"float32", "float16"}, default "float32"
        Type on disk.

    Raises
    ------
    InputError
        If `storage_dtype` is unknown or too small for a state.
    """
    dtype = check_storage(storage_dtype)
    largest = float(np.abs(states).max())
    if largest > float(np.finfo(dtype).max):
        raise InputError(
            f"A state of {largest:.3g} does not fit into {storage_dtype}; "
            "set storage_dtype to float32."
        )
    tensors = {
        tensor_key(layer, pooling): np.ascontiguousarray(states[i, j], dtype=dtype)
        for i, layer in enumerate(layers)
        for j, pooling in enumerate(poolings)
    }
    header = {
        "layers": [int(layer) for layer in layers],
        "poolings": list(poolings),
        "width": states.shape[-1],
        "n_truncated": int(n_truncated),
    }
    tensors["n_tokens"] = np.asarray(n_tokens, dtype=np.int64)
    with atomic_write(Path(directory) / FILE) as temporary:
        save_file(tensors, temporary, metadata={"activations": json.dumps(header)})
