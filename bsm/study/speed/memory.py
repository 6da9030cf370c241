"""Memory of a training step: measured where segments are short, and carried on to long ones by a stated formula."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from bsm.config import ModelConfig, TrainConfig
from bsm.study.meta import GIB, KEPT, parameter_count
from bsm.study.speed.step import OURS, Step, frames
from bsm.study.speed.timer import peak_memory

FORMULA = (
    "computed: 16 bytes a parameter (weight, average, two moments) + a + b x segments x frames, where a line through "
    "the points measured at that precision and checkpointing gives a and b"
)
Case = tuple[str, str, bool]  # preset, precision, whether blocks are checkpointed


def step_memory(
    cases: Sequence[Case], seconds: Sequence[float], *, batch: int = 1, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Measure by how much a training step raises memory; on a CPU each in a process of its own.

    Args:
        cases: preset, precision, whether blocks are checkpointed.
        seconds: lengths of a segment, s; two or more, so that others can be predicted.
        batch: segments of a step.
        device: ``cpu`` or ``cuda``.

    Returns:
        One record per case and length: ``preset``, ``precision``, ``checkpointing``, ``audio_seconds``, ``frames``,
        ``batch``, ``kept_bytes`` (between steps, computed) and ``peak_bytes`` above that, None where it cannot be
        measured.
    """
    records = []
    pairs = [(case, span) for case in cases for span in seconds]
    for (preset, precision, checkpointing), span in tqdm(pairs, desc="memory of a step", unit="case"):
        case, small = (preset, precision, checkpointing, span, batch), ("tiny", precision, False, 0.1, 1)
        records.append(
            {
                "preset": preset,
                "precision": precision,
                "checkpointing": checkpointing,
                "audio_seconds": span,
                "frames": frames(ModelConfig.preset(preset), span),
                "batch": batch,
                "kept_bytes": KEPT * parameter_count(ModelConfig.preset(preset)),
                "peak_bytes": peak_memory(_prepare, Step.__call__, case, warm_up=small, device=device),
            }
        )
    return records


def _prepare(preset: str, precision: str, checkpointing: bool, seconds: float, batch: int, device: str = "cpu") -> Step:
    """Make a step whose optimiser has its moments, for they stay: only the step's own memory is to be seen."""
    model = ModelConfig.preset(preset)
    sound = [torch.randn(2, batch, model.channels, round(s * model.sample_rate)) for s in (0.02, seconds)]
    config = TrainConfig(batch_size=batch, accumulate=1, precision=precision, checkpoint_gradients=checkpointing)
    step = Step(OURS, model, config, iter(sound), device=device)
    step()
    if device == "cpu" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # freed memory that the allocator keeps would be handed out again unseen
    return step


def predicted_bytes(records: Sequence[dict[str, Any]], case: Case, seconds: float, batch: int) -> float:
    """Predict the memory of a step in bytes by :data:`FORMULA`; NaN with fewer than two measurements of the case."""
    own = [r for r in records if _case(r) == tuple(case) and r["peak_bytes"]]
    loads = [r["batch"] * r["frames"] for r in own]
    if len(set(loads)) < 2:
        return float("nan")
    slope, start = np.polyfit(loads, [r["peak_bytes"] for r in own], 1)
    return own[0]["kept_bytes"] + start + slope * batch * frames(ModelConfig.preset(case[0]), seconds)


def _case(record: dict[str, Any]) -> Case:
    return record["preset"], record["precision"], record["checkpointing"]


def memory_table(records: Sequence[dict[str, Any]], wanted: Sequence[tuple[float, int]]) -> pd.DataFrame:
    """List each case's memory in GiB, as measured, and as computed for other segments.

    Args:
        records: from :func:`step_memory`.
        wanted: (segment length in s, segments of a step).
    """
    rows = []
    for case in dict.fromkeys(map(_case, records)):
        points = [
            (r["audio_seconds"], r["batch"], r["kept_bytes"] + (r["peak_bytes"] or np.nan), "measured")
            for r in records
            if _case(r) == case
        ]
        points += [(span, batch, predicted_bytes(records, case, span, batch), "computed") for span, batch in wanted]
        rows += [
            (case[0], case[1], "on" if case[2] else "off", f"{span:g}", batch, size / GIB, how)
            for span, batch, size, how in points
        ]
    names = "preset", "precision", "checkpointing", "segment (s)", "batch", "GiB", ""
    return pd.DataFrame(rows, columns=names)
