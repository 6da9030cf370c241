"""Weights on disk: written whole or not at all, and read without running anything that they hold."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bsm.config import ModelConfig
from bsm.errors import InputError, known
from bsm.files import replacing, write_text
from bsm.networks import NETWORKS, build, network_name
from bsm.weights import author
from bsm.weights.inert import read_checkpoint
from bsm.weights.registry import locate

log = logging.getLogger(__name__)

ENTRIES = ("state_dict", "model", "model_state_dict", "ema", "ema_state_dict", "net", "weights")
"""Entries of a checkpoint that may hold its weights; ``state_dict`` goes before the others."""
_WRAPPED = re.compile(r"^(?:(?:model|module|_orig_mod)\.)+|\b_orig_mod\.")  # Lightning; data parallel; torch.compile


def save_model(model: nn.Module, path: Path, card: dict[str, Any]) -> Path:
    """Write weights as safetensors, and a JSON card with the network, its configuration and the given values.

    Args:
        model: one of :data:`bsm.networks.NETWORKS`.
        path: ends in ``.safetensors``; the card takes the same name with ``.json``.
        card: how the weights came about: data, seed, revision, scores.
    """
    about = {"network": network_name(model.config), "model": model.config.to_dict()}
    # Copies: safetensors refuses tensors that share memory, as BS-RoFormer's rotation frequencies do.
    tensors = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    text = json.dumps(about | card, indent=2)
    write_text(path.with_suffix(".json"), text + "\n")
    # One entry: safetensors writes several in an order of its own, and equal weights should give equal files.
    content = save(tensors, metadata={"model": json.dumps({"network": about["network"]} | about["model"])})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def save_tensors(content: dict[str, Any], path: str | Path) -> Path:
    """Write nested dictionaries of tensors and plain values in PyTorch's format; a full disk is an InputError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # PyTorch reports the consequence of a failure to write
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    return Path(path)


def load_model(path_or_name: str | Path, *, config: ModelConfig | None = None) -> nn.Module:
    """Load a model on the CPU, in evaluation mode, without running anything that its file holds.

    Two layouts are recognised by their content. Ours is that of :func:`save_model`, or of bsm 0.1. The author's is that
    of the author's checkpoint, or of the compatible published one. It holds no configuration: sizes are read off the
    tensors' shapes, the FFT's length off the sum of the bands; hop 441 and 44.1 kHz are assumed. The tensors may be in
    one of the entries :data:`ENTRIES`. Prefixes that PyTorch's wrappers add to their names are removed.

    Args:
        path_or_name: a file, the folder of a finished run, or a name that ``bsm weights list`` shows.
        config: sizes and rate, for a file in the author's layout; :func:`bsm.weights.msst.read_settings` reads them.

    Returns:
        A BSMamba2; or a BSRoformer, if the file is in our layout and names that network.

    Raises:
        InputError: there is no such file or name, the file is not fetched yet or damaged, or its tensors do not fit.
    """
    path = locate(path_or_name)
    try:
        if _is_safetensors(path):
            tensors, text = _read_safetensors(path)
        else:
            tensors, text = _find_tensors(read_checkpoint(path)), None
        if config and text:
            raise InputError("holds its own configuration; load it without another one")
        network, values = _configuration(text)
        return _build(_bare(tensors), network, config.to_dict() if config else values).eval()
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _find_tensors(content: dict[str, Any]) -> dict[str, Any]:
    """Return the weights in a checkpoint, which must be in one place and have names."""
    if {"step", "ranking", "averaged"} <= content.keys():
        raise InputError("a training's checkpoint; give the run's model.safetensors, or a file of its folder best/")
    found = {name: content[name] for name in ENTRIES if isinstance(content.get(name), dict)}
    if len(found) > 1 and "state_dict" not in found:
        raise InputError(f"holds weights in the entries {', '.join(found)}; save the wanted one alone")
    tensors = found.get("state_dict", next(iter(found.values()), content))
    if not tensors or not any(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(
            f"holds no weights by name, but {author.some(map(repr, content))}; load a checkpoint of this model"
        )
    return tensors


def _bare(tensors: dict[Any, Any]) -> dict[str, Any]:
    """Remove the prefixes that wrappers add to the names of tensors."""
    bare: dict[str, Any] = {}
    for name, value in tensors.items():
        short = _WRAPPED.sub("", str(name))
        if short in bare:
            raise InputError(f"holds two tensors {short!r}, under other prefixes; save the ones that are wanted alone")
        bare[short] = value
    return bare


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"  # 8 bytes of length, then a JSON header


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {}).get("model")
            return {name: file.get_tensor(name) for name in file.keys()}, config  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file ({error}); copy or train it anew") from error


