"""The transforms of a training step: what losses and the model's STFT cost, and what a mono average leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bsm.config import LossConfig, StftConfig
from bsm.data.tracks import VOCALS, Track
from bsm.loss import bsmamba2_loss
from bsm.stft import STFT
from bsm.study.bench import repeated
from bsm.study.bench.yardsticks import MonoSTFT, plain_loss

RATE = 44100
# Of the seed reports: their transforms are as long as their windows, the paper's at least 2048.
SEED_LOSS = LossConfig(min_fft=256)
REDUCED_LOSS = LossConfig(windows=(2048, 1024, 512), min_fft=256, magnitude=True, mean=True, center=False)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "before: 5 complex windows": partial(plain_loss, config=SEED_LOSS),
    "after: 3 windows, magnitude": partial(plain_loss, config=REDUCED_LOSS),
    "paper, two transforms a window": partial(plain_loss, config=LossConfig()),
    "paper, by bsm": bsmamba2_loss,
}


class TransformCount(TorchDispatchMode):
    """Counts the forward transforms of real signals: a call for all channels of a batch is one."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.total += function is torch.ops.aten._fft_r2c.default
        return function(*args, **(kwargs or {}))


def losses(seconds: float = 1.0, *, batch: int = 2, repeats: int = 5, device: str = "cpu") -> list[dict[str, Any]]:
    """Time losses, value and gradient, at 44.1 kHz stereo.

    Returns:
        One record per loss: its ``loss``, ``seconds`` of every round, ``transforms``.
    """
    generator = torch.Generator().manual_seed(0)
    estimate, target = (0.1 * torch.randn(2, batch, 2, round(RATE * seconds), generator=generator)).to(device)

    def run(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        function(estimate.requires_grad_(), target).backward()

    records = []
    times = repeated({name: partial(run, function) for name, function in LOSSES.items()}, repeats)
    for name, function in LOSSES.items():
        with TransformCount() as counter:
            run(function)
        records.append({"loss": name, "seconds": times[name], "transforms": counter.total})
    return records


def transforms(seconds: float = 4.0, *, batch: int = 1, repeats: int = 5, device: str = "cpu") -> dict[str, Any]:
    """Time the model's transform of a stereo mixture and of its mono average, averaging included, in s a call."""
    stft = STFT(StftConfig())
    mixture = torch.randn(batch, 2, round(RATE * seconds), generator=torch.Generator().manual_seed(0)).to(device)
    functions = {"stereo": partial(stft, mixture), "mono": partial(MonoSTFT(stft), mixture)}
    return {"audio_seconds": seconds, "batch": batch, "seconds": repeated(functions, repeats)}


def side_shares(tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Measure what the average of two channels leaves out: the energy of their difference.

    Returns:
        One record per song: its ``track`` and the share of the energy in the side signal, from 0 to 1, of its
        ``mixture`` and its ``vocals``.
    """
    return [{"track": t.name, "mixture": _side_share(t.mixture()), VOCALS: _side_share(t.read(VOCALS))} for t in tracks]


def _side_share(sound: np.ndarray) -> float:
    total = np.square(sound, dtype=float).sum()
    return float(np.square(sound - sound.mean(0), dtype=float).sum() / total) if total else float("nan")
