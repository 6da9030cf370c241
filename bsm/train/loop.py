"""The training loop, on Lightning Fabric."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
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
from bsm.files import TEMPORARY, write_text
from bsm.memory import keep_freed_memory
from bsm.networks import build
from bsm.train.distributed import Stopped, StopRequest, first_alone, ignore_signals, make_fabric, rank_segments
from bsm.train.journal import Journal, load_state, prune, save_best, writing
from bsm.train.run import claim, run_identity
from bsm.train.trainer import VALIDATION_SEGMENTS, Trainer
from bsm.versions import git_revision
from bsm.weights.files import save_model, save_tensors

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
    """Train a network, or resume its training, unless it is finished; return the file of its weights.

    Processes that ``torchrun`` starts train one network together. Their number may change when a run resumes.

    Args:
        run: the run's folder, visible to all processes; :func:`bsm.train.run.claim` has the rules for a used folder.
        model_config: the network.
        config: optimisation and sampling.
        tracks: songs by split; ``train`` and ``valid`` are used.
        device: Fabric's accelerator name: ``auto``, ``cpu``, ``cuda``.
        supersede: set aside a run with other settings or songs, instead of raising an InputError.

    Raises:
        InputError: the folder or the songs cannot be used, the device or precision is not available, the processes
            cannot share the segments evenly, or a file cannot be written.
        BackendUnavailable: the network is a BS-RoFormer, and bs-roformer is not installed.
        FloatingPointError: loss or gradient was not finite in ``config.max_skipped`` updates in a row.
        Stopped: SIGINT or SIGTERM was received, and the run was saved.
    """
    run = run.absolute()
    fabric = make_fabric(device, config.precision)
    identity = first_alone(fabric, lambda: run_identity(model_config, config, tracks))
    with ExitStack() as held:
        if first_alone(fabric, lambda: claim(run, identity, supersede=supersede, held=held)):
            log.info("%s: already trained", run)
            return run / "model.safetensors"
        if fabric.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        trainer = Trainer(fabric, build(model_config), config)
        state_path = run / "state.ckpt"
        if first_alone(fabric, state_path.is_file):
            trainer.load(load_state(state_path), state_path)
            log.info("%s: resuming at step %d of %d", run, trainer.step, config.steps)
        segment = round(config.segment_seconds * model_config.sample_rate)
        batches = _batches(trainer, tracks["train"], segment)
        validation = validation_segments(tracks["valid"], segment, per_track=VALIDATION_SEGMENTS)
        first_alone(fabric, lambda: _begin(run, identity, trainer))
        _updates(run, identity, trainer, batches, validation)
        card = {"step": trainer.step, "skipped": trainer.skipped, "seconds": trainer.seconds} | trainer.scores
        card |= {"git": git_revision(Path(bsm.__file__).resolve().parents[1])}

        def finish() -> Path:
            with writing(run, trainer.step):
                return save_model(trainer.averaged.network, run / "model.safetensors", identity | card)

        return first_alone(fabric, finish)


def _begin(run: Path, identity: dict[str, Any], trainer: Trainer) -> None:
    """Record the run's identity, and delete half-written files of a killed process."""
    with writing(run, trainer.step):
        write_text(run / "run.json", json.dumps(identity, indent=2) + "\n")
        for path in run.glob(f"{TEMPORARY}*"):
            path.unlink()
        prune(run, trainer.ranking)


def _updates(
    run: Path,
    identity: dict[str, Any],
    trainer: Trainer,
    batches: Iterator[tuple[Tensor, Tensor]],
    validation: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """Make the remaining updates; the first process writes log, best weights and checkpoints."""
    config, first = trainer.config, trainer.fabric.is_global_zero
    kept = trainer.step  # the step of the last checkpoint
    with writing(run, kept):
        journal = Journal(run, trainer.step) if first else nullcontext()
    bar = tqdm(total=config.steps, initial=trainer.step, desc=f"train {run.name}", unit="step", disable=not first)
    with journal, bar, StopRequest() as stop:
        while not trainer.finished:
            record = trainer.update(batches, stop)
            entered = False
            if trainer.step % config.validate_every == 0 or trainer.step == config.steps:
                scores = trainer.validate(validation)
                record |= scores
                trainer.scores = {name: None if math.isnan(value) else value for name, value in scores.items()}
                entered = trainer.ranking.enter(record["valid_usdr"], trainer.step)
            due = trainer.step % config.checkpoint_every == 0 or trainer.finished or trainer.signum
            due = due and not trainer.skipped_in_row
            if first:
                with writing(run, kept):
                    if entered:
                        save_best(run, trainer.averaged.network, trainer.step, identity | trainer.scores)
                    journal.write(record)
                    if due:
                        journal.flush()
                        save_tensors(trainer.state(), run / "state.ckpt")
                        kept = trainer.step
                        prune(run, trainer.ranking)
            trainer.check()
            bar.set_postfix(_progress(record, trainer), refresh=False)
            bar.update()
            if trainer.signum and not trainer.finished:
                raise Stopped(
                    f"stopped by {signal.Signals(trainer.signum).name} at step {trainer.step} of {config.steps}; "
                    f"the same command goes on from the checkpoint in {run}",
                    trainer.signum,
                )


def _batches(trainer: Trainer, tracks: Sequence[Track], segment: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return this process's batches of the remaining updates."""
    config, fabric = trainer.config, trainer.fabric
    dataset = MixingDataset(
        tracks,
        segment=segment,
        seed=config.seed,
        gain=config.gain,
        silence_probability=config.silence_probability,
        transpose=config.transpose,
        window_seconds=config.window_seconds,
        length=config.steps * config.update_segments,
    )
    segments = rank_segments(config, first_update=trainer.step, rank=fabric.global_rank, processes=fabric.world_size)
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=segments,
        num_workers=config.workers,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # not the global one, so that a resumed run draws the same random numbers
    )
    return iter(loader)


def _progress(record: dict[str, Any], trainer: Trainer) -> dict[str, str]:
    """Return the values of the progress bar: loss, best score, time, share of waiting for data, peak memory."""
    shown = {"loss": "skipped" if "skipped" in record else f"{record['loss']:.3f}"}
    if trainer.ranking.best:
        shown["best"] = f"{trainer.ranking.best[0][0]:.2f} dB"
    shown["step"] = f"{record['seconds']:.2g} s"
    shown["data"] = f"{record['waited'] / record['seconds']:.0%}"
    return shown | {"memory": f"{record['memory_mb'] / 1000:.2g} GB"}
