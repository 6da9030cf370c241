"""What a training would take, from measured steps: hours and memory, and what they were extrapolated from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsm.config import ModelConfig, TrainConfig
from bsm.errors import InputError
from bsm.stats import Interval, interval_text, of_rounds
from bsm.study.meta import GIB, operations, parameter_count
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, read_result
from bsm.study.speed.memory import predicted_bytes
from bsm.study.speed.parts import DATA, LOSS, OPTIMISER
from bsm.study.speed.step import OURS, part_seconds

EPOCHS, STEPS = 100, 430  # what the documents plan with
SEGMENTS = 30  # of one of those steps: the paper's share of one GPU
LIKE_OURS = (OURS.name, "chunked", "triton")  # variants that take the step as bsm.train does, on one device or another


LIMITS = (
    "Hours are of one device; network time grows with the operations of its matrix products, loss and data with the "
    "samples, the optimiser with the parameters. Validation and checkpoints are not counted. The intervals are over "
    "the rounds measured and know nothing of the extrapolation's error."
)


@dataclass(frozen=True)
class Work:
    """A training.

    Attributes:
        name: for the table.
        preset: size of the network.
        updates: optimiser steps.
        segments: of an update, over all of its forward passes.
        batch: segments of a forward pass, which the memory depends on.
        seconds: length of a segment, s.
    """

    name: str
    preset: str
    updates: int
    segments: int
    batch: int
    seconds: float


def works(preset: str, profile: Profile) -> list[Work]:
    """List the paper's training and the documents' 100 epochs of 430 steps, both of a size, and a profile's."""
    paper, own = TrainConfig.preset("paper"), profile.train_config()
    batch, seconds = paper.batch_size, paper.segment_seconds
    name = f"{EPOCHS} epochs x {STEPS} steps"
    return [
        Work("as the paper", preset, paper.steps, paper.update_segments, batch, seconds),
        Work(f"{name} of {SEGMENTS} segments", preset, EPOCHS * STEPS, SEGMENTS, batch, seconds),
        Work(f"{name} of one segment", preset, EPOCHS * STEPS, 1, 1, seconds),
        Work(
            f"profile {profile.profile}",
            profile.model,
            own.steps,
            own.update_segments,
            own.batch_size,
            own.segment_seconds,
        ),
    ]


def choose(path: Path | None, preset: str, device: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Find the measurement to extrapolate from.

    Args:
        path: a result of ``bsm bench step``; None looks among the reports for those of the device.
        preset: size of the network; a measurement of another size serves where there is none.
        device: ``cpu`` or ``cuda``.

    Returns:
        The file, its record, and the step measured: of the preset if there is one, else of the largest network; with
        the longest segments, and the fastest of these.

    Raises:
        InputError: no such result, or one of another device or without a step as :mod:`bsm.train` takes it.
    """
    paths = [path] if path else sorted((ROOT / "reports").glob("*/results/step*.json"))
    found = []
    for file in paths:
        record = read_result(file)
        if record["parameters"].get("device") != device:
            if path:
                raise InputError(f"{file}: not measured on {device}; give --device or another file")
            continue
        values = record["values"] if isinstance(record["values"], dict) else {}
        steps = [s for name in ("variants", "backends") for s in values.get(name, []) if s["variant"] in LIKE_OURS]
        if not steps and path:
            raise InputError(f"{file}: holds no training step; write one with `bsm bench step --json {file}`")
        found += [(file, record, step) for step in steps]
    if not found:
        raise InputError(f"no training step measured on {device}; run `bsm bench step --device {device} --json FILE`")

    def fit(candidate: tuple[Path, dict[str, Any], dict[str, Any]]) -> tuple:
        step = candidate[2]
        segment = np.mean(step["seconds"]) / step["batch"]
        return step["preset"] != preset, -step["parameters"], -step["audio_seconds"], segment

    return min(found, key=fit)


def update_seconds(step: dict[str, Any], work: Work) -> Interval:
    """Predict the seconds of an update, with an interval over the measured rounds.

    What a segment takes grows with its length: network with its matrix products' operations, loss and data with the
    samples. The optimiser's part does not depend on segments, and grows with the parameters.
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

    Args:
        todo: the trainings.
        path: see :func:`choose`.
        device: ``cpu`` or ``cuda``.

    Returns:
        The table, NaN for memory that was not measured, and what it was extrapolated from, a sentence for each source.
    """
    rows, sources = [], []
    for work in todo:
        file, record, step = choose(path, work.preset, device)
        update = update_seconds(step, work)
        hours = [v * work.updates / 3600 for v in update[:3]]
        row = {
            "training": work.name,
            "preset": work.preset,
            "updates": work.updates,
            "segments": f"{work.segments} x {work.seconds:g} s",
            "s an update": update.estimate,
            "hours": hours[0],
            "interval": interval_text(*hours[1:], digits=1),
            "batch": work.batch,
        }
        for name, checkpointing in (("GiB", False), ("GiB, checkpointing", True)):
            case = (work.preset, step["precision"], checkpointing)
            row[name] = predicted_bytes(record["values"].get("memory") or [], case, work.seconds, work.batch) / GIB
        rows.append(row)
        sources.append(_source(file, record, step, work.preset))
    return pd.DataFrame(rows), [*dict.fromkeys(sources), LIMITS]


def _source(path: Path, record: dict[str, Any], step: dict[str, Any], preset: str) -> str:
    machine, where = record["provenance"], path.resolve()
    shown = where.relative_to(ROOT) if where.is_relative_to(ROOT) else path
    other = "" if step["preset"] == preset else " (of another size: a rough guide)"
    return (
        f"{preset}: extrapolated from {len(step['seconds'])} steps in {shown}{other}: preset {step['preset']}, scan "
        f"{step['scan']}, {step['batch']} x {step['audio_seconds']:g} s, {step['precision']}, on {machine['device']}, "
        f"{machine['threads']} threads, revision {machine['git']['revision'][:12]}."
    )
