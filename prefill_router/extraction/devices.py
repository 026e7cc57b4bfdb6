"""What a model computes on: names of devices, and what they stand for on this machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from prefill_router.errors import InputError

SPREAD = "spread"

Device = str | Mapping[str, str | int]


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
