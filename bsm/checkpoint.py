"""Weights and training states on disk: written whole or not at all, read without running anything they hold."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.files import replacing, write_text
from bsm.model import BSMamba2


def save_model(model: nn.Module, path: Path, card: dict[str, Any]) -> Path:
    """Write weights as safetensors, and beside them a JSON card: the model's configuration and whatever is given.

    Args:
        model: has a ``config`` and is a :class:`BSMamba2`.
        path: ends in ``.safetensors``; the card takes the same name with ``.json``.
        card: how the weights came about: data, seed, revision, scores.
    """
    config = json.dumps(model.config.to_dict())
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    text = json.dumps({"model": model.config.to_dict()} | card, indent=2)
    write_text(path.with_suffix(".json"), text + "\n")
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"model": config})
    return path


def load_model(path: str | Path) -> BSMamba2:
    """Load weights written by :func:`save_model`, on the CPU, in evaluation mode.

    Raises:
        InputError: no such file, not such a file, damaged, or tensors that do not fit its configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; `bsm train` or `make reproduce` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file ({error}); copy or train it anew") from error
    if "model" not in metadata:
        raise InputError(f"{path}: holds no model configuration; it was not written by bsm")
    model = BSMamba2(ModelConfig.from_dict(json.loads(metadata["model"])))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors do not fit its configuration: {error}") from error
    return model.eval()


def save_state(path: Path, state: dict[str, Any]) -> Path:
    """Write a training state: nested dictionaries of tensors and plain values."""
    with replacing(path) as temporary:
        torch.save(state, temporary)
    return path


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU.

    Raises:
        InputError: damaged, or holding more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: damaged training checkpoint ({reason}); delete it to train from the start"
        ) from error
