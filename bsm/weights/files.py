"""Weights on disk: written whole or not at all, read without running anything they hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bsm.errors import InputError
from bsm.files import replacing, write_text
from bsm.model import BSMamba2
from bsm.networks import build, network_name, read_config
from bsm.weights import registry as weights
from bsm.weights.author import BESIDE, PREFIX, author_name, from_author, infer_config, to_author
from bsm.weights.inert import read_checkpoint

log = logging.getLogger(__name__)


def save_model(model: nn.Module, path: Path, card: dict[str, Any]) -> Path:
    """Write weights as safetensors, and beside them a JSON card: network, configuration and whatever is given.

    Args:
        model: one of :data:`bsm.networks.NETWORKS`.
        path: ends in ``.safetensors``; the card takes the same name with ``.json``.
        card: how the weights came about: data, seed, revision, scores.
    """
    about = {"network": network_name(model.config), "model": model.config.to_dict()}
    # Copies, for safetensors refuses tensors that share memory, as BS-RoFormer's rotation frequencies do.
    tensors = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    text = json.dumps(about | card, indent=2)
    write_text(path.with_suffix(".json"), text + "\n")
    with replacing(path) as temporary:
        # One entry: safetensors puts several in an order of its own each time, and equal weights are to be equal files.
        save_file(tensors, temporary, metadata={"model": json.dumps({"network": about["network"]} | about["model"])})
    return path


def export_author(model: BSMamba2, path: str | Path) -> Path:
    """Write weights in the author's layout: a dictionary whose ``state_dict`` has the author's names, with ``model.``.

    The author's own loader reads it. Our configuration goes along under ``bsm``, because that layout holds neither the
    sample rate nor the hop; :func:`load_model` gives back the same model, bit for bit.

    Args:
        model: any size; the author's code itself fixes ``headdim``, ``d_state``, ``expand`` and more at the paper's.
        path: by the author's habit it ends in ``.ckpt``.

    Raises:
        InputError: a structure that the author's code does not have; it would refuse the tensors or misread them.
    """
    if model.config.ablated:
        changed = ", ".join(f"{name} {getattr(model.config, name)!r}" for name in model.config.ablated)
        raise InputError(f"{path}: the author's code has no model with {changed}; use save_model")
    tensors = {
        PREFIX + author_name(name): to_author(name, value.detach().cpu()).contiguous()
        for name, value in model.state_dict().items()
    }
    with replacing(path) as temporary:
        torch.save({"state_dict": tensors, "bsm": json.dumps(model.config.to_dict())}, temporary)
    return Path(path)


def load_model(path_or_name: str | Path, *, strict: bool = True) -> nn.Module:
    """Load a model on the CPU, in evaluation mode, without running anything that its file holds.

    Three layouts are known by what is in them: ours (:func:`save_model`), the author's Lightning checkpoint, and the
    same names without ``model.`` (the compatible published checkpoint). The latter two hold no configuration: sizes
    follow from the tensors' shapes, the FFT's length from the bands' sum; hop 441 and 44.1 kHz are the author's.
    The result is a BSMamba2, or a BSRoformer where our own file says so.

    Args:
        path_or_name: a file, or a name of ``data_manifest/weights.yaml`` (``bsm weights list``).
        strict: refuse tensors that the model does not have, instead of logging them. Tensors that it lacks, or of
            other shapes, are refused always.

    Raises:
        InputError: no such file or name, not fetched yet, damaged, or tensors that do not fit; it lists those.
    """
    path = weights.locate(path_or_name)
    if _is_safetensors(path):
        tensors, config = _read_safetensors(path)
    else:
        content = read_checkpoint(path)
        tensors, config = content.get("state_dict", content), content.get("bsm")
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(name, str) for name in tensors):
        raise InputError(f"{path}: holds no weights by name; load a checkpoint of this model")
    try:
        return _build(tensors, config, strict).eval()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"  # after its length, a JSON header


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {}).get("model")
            return {name: file.get_tensor(name) for name in file.keys()}, config  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file ({error}); copy or train it anew") from error


def _configuration(text: str | None) -> tuple[str, dict[str, Any]]:
    """Return the network's name and its configuration, which is empty where the file holds none."""
    try:
        values = json.loads(text or "{}")
        return values.pop("network", "bsmamba2"), values
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"its configuration makes no model: {error}") from error


def _build(tensors: dict[str, Any], config_text: str | None, strict: bool) -> nn.Module:
    """Make the model that the tensors, in either layout, are for."""
    network, values = _configuration(config_text)
    ours = network != "bsmamba2" or any(name.startswith("dual_path.") for name in tensors)
    if ours and config_text is None:
        raise InputError("holds no model configuration; it was not written by bsm")
    prefix = PREFIX if not ours and any(name.startswith(PREFIX) for name in tensors) else ""
    beside = [name for name in tensors if prefix and name.startswith(BESIDE)]
    if beside:
        log.info("skipped parts of the author's training that are not the model: %s", ", ".join(beside))
    tensors = {name: value for name, value in tensors.items() if name not in beside}
    try:
        if config_text:
            config = read_config(network, values)
        else:
            config = infer_config({name.removeprefix(prefix): value for name, value in tensors.items()})
        # Neither memory nor random numbers for weights that the file brings; but BS-RoFormer's constants must be real.
        place = "meta" if network == "bsmamba2" else "cpu"
        with torch.device(place), torch.random.fork_rng(devices=[]):
            model = build(config)
    except (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"its configuration makes no model: {error}" if config_text else str(error)) from error
    names = {name: name if ours else prefix + author_name(name) for name in model.state_dict()}  # ours: the file's
    if not ours:
        tensors |= {
            file: from_author(name, tensors[file])
            for name, file in names.items()
            if isinstance(tensors.get(file), Tensor)
        }
    _check(model.state_dict(), tensors, names, strict)
    state = {name: tensors[file] for name, file in names.items()}
    dtype = torch.float64 if all(value.dtype == torch.float64 for value in state.values()) else torch.float32
    state = {
        name: value.detach().to(dtype, memory_format=torch.contiguous_format, copy=True)
        for name, value in state.items()
    }
    model.load_state_dict(state, assign=True)
    return model


def _check(wanted: dict[str, Tensor], tensors: dict[str, Any], names: dict[str, str], strict: bool) -> None:
    """Compare a file's tensors with those that a model has; ``names`` maps the model's names to the file's.

    Raises:
        InputError: any fault; it lists all of them.
    """
    faults = []
    if missing := [file for file in names.values() if file not in tensors]:
        faults.append(f"{len(missing)} missing: {', '.join(missing)}")
    if unexpected := sorted(tensors.keys() - set(names.values())):
        if strict:
            faults.append(f"{len(unexpected)} unexpected: {', '.join(unexpected)}")
        else:
            log.warning("ignored %d unexpected tensors: %s", len(unexpected), ", ".join(unexpected))
    for name, file in names.items():
        given = tensors.get(file)
        if file not in missing and not (isinstance(given, Tensor) and given.is_floating_point()):
            faults.append(f"{file} is no floating-point tensor")
        elif file not in missing and given.shape != wanted[name].shape:
            faults.append(f"{file} has {tuple(given.shape)}, wanted {tuple(wanted[name].shape)}")
    if faults:
        raise InputError(f"its tensors do not fit the model: {'; '.join(faults)}")
