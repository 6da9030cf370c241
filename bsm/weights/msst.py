"""The layout of Music-Source-Separation-Training (MSST): a checkpoint and a YAML file of its model type ``bs_mamba2``.

Facts from its code (ZFTurbo/Music-Source-Separation-Training, MIT): ``BSMamba2Model``, ``train.py``, ``inference.py``.
The network is the author's. Its tensors have the author's names without ``model.``. A checkpoint for inference holds
only tensors. The YAML file has the sections ``audio``, ``model`` (the arguments of the network's class), ``training``,
``augmentations`` and ``inference``. Earlier versions of MSST had another network, TS-BSMamba2, under that name.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import nn

from bsm import bands
from bsm.config import LossConfig, ModelConfig, StftConfig, TrainConfig
from bsm.errors import InputError, one_line
from bsm.files import sha256, write_text
from bsm.model import BSMamba2
from bsm.weights.author import exported
from bsm.weights.files import load_model, save_model, save_tensors
from bsm.weights.registry import locate

log = logging.getLogger(__name__)

NETWORK = "bs_mamba2"
FFT = 2048  # length of MSST's transform and of its window, whatever the file says
HEADS = 8  # the author's code asks for a multiple of this number of heads, for the CUDA kernels
FIXED = {"d_state": 128, "headdim": 64, "expand": 4, "d_conv": 4, "mask_expansion": 4}
"""Sizes that MSST's network cannot change, by our names."""
_DEFAULTS = {"module_type": "transformer", "num_stems": 1, "stft_n_fft": FFT, "stft_win_length": FFT}
_DEFAULTS |= {"stft_normalized": False, "mask_estimator_depth": 2, "mamba_gmlp": False}
_ARGUMENTS = _DEFAULTS | {"module_type": "mamba2"}
"""Arguments of MSST's class that have one value for this network; ``_DEFAULTS`` has the values that MSST assumes."""
_NO_EFFECT = {f"audio.{name}" for name in ("n_fft", "hop_length", "num_channels", "dim_f", "dim_t")}
_NO_EFFECT |= {f"model.{name}" for name in ("time_module_depth", "freq_module_depth", "dim_head", "heads")}
_NO_EFFECT |= {f"model.{name}" for name in ("attn_dropout", "ff_dropout", "flash_attn", "audio_cfg")}
"""Settings that this network of MSST's does not read."""
_SAME = {"batch_size": "batch_size", "accumulate": "gradient_accumulation_steps", "ema_decay": "ema_momentum"}
"""Fields of :class:`TrainConfig` -> names in MSST's section ``training``."""


