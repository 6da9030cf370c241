"""The training loop, on Lightning Fabric: one run, one folder, resumed where it stopped.

A run folder holds ``run.json`` (what is trained, on what, by which code), ``state.ckpt`` (to resume), ``log.jsonl``,
``tensorboard/`` and, at the end, ``model.safetensors`` with its card.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

import bsm
from bsm.checkpoint import load_state, save_model, save_state
from bsm.config import ModelConfig, TrainConfig
from bsm.data.mixing import MixingDataset, validation_segments
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.files import write_text
from bsm.loss import bsmamba2_loss
from bsm.metrics import usdr
from bsm.model import BSMamba2

log = logging.getLogger(__name__)

VALIDATION_SEGMENTS = 4  # of each validation song

# FFTs know no half precision, and float16's range is too small for the loss's gradients without a scaler.
PRECISIONS = ("32-true", "bf16-mixed")

# What the weights depend on: when one of these changes, a finished run is trained anew.
# The songs' synthesis is among it, for the data are known by name and length alone.
SOURCES = (
    "activity",
    "audio",
    "bands",
    "config",
    "conv",
    "data/demo",
    "data/demo_render",
    "data/demo_score",
    "data/demo_voice",
    "data/mixing",
    "data/tracks",
    "loss",
    "mamba2",
    "model",
    "scan",
    "stft",
    "train",
)


def train(
    run: Path,
    model_config: ModelConfig,
    config: TrainConfig,
    tracks: dict[str, Sequence[Track]],
    *,
    device: str = "auto",
    supersede: bool = False,
) -> Path:
    """Train a model, or go on training it, or find it trained; return its weights file.

    Args:
        run: the run's folder. A run of the same configuration, data and code is resumed; any other is refused, except
            that one which differs in code alone is set aside and begun anew.
        model_config: the network.
        config: optimisation and sampling.
        tracks: by split; ``train`` and ``valid`` are used.
        device: Fabric's accelerator name: ``auto``, ``cpu``, ``cuda``.
        supersede: set aside a run that differs in anything, instead of refusing it.

    Raises:
        InputError: the folder holds another run, or a damaged one; no tracks; a rate or channel count that differs;
            a device or precision that is not here.
        FloatingPointError: the loss or its gradient is no longer finite.
    """
    run = run.absolute()
    identity = _identity(model_config, config, tracks)
    weights, state_path = run / "model.safetensors", run / "state.ckpt"
    fabric = _fabric(device, config.precision)
    _clear(run, identity, supersede)
    if weights.is_file():
        log.info("%s: already trained", run)
        return weights
    torch.manual_seed(config.seed)
    trainer = _Trainer(fabric, BSMamba2(model_config), config)
    if state_path.is_file():
        trainer.load(load_state(state_path), state_path)
        log.info("%s: going on at step %d of %d", run, trainer.step, config.steps)
    segment = round(config.segment_seconds * model_config.sample_rate)
    per_step = config.batch_size * config.accumulate
    dataset = MixingDataset(
        tracks["train"],
        segment=segment,
        seed=config.seed,
        gain=config.gain,
        silence_probability=config.silence_probability,
        length=config.steps * per_step,
    )
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=range(trainer.step * per_step, config.steps * per_step),
        num_workers=config.workers,
    )
    validation = validation_segments(tracks["valid"], segment, per_track=VALIDATION_SEGMENTS)
    write_text(run / "run.json", json.dumps(identity, indent=2) + "\n")
    for path in run.glob(f".{state_path.stem}-*{state_path.suffix}"):  # of a run killed while it wrote one
        path.unlink()
    journal = _Journal(run / "log.jsonl", trainer.step)
    # What a killed run logged past its checkpoint is struck out: it will come again.
    board = TensorBoardLogger(run, name="tensorboard", version="", purge_step=trainer.step + 1)
    batches = iter(loader)
    with tqdm(total=config.steps, initial=trainer.step, desc=f"train {run.name}", unit="step") as bar:
        while trainer.step < config.steps:
            record = trainer.update(batches)
            if trainer.step % config.validate_every == 0 or trainer.step == config.steps:
                record |= trainer.validate(validation)
                bar.set_postfix(loss=f"{record['loss']:.3f}", valid=f"{record['valid_usdr']:.2f} dB")
            journal.write(record)
            board.log_metrics({k: v for k, v in record.items() if k != "step"}, step=trainer.step)
            if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
                journal.flush()
                save_state(state_path, trainer.state())
            bar.update()
    board.finalize("success")
    journal.close()
    return save_model(trainer.averaged.module, weights, identity | {"seconds": trainer.seconds})


@dataclass
class _Trainer:
    """Everything that changes from one update to the next."""

    fabric: Fabric
    model: nn.Module
    config: TrainConfig

    def __post_init__(self) -> None:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.config.lr, fused=True)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay))
        self.model, self.optimizer = self.fabric.setup(self.model, optimizer)
        self.averaged.to(self.fabric.device)
        self.step, self.seconds = 0, 0.0

    def update(self, batches) -> dict[str, Any]:
        """Take one optimiser step over ``accumulate`` batches."""
        started = time.perf_counter()
        total = 0.0
        waited = 0.0
        for _ in range(self.config.accumulate):
            asked = time.perf_counter()
            mixture, vocals = (v.to(self.fabric.device, non_blocking=True) for v in next(batches))
            waited += time.perf_counter() - asked
            loss = bsmamba2_loss(self.model(mixture), vocals, self.config.loss) / self.config.accumulate
            self.fabric.backward(loss)
            total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss of step {self.step + 1} is {total}; the last checkpoint is kept")
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
        )
        if not norm.isfinite():
            raise FloatingPointError(
                f"the gradient of step {self.step + 1} has norm {norm}; the last checkpoint is kept"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averaged.update_parameters(self.model.module)
        self.step += 1
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        return {"step": self.step, "loss": total, "grad_norm": norm.item(), "seconds": elapsed, "waited": waited}

    @torch.no_grad()
    def validate(self, segments: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Score the averaged weights on fixed segments: mean loss, and mean over songs of uSDR in dB.

        A song's uSDR is that of its segments joined: in segments without vocals the ratio of energies is meaningless,
        but what the model leaves there counts as error.
        """
        self.averaged.eval()
        losses, songs = [], []
        for song in _groups(segments, VALIDATION_SEGMENTS):
            mixture, vocals = (torch.stack(v).to(self.fabric.device) for v in zip(*song, strict=True))
            with self.fabric.autocast():
                estimate = self.averaged(mixture)
            losses.append(bsmamba2_loss(estimate, vocals, self.config.loss).item())
            songs.append(usdr(*(v.transpose(0, 1).flatten(1) for v in (vocals, estimate))))
        return {"valid_loss": sum(losses) / len(losses), "valid_usdr": sum(songs) / len(songs)}

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs. The data need no state: a segment depends on seed and index alone."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any], path: Path) -> None:
        """Take up a saved state, read from ``path``.

        Raises:
            InputError: it is not a state of this training.
        """
        try:
            self.step, self.seconds = state["step"], state["seconds"]
            self.model.module.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{path}: not a checkpoint of this training ({type(error).__name__}); delete it to train from the start"
            ) from error