def _configuration(text: str | None) -> tuple[str, dict[str, Any]]:
    """Return the network's name and its configuration; the configuration is empty if the file holds none."""
    try:
        values = json.loads(text or "{}")
        return values.pop("network", "bsmamba2"), values
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"its configuration makes no model: {error}") from error


def _build(tensors: dict[str, Any], network: str, values: dict[str, Any]) -> nn.Module:
    """Build the model that a file's tensors are for, in any layout; ``values`` is its configuration, if known."""
    ours = network != "bsmamba2" or any(name.startswith("dual_path.") for name in tensors)
    if ours and not values:
        raise InputError("holds no model configuration; it was not written by bsm")
    if network == "bsmamba2" and ours and any(name.startswith("band_split.to_features.") for name in tensors):
        tensors, ours = author.from_first_layout(tensors), False
    if transforms := [name for name in tensors if not ours and name.startswith(author.TRANSFORMS)]:
        log.info("skipped parts of the author's training that are not the model: %s", ", ".join(transforms))
    tensors = {name: value for name, value in tensors.items() if name not in transforms}
    try:
        kind = NETWORKS[known("network", network, NETWORKS)][0]
        config = kind.from_dict(values) if values else author.infer_config(tensors)
        # On the meta device, weights take no memory and no random numbers. BS-RoFormer's constants need values, though.
        place = "meta" if network == "bsmamba2" else "cpu"
        with torch.device(place), torch.random.fork_rng(devices=[]):
            model = build(config)
    except (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"its configuration makes no model: {error}" if values else str(error)) from error
    like = model.state_dict()
    wanted = like if ours else author.to_author(like, config.bands)
    _check(wanted, tensors)
    state = {name: tensors[name] for name in wanted}
    if not ours:
        state = author.from_author(state, like, config.bands)
    dtype = torch.float64 if all(value.dtype == torch.float64 for value in state.values()) else torch.float32
    state = {
        name: value.detach().to(dtype, memory_format=torch.contiguous_format, copy=True)
        for name, value in state.items()
    }
    model.load_state_dict(state, assign=True)
    return model


def _check(wanted: dict[str, Tensor], tensors: dict[str, Any]) -> None:
    """Raise an InputError, which names some faults, unless a file's tensors are those that a model needs."""
    faults = []
    if missing := [name for name in wanted if name not in tensors]:
        faults.append(f"{len(missing)} missing: {author.some(missing)}")
    if unexpected := sorted(tensors.keys() - wanted.keys()):
        faults.append(f"{len(unexpected)} unexpected: {author.some(unexpected)}")
    other = []
    for name in wanted.keys() & tensors.keys():
        given, shape = tensors[name], tuple(wanted[name].shape)
        if not (isinstance(given, Tensor) and given.is_floating_point()):
            other.append(f"{name} is no floating-point tensor")
        elif tuple(given.shape) != shape:
            other.append(f"{name} has {tuple(given.shape)}, wanted {shape}")
    if other:
        faults.append(author.some(sorted(other), "; "))
    if faults:
        raise InputError(f"its tensors do not fit the model: {'; '.join(faults)}")
