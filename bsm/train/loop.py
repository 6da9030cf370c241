"""The training loop, on Lightning Fabric."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import bsm
from bsm.baseline import RoformerConfig
from bsm.config import ModelConfig, TrainConfig
from bsm.data.mixing import MixingDataset, validation_segments
from bsm.data.tracks import Track
from bsm.files import TEMPORARY, git_revision, write_text
from bsm.networks import build
from bsm.train.best import prune, save_best
from bsm.train.interrupt import Stopped, StopRequest, ignore_signals
from bsm.train.journal import Journal, NoJournal
from bsm.train.processes import first_alone, make_fabric
from bsm.train.run import clear, run_identity
from bsm.train.sampling import RankSampler
from bsm.train.trainer import VALIDATION_SEGMENTS, Trainer
from bsm.weights.files import load_state, save_model, save_state

log = logging.getLogger(__name__)


def train(
    run: Path,
    model_config: ModelConfig | RoformerConfig,
    config: TrainConfig,
    tracks: dict[str, Sequence[Track]],
    *,
    device: str = "auto",
    supersede: bool = False,
) -> Path:
    """Train a model, or go on training it, or find it trained; return its weights file.

    Started by ``torchrun``, its processes train one model together, and may be more or fewer after each stop.

    Args:
        run: the run's folder, which all processes see. A run of the same configuration, data and code is resumed; any
            other is refused, except that one which differs in code alone is set aside and begun anew.
        model_config: the network.
        config: optimisation and sampling.
        tracks: by split; ``train`` and ``valid`` are used.
        device: Fabric's accelerator name: ``auto``, ``cpu``, ``cuda``.
        supersede: set aside a run that differs in anything, instead of refusing it.

    Raises:
        InputError: the folder holds another run, or a damaged one; no tracks; a rate or channel count that differs;
            a device or precision that is not here; segments that the processes cannot share evenly.
        BackendUnavailable: a BS-RoFormer, and bs-roformer is not installed.
        FloatingPointError: loss or gradient was not finite, update after update.
        Stopped: SIGINT or SIGTERM came; the run is saved.
    """
    run = run.absolute()
    identity = run_identity(model_config, config, tracks)
    weights, state_path = run / "model.safetensors", run / "state.ckpt"
    fabric = make_fabric(device, config.precision)

    def found() -> tuple[bool, bool]:
        clear(run, identity, supersede)
        return weights.is_file(), state_path.is_file()

    trained, begun = first_alone(fabric, found)
    if trained:
        log.info("%s: already trained", run)
        return weights
    torch.manual_seed(config.seed)
    trainer = Trainer(fabric, build(model_config), config)
    if begun:
        trainer.load(load_state(state_path), state_path)
        log.info("%s: going on at step %d of %d", run, trainer.step, config.steps)
    segment = round(config.segment_seconds * model_config.sample_rate)
    batches = _batches(trainer, tracks["train"], segment)
    validation = validation_segments(tracks["valid"], segment, per_track=VALIDATION_SEGMENTS)
    if fabric.is_global_zero:
        write_text(run / "run.json", json.dumps(identity, indent=2) + "\n")
        for path in run.glob(f"{TEMPORARY}*"):  # of a run killed while it wrote one
            path.unlink()
        prune(run, trainer.ranking)
    journal = Journal(run, trainer.step) if fabric.is_global_zero else NoJournal()
    bar = tqdm(
        total=config.steps,
        initial=trainer.step,
        desc=f"train {run.name}",
        unit="step",
        disable=not fabric.is_global_zero,
    )
    with journal, bar, StopRequest() as stop:
        while not trainer.finished:
            record = trainer.update(batches, stop)
            if trainer.step % config.validate_every == 0 or trainer.step == config.steps:
                scores = trainer.validate(validation)
                record |= scores
                trainer.scores = {name: None if math.isnan(value) else value for name, value in scores.items()}
                entered = trainer.ranking.enter(record["valid_usdr"], trainer.step)
                if entered and fabric.is_global_zero:
                    save_best(run, trainer.averaged.module, trainer.step, identity | trainer.scores)
            journal.write(record)
            trainer.check()
            due = trainer.step % config.checkpoint_every == 0 or trainer.finished or trainer.signum
            if due and not trainer.skipped_in_row:
                journal.flush()
                if fabric.is_global_zero:
                    save_state(state_path, trainer.state())
                    prune(run, trainer.ranking)
            bar.set_postfix(_told(record, trainer), refresh=False)
            bar.update()
            if trainer.signum and not trainer.finished:
                raise Stopped(
                    f"stopped by {signal.Signals(trainer.signum).name} at step {trainer.step} of {config.steps}; "
                    f"the same command goes on from the checkpoint in {run}",
                    trainer.signum,
                )
    card = {"step": trainer.step, "skipped": trainer.skipped, "seconds": trainer.seconds} | trainer.scores
    card |= {"git": git_revision(Path(bsm.__file__).resolve().parents[1])}
    return first_alone(fabric, lambda: save_model(trainer.averaged.module, weights, identity | card))


def _batches(trainer: Trainer, tracks: Sequence[Track], segment: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return this process's batches of the updates that are left."""
    config, fabric = trainer.config, trainer.fabric
    dataset = MixingDataset(
        tracks,
        segment=segment,
        seed=config.seed,
        gain=config.gain,
        silence_probability=config.silence_probability,
        length=config.steps * config.update_segments,
    )
    sampler = RankSampler(config, first_update=trainer.step, rank=fabric.global_rank, processes=fabric.world_size)
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=sampler,
        num_workers=config.workers,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # so that a resumed run draws no random number more than a whole one
    )
    return iter(loader)


def _told(record: dict[str, Any], trainer: Trainer) -> dict[str, str]:
    """Return what the progress bar says beside the steps: loss, best score, time, share of waiting, peak memory."""
    told = {"loss": "skipped" if "skipped" in record else f"{record['loss']:.3f}"}
    if trainer.ranking.best:
        told["best"] = f"{trainer.ranking.best[0][0]:.2f} dB"
    told["step"] = f"{record['seconds']:.2g} s"
    told["data"] = f"{record['waited'] / record['seconds']:.0%}"
    return told | {"memory": f"{record['memory_mb'] / 1000:.2g} GB"}
