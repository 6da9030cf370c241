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
CASE = ["preset", "precision", "checkpointing"]


def step_memory(
    cases: Sequence[tuple[str, str, bool]], seconds: Sequence[float], *, batch: int = 1, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Measure by how much a training step raises memory; on a CPU each in a process of its own.

    Args:
        cases: preset, precision, whether blocks are checkpointed.
        seconds: lengths of a segment, s; two or more, so that others can be predicted.
        batch: segments of a step.
        device: ``cpu`` or ``cuda``.

    Returns:
        One record per case and length: :data:`CASE`, ``audio_seconds``, ``frames``, ``batch``, ``kept_bytes`` (between
        steps, computed) and ``peak_bytes`` above that, None where it cannot be measured.
    """
    records = []
    pairs = [(case, span) for case in cases for span in seconds]
    for case, span in tqdm(pairs, desc="memory of a step", unit="case"):
        model, small = ModelConfig.preset(case[0]), ("tiny", case[1], False, 0.1, 1)
        records.append(
            dict(zip(CASE, case, strict=True))
            | {"audio_seconds": span, "frames": frames(model, span), "batch": batch}
            | {"kept_bytes": KEPT * parameter_count(model)}
            | {"peak_bytes": peak_memory(_prepare, Step.__call__, (*case, span, batch), warm_up=small, device=device)}
        )
    return records


def _prepare(preset: str, precision: str, checkpointing: bool, seconds: float, batch: int, device: str = "cpu") -> Step:
    """Make a step whose optimiser has its moments, for they stay: only the step's own memory is to be seen."""
    model = ModelConfig.preset(preset)
    sound = [torch.randn(2, batch, model.channels, round(s * model.sample_rate)) for s in (0.02, seconds)]
    config = TrainConfig(batch_size=batch, accumulate=1, precision=precision, checkpoint_gradients=checkpointing)
    step = Step(OURS, model, config, sound, device=device)
    step()
    if device == "cpu" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # freed memory that the allocator keeps would be handed out again unseen
    return step


def predicted_bytes(
    records: Sequence[dict[str, Any]], case: tuple[str, str, bool], seconds: float, batch: int
) -> float:
    """Predict the memory of a step in bytes by :data:`FORMULA`; NaN with fewer than two measurements of the case."""
    own = [r for r in records if tuple(r[name] for name in CASE) == case and r["peak_bytes"]]
    loads = [r["batch"] * r["frames"] for r in own]
    if len(set(loads)) < 2:
        return float("nan")
    slope, start = np.polyfit(loads, [r["peak_bytes"] for r in own], 1)
    return own[0]["kept_bytes"] + start + slope * batch * frames(ModelConfig.preset(case[0]), seconds)


def memory_table(records: Sequence[dict[str, Any]], wanted: Sequence[tuple[float, int]]) -> pd.DataFrame:
    """List each case's memory in GiB, as measured, and as computed for other segments: (s, segments of a step)."""
    rows = []
    for case, own in pd.DataFrame(records).groupby(CASE, sort=False) if records else ():
        size = own["kept_bytes"] + own["peak_bytes"].astype(float)
        rows += [(*case, *point, "measured") for point in zip(own["audio_seconds"], own["batch"], size, strict=True)]
        rows += [(*case, *load, predicted_bytes(records, case, *load), "computed") for load in wanted]
    frame = pd.DataFrame(rows, columns=[*CASE, "segment (s)", "batch", "GiB", ""])
    frame["checkpointing"] = frame["checkpointing"].map({True: "on", False: "off"})
    return frame.assign(**{"segment (s)": frame["segment (s)"].map("{:g}".format), "GiB": frame["GiB"] / GIB})
