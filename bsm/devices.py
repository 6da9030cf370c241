"""Choose the device that PyTorch computes on, and its precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from bsm.errors import InputError


def choose_device(name: str = "auto") -> str:
    """Check that a device works, and return its name; ``auto`` is a GPU if there is one, otherwise the CPU.

    Raises:
        InputError: the device does not exist, or cannot hold a tensor.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # torchrun gives each of its processes a GPU
    try:
        torch.empty(1, device=own if name == "cuda" else name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} is not available; use --device cpu") from error
    return name


def full_precision(device: str) -> AbstractContextManager:
    """Return a context manager that switches autocast off on a device; the meta device has no autocast."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
