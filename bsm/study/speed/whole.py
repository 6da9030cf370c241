"""Whole training steps: with and without torch.compile, and with mamba-ssm's modules as the author computes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.loss import bsmamba2_loss
from bsm.study.speed import official
from bsm.study.speed.step import OFFICIAL, OURS, Step, Variant
from bsm.study.speed.timer import SEED, compiling, peak_memory_cuda, repeated
from bsm.study.speed.yardsticks import plain_loss


def compiled(
    preset: str = "tiny",
    *,
    seconds: float = 1.0,
    batch: int = 2,
    repeats: int = 5,
    precision: str = "32-true",
    device: str = "cpu",
) -> dict[str, Any]:
    """Time whole training steps with and without ``torch.compile``, and what compiling took, in s."""
    model = ModelConfig.preset(preset)
    config = TrainConfig(batch_size=batch, accumulate=1, precision=precision, seed=SEED)
    sound = _segments(model, seconds, batch)
    steps = [Step(OURS, model, config, repeat(sound), device=device, compiled=flag) for flag in (False, True)]
    return {"preset": preset, "audio_seconds": seconds, "batch": batch} | compiling(*steps, repeats)


def compared(
    cases: Sequence[tuple[str, bool]],
    preset: str,
    *,
    seconds: float,
    batch: int,
    repeats: int,
    precision: str,
    device: str,
) -> list[dict[str, Any]]:
    """Measure whole training steps that differ in the scan, and in whether blocks are computed again for gradients.

    A case is a scan (:class:`Variant`), and whether blocks are computed again, which is how large batches fit into a
    GPU. The step with :data:`OFFICIAL` has the loss as the author computes it, too. It is left out where mamba-ssm's
    modules cannot run.

    Returns:
        One record per case: ``scan``, ``recomputed``, ``seconds`` of every step, and ``peak_bytes``, the memory above
        what stays between steps; None on a CPU. A case that runs out of a GPU's memory has ``failed`` instead.
    """
    model = ModelConfig.preset(preset)
    sound = _segments(model, seconds, batch)
    steps, records = {}, []
    for scan, again in cases:
        if scan == OFFICIAL and official.unavailable(device):
            continue
        config = TrainConfig(batch_size=batch, accumulate=1, precision=precision, seed=SEED, checkpoint_gradients=again)
        loss = partial(plain_loss, config=LossConfig()) if scan == OFFICIAL else bsmamba2_loss
        taken = Step(Variant(scan, scan, loss), model, config, repeat(sound), device=device)
        record = {"scan": scan, "recomputed": again}
        try:
            taken()  # allocates what stays
            record["peak_bytes"] = peak_memory_cuda(taken) if device == "cuda" else None
            steps[len(records)] = taken
        except torch.OutOfMemoryError as error:
            record["failed"] = str(error)
            del taken
        records.append(record)
    times = repeated(steps, repeats, warm_up=0)
    return [record | (times.of(number) if number in steps else {}) for number, record in enumerate(records)]


def _segments(model: ModelConfig, seconds: float, batch: int) -> Tensor:
    """Return noise in the place of a mixture and its vocals, ``(2, batch, channels, samples)``."""
    torch.manual_seed(SEED)
    return 0.1 * torch.randn(2, batch, model.channels, round(seconds * model.sample_rate))