class _Journal:
    """``log.jsonl``, one line an update; on resuming, lines past the checkpoint are dropped: they will come again."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in path.read_text().splitlines() if _step(line) <= step] if path.is_file() else []
        write_text(path, "".join(line + "\n" for line in kept))
        self.file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Bring the lines to the disk, where the checkpoint that they belong to will be."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def _fabric(device: str, precision: str) -> Fabric:
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} cannot be trained in; choose one of {', '.join(PRECISIONS)}")
    try:
        return Fabric(accelerator=device, devices=1, precision=precision)
    except (ValueError, RuntimeError, TypeError) as error:  # Fabric's refusals, which name what there is
        raise InputError(f"device {device!r}: {' '.join(str(error).split())}") from error


def _groups(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # the half line of a killed run
        return math.inf


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the updates of a run, in order: step, loss, grad_norm, seconds, waited, and where made valid_*."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _identity(model: ModelConfig, config: TrainConfig, tracks: dict[str, Sequence[Track]]) -> dict[str, Any]:
    for split in ("train", "valid"):
        if not tracks.get(split):
            raise InputError(f"no tracks in split {split!r}; training needs 'train' and 'valid'")
        for track in tracks[split]:
            if (track.rate, track.channels) != (model.sample_rate, model.channels):
                raise InputError(
                    f"track {track.name!r} has {track.rate} Hz, {track.channels} channels; the model wants "
                    f"{model.sample_rate} Hz, {model.channels}"
                )
    data = {split: [[t.name, t.samples] for t in tracks[split]] for split in ("train", "valid")}
    settings = {"model": model.to_dict(), "train": config.to_dict(), "data": data}
    return json.loads(json.dumps(settings)) | {"code": _code_fingerprint()}


def _code_fingerprint() -> str:
    root = Path(bsm.__file__).parent
    files = sorted(p for name in SOURCES for p in [root / f"{name}.py", *(root / name).glob("*.py")] if p.is_file())
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:16]


def _clear(run: Path, identity: dict[str, Any], supersede: bool) -> None:
    """Make sure that the folder is free or holds this very run; set aside one that other code began, or any other.

    Raises:
        InputError: it holds another run, or one whose ``run.json`` is damaged or gone.
    """
    path = run / "run.json"
    if not path.is_file():
        if any((run / name).exists() for name in ("state.ckpt", "model.safetensors")):
            raise InputError(f"{run}: holds a run without run.json; choose another folder or delete this one")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(k for k in identity if found.get(k) != identity[k])
    except (ValueError, AttributeError) as error:  # not JSON, or not a mapping
        raise InputError(f"{path}: damaged ({error}); delete the folder to train from the start") from error
    if not differing:
        return
    if differing != ["code"] and not supersede:
        raise InputError(
            f"{run}: holds a run with another {', '.join(d for d in differing if d != 'code')}; "
            "choose another folder or delete this one"
        )
    # Named by the code that began it, so that no two runs want one name.
    aside = run.with_name(f"{run.name}.code-{found.get('code')}")
    number = 1
    while aside.exists():
        number += 1
        aside = run.with_name(f"{run.name}.code-{found.get('code')}-{number}")
    changed = ", ".join(differing)
    log.warning("%s: %s changed since this run began; it is kept as %s and begun anew", run, changed, aside.name)
    run.replace(aside)