class Settings(NamedTuple):
    """The contents of a YAML file: network, training settings that mean the same here, names of all other settings."""

    model: ModelConfig
    train: dict[str, Any]  # fields of TrainConfig, as plain values
    left_out: tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """Loads the tuples that MSST's files hold, and no other Python objects."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def read_settings(path: Path) -> Settings:
    """Read network and training settings from a YAML file of MSST's.

    Raises:
        InputError: the file cannot be read, or is for another network; the message names each setting that differs.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        left = {
            f"{section}.{name}": value
            for section, part in found.items()
            for name, value in (part if isinstance(part, dict) else {"": part}).items()
        }
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: no YAML file with sections ({one_line(error)})") from error
    if not {"model.dim", "model.depth"} <= left.keys():
        raise InputError(f"{path}: no model.dim and model.depth, so it is of another network than MSST's {NETWORK}")
    target, instruments = left.pop("training.target_instrument", None), left.pop("training.instruments", "vocals")
    checked = {f"model.{name}": (value, _DEFAULTS[name]) for name, value in _ARGUMENTS.items()}
    checked["training.model_type"] = (NETWORK, NETWORK)
    given = {name: left.pop(name, default) for name, (_, default) in checked.items()}
    faults = [
        f"{name} is {given[name]!r}, not {value!r}" for name, (value, _) in checked.items() if given[name] != value
    ]
    if target != "vocals" and (target or instruments not in ("vocals", ["vocals"])):
        faults.append(f"training.target_instrument is {target!r} of {instruments}, not 'vocals'")
    if faults:
        raise InputError(f"{path}: its network is none of this package's: {'; '.join(faults)}")
    try:
        model = ModelConfig(
            sample_rate=left.pop("audio.sample_rate", 44100),
            channels=2 if left.pop("model.stereo", False) else 1,
            stft=StftConfig(FFT, left.pop("model.stft_hop_length", 512)),
            bands=tuple(left.pop("model.freqs_per_bands", bands.PAPER)),
            dim=left.pop("model.dim"),
            depth=left.pop("model.depth"),
            **FIXED,
        )
        train = _read_training(left, model.sample_rate)
    except KeyError as error:
        raise InputError(f"{path}: has no {error.args[0]}") from error
    except (ArithmeticError, InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    left = {name: value for name, value in left.items() if name not in _NO_EFFECT}
    if unknown := [name for name in left if name.startswith("model.") and "multi_stft" not in name]:
        raise InputError(f"{path}: MSST's {NETWORK} has no {', '.join(unknown)}")
    return Settings(model, json.loads(json.dumps(train)), tuple(left))


def _read_training(left: dict[str, Any], rate: int) -> dict[str, Any]:
    """Remove the training settings that mean the same here from ``left``, and return them by our names."""
    train = {ours: left.pop(f"training.{name}") for ours, name in _SAME.items() if f"training.{name}" in left}
    if adamw := left.get("training.optimizer") == "adamw":
        del left["training.optimizer"]
        train["lr"] = left.pop("training.lr")
    if "audio.chunk_size" in left:
        train["segment_seconds"] = left.pop("audio.chunk_size") / rate
    if {"training.num_epochs", "training.num_steps"} <= left.keys():  # an epoch ends with an update
        train["validate_every"] = math.ceil(left.pop("training.num_steps") / train.get("accumulate", 1))
        train["steps"] = left.pop("training.num_epochs") * train["validate_every"]
    if left.get("augmentations.enable") and left.get("augmentations.loudness"):
        del left["augmentations.enable"], left["augmentations.loudness"]
        train["gain"] = left.pop("augmentations.loudness_min"), left.pop("augmentations.loudness_max")
    if "training.use_amp" in left:
        train["precision"] = "16-mixed" if left.pop("training.use_amp") else "32-true"
    if not left.pop("model.multi_stft_normalized", False):
        # MSST's loss is waveform + weight * spectra. Ours, waveform_weight * waveform + spectra, is that over weight.
        weight = left.pop("model.multi_stft_resolution_loss_weight", 1.0)
        windows = left.pop("model.multi_stft_resolutions_window_sizes", LossConfig().windows)
        hop = left.pop("model.multi_stft_hop_size", LossConfig().hop_length)
        train["loss"] = LossConfig(tuple(windows), hop, FFT, 1 / weight).to_dict()
        if adamw and left.get("training.grad_clip"):  # 0 is for none
            train["clip"] = left.pop("training.grad_clip") / weight
    return train


def export_msst(model: nn.Module, path: Path, train: Mapping[str, Any] | None = None) -> tuple[Path, Path]:
    """Write weights (``path``) and configuration (the same name with ``.yaml``) for MSST's ``inference.py``.

    Args:
        model: the network.
        path: ends in ``.ckpt``.
        train: fields of :class:`bsm.config.TrainConfig` that it was trained with, as plain values. MSST can then train
            on with them; those that it lacks are logged.

    Raises:
        InputError: MSST's network cannot be this one; the message names each field.
    """
    if not isinstance(model, BSMamba2):
        raise InputError(f"{path}: a {type(model).__name__} is no {NETWORK} of MSST; export a BSMamba2")
    config = model.config
    wanted = FIXED | {name: getattr(ModelConfig(), name) for name in config.ablated}
    given = {name: getattr(config, name) for name in wanted} | {"stft.n_fft": config.stft.n_fft}
    wanted["stft.n_fft"] = FFT
    faults = [f"{name} is {given[name]!r}, there {value!r}" for name, value in wanted.items() if given[name] != value]
    if config.channels not in (1, 2):
        faults.append(f"channels is {config.channels}, there 1 or 2")
    if len(config.bands) < 2:
        faults.append("bands has one band, there two or more")
    if faults:
        raise InputError(f"{path}: {NETWORK} of MSST cannot be this network: {'; '.join(faults)}; use it with bsm")
    if config.heads % HEADS:
        log.warning("%d heads: MSST's CUDA kernels may refuse what is no multiple of %d", config.heads, HEADS)
    hop, rate = config.stft.hop_length, config.sample_rate
    sections = {
        "audio": {"chunk_size": 8 * rate, "hop_length": hop, "n_fft": FFT, "num_channels": config.channels}
        | {"sample_rate": rate, "min_mean_abs": 0.0},
        "model": {"dim": config.dim, "depth": config.depth, "stereo": config.channels == 2}
        | {"freqs_per_bands": config.bands, "stft_hop_length": hop}
        | _ARGUMENTS,
        "training": {"model_type": NETWORK, "instruments": ["vocals", "drums", "bass", "other"]}
        | {"target_instrument": "vocals", "use_amp": False},
        "inference": {"batch_size": 1, "num_overlap": 2},
    }
    if train:
        _write_training(sections, train, rate)
    settings = yaml.dump(sections, sort_keys=False)
    return save_tensors(exported(model), path), write_text(path.with_suffix(".yaml"), settings)


def _write_training(sections: dict[str, Any], given: Mapping[str, Any], rate: int) -> None:
    """Enter the training settings that mean the same in MSST; log the names of the others."""
    train = TrainConfig.from_dict(dict(given))
    loss, epochs = train.loss, math.ceil(train.steps / train.validate_every)
    done = {*_SAME, "segment_seconds", "steps", "validate_every", "gain"}
    sections["audio"]["chunk_size"] = round(train.segment_seconds * rate)
    sections["training"] |= {name: getattr(train, ours) for ours, name in _SAME.items()}
    sections["training"] |= {"num_epochs": epochs, "num_steps": train.validate_every * train.accumulate}
    sections["training"] |= {"patience": epochs, "reduce_factor": 0.95}  # so that the rate stays constant
    sections["augmentations"] = {"enable": True, "loudness": True}
    sections["augmentations"] |= {"loudness_min": train.gain[0], "loudness_max": train.gain[1]}
    if loss == LossConfig(loss.windows, loss.hop_length, FFT, loss.waveform_weight) and loss.waveform_weight > 0:
        done |= {"loss", "clip"}
        sections["training"]["grad_clip"] = train.clip / loss.waveform_weight
        sections["model"] |= {"multi_stft_resolution_loss_weight": 1 / loss.waveform_weight}
        sections["model"] |= {"multi_stft_resolutions_window_sizes": loss.windows}
        sections["model"] |= {"multi_stft_hop_size": loss.hop_length}
    if train.precision in ("16-mixed", "32-true"):
        done.add("precision")
        sections["training"]["use_amp"] = train.precision == "16-mixed"
    if train.optimizer == "adamw":
        done |= {"optimizer", "lr"}
        sections["training"] |= {"optimizer": train.optimizer, "lr": train.lr}
    if train.schedule == "constant" and not train.warmup:
        done |= {"schedule", "warmup"}
    if left := [name for name in given if name not in done]:
        log.info("training settings that MSST lacks, not exported: %s", ", ".join(left))


def convert(source: str | Path, target: Path, config: Path | None = None) -> tuple[Path, Path]:
    """Convert weights of any layout into ours (``.safetensors``, with a card) or MSST's (``.ckpt``, with a YAML file).

    Args:
        source: a file, the folder of a finished run, or a name of weights.
        target: the file to write; its suffix says which layout.
        config: MSST's YAML file, where ``source`` is a checkpoint of MSST's. Without it, hop 441 and 44.1 kHz are
            assumed, as :func:`bsm.weights.files.load_model` does.

    Returns:
        The two files that were written.

    Raises:
        InputError: ``target`` has another suffix or is there already; ``source`` or ``config`` cannot be read, or they
            do not fit each other; or MSST cannot have this network.
    """
    if target.suffix not in (".ckpt", ".safetensors"):
        raise InputError(f"{target}: name it .safetensors for this package, or .ckpt for MSST")
    for path in (target, target.with_suffix(".yaml" if target.suffix == ".ckpt" else ".json")):
        if path.exists():
            raise InputError(f"{path}: is there already; choose another name")
    path, card = locate(source), {}
    settings = read_settings(config) if config else None
    model = load_model(path, config=settings and settings.model)
    origin: dict[str, Any] = {"weights": path.name, "sha256": sha256(path)}
    if settings:
        origin |= {"config": config.name, "train": settings.train}
        log.info("%s: settings without a counterpart, left out: %s", config, ", ".join(settings.left_out) or "none")
    elif path.suffix == ".safetensors" and path.with_suffix(".json").is_file():
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if target.suffix == ".ckpt":
        return export_msst(model, target, card.get("train"))
    return save_model(model, target, card | {"converted_from": origin}), target.with_suffix(".json")
