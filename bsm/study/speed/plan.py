"""Predict the hours and memory of trainings from measured steps, and name the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from bsm.config import ModelConfig, TrainConfig
from bsm.errors import InputError
from bsm.stats import Interval, interval_words, of_rounds
from bsm.study.claims.exact import EPOCHS, STEPS
from bsm.study.counts import GIB, operations, parameter_count, step_memory
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, plain, read_result
from bsm.study.speed.parts import DATA, LOSS, OPTIMISER
from bsm.study.speed.step import OURS, part_seconds, size

SEGMENTS = 30  # segments that each of the paper's two GPUs processes for an update
LIKE_OURS = (OURS.name, "chunked", "triton")  # variants whose step is that of bsm.train, on a CPU or on a GPU
LIMITS = (
    "Hours are those of one device. The network's time grows with the operations of its matrix products, that of loss "
    "and data with the samples, and that of the optimiser with the parameters. Validation and checkpoints are not "
    "counted. The intervals cover the measured rounds, not the error of the extrapolation. Memory is counted from "
    "tensors in float32, with mamba-ssm's kernels and without libraries."
)


class Work(NamedTuple):
    """A training: ``segments`` per update, ``batch`` of them per forward pass, each ``seconds`` long."""

    name: str
    preset: str
    updates: int
    segments: int
    batch: int
    seconds: float

    @classmethod
    def of(cls, name: str, preset: str, config: TrainConfig) -> Self:
        """Return the training of a configuration."""
        return cls(name, preset, config.steps, config.update_segments, config.batch_size, config.segment_seconds)


def works(preset: str, profile: Profile) -> list[Work]:
    """List the trainings to plan: the paper's, the documents' 100 epochs of 430 steps, and a profile's own.

    ``preset`` is the network's size in all but the profile's training.
    """
    paper = Work.of("as the paper", preset, TrainConfig.preset("paper"))
    planned = paper._replace(updates=EPOCHS * STEPS, segments=SEGMENTS)
    name = f"{EPOCHS} epochs x {STEPS} steps"
    return [
        paper,
        planned._replace(name=f"{name} of {SEGMENTS} segments"),
        planned._replace(name=f"{name} of one segment", segments=1, batch=1),
        Work.of(f"profile {profile.profile}", profile.model, profile.train_config()),
    ]


def choose(path: Path | None, preset: str, device: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Find the measurement to extrapolate from: ``path``, a result of ``bsm bench step``, or by default the reports'.

    Returns:
        The file, its record, and the measured step. It is of the preset if there is one, otherwise of the largest
        network. Among several, it has the longest segments, and then the fastest step.

    Raises:
        InputError: no result on the device that holds a step as :mod:`bsm.train` takes it.
    """
    found = []
    for file in [path] if path else sorted((ROOT / "reports").glob("*/results/step*.json")):
        record = read_result(file)
        if record["parameters"].get("device") == device and isinstance(record["values"], dict):
            steps = [s for name in ("variants", "backends") for s in record["values"].get(name, [])]
            found += [(file, record, step) for step in steps if step["variant"] in LIKE_OURS]
    if not found:
        where = path or "reports"
        raise InputError(f"{where}: no training step of {device}; run `bsm bench step --device {device} --json FILE`")

    def fit(candidate: tuple[Path, dict[str, Any], dict[str, Any]]) -> tuple:
        step = candidate[2]
        segment = np.mean(step["seconds"]) / step["batch"]
        return step["preset"] != preset, -step["parameters"], -step["audio_seconds"], segment

    return min(found, key=fit)


def update_seconds(step: dict[str, Any], work: Work) -> Interval:
    """Predict the seconds of an update, with an interval over the measured rounds.

    The network's time grows with the operations of its matrix products, and that of loss and data with the number of
    samples. The optimiser's time grows with the number of parameters, not with the segments.
    """
    measured, wanted = (ModelConfig.preset(name) for name in (step["preset"], work.preset))
    total = np.asarray(step["seconds"])
    optimiser, signal = part_seconds(step, OPTIMISER), part_seconds(step, LOSS, DATA)
    network = total - optimiser - signal
    segments = work.segments / step["batch"]
    harder = operations(wanted, work.seconds) / operations(measured, step["audio_seconds"])
    longer = work.seconds / step["audio_seconds"]
    larger = parameter_count(wanted) / step["parameters"]
    return of_rounds(segments * (network * harder + signal * longer) + optimiser * larger)


def plan(todo: Sequence[Work], path: Path | None, device: str) -> tuple[pd.DataFrame, list[str]]:
    """Predict trainings: seconds of an update, hours on one device, memory with and without gradient checkpointing.

    Returns:
        The table, and what the times were extrapolated from (:func:`choose`), a sentence for each source.
    """
    rows, sources = [], []
    for work in todo:
        file, record, step = choose(path, work.preset, device)
        update = update_seconds(step, work)
        ends = {name: getattr(update, name) * work.updates / 3600 for name in ("estimate", "low", "high")}
        row = {
            "training": work.name,
            "preset": work.preset,
            "updates": work.updates,
            "segments": f"{work.segments} x {work.seconds:g} s",
            "s an update": update.estimate,
            "hours": interval_words(update._replace(**ends), digits=1),
            "batch": work.batch,
        }
        for name, checkpointing in (("GiB", False), ("GiB, checkpointing", True)):
            row[name] = step_memory(work.preset, work.seconds, work.batch, checkpointing)["bytes"] / GIB
        rows.append(row)
        sources.append(_source(file, record, step, work.preset))
    return pd.DataFrame(rows), [*dict.fromkeys(sources), LIMITS]


def _source(path: Path, record: dict[str, Any], step: dict[str, Any], preset: str) -> str:
    machine, shown = record["provenance"], plain(path.resolve())
    other = "" if step["preset"] == preset else " (of another size: a rough guide)"
    return (
        f"{preset}: extrapolated from {len(step['seconds'])} steps in {shown}{other}: preset {step['preset']}, scan "
        f"{step['scan']}, {size(step)}, {step['precision']}, on {machine['device']}, "
        f"{machine['threads']} threads, revision {machine['git']['revision'][:12]}."
    )
