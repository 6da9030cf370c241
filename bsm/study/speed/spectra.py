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
from bsm.study.speed.timer import SEED, repeated
from bsm.study.speed.yardsticks import MonoSTFT, plain_loss

RATE = 44100
# Losses of the reports on the unofficial implementation. Their transforms are as long as their windows; the paper's
# have at least 2048 samples.
SEED_LOSS = LossConfig(min_fft=256)
REDUCED_LOSS = LossConfig(windows=(2048, 1024, 512), min_fft=256, magnitude=True, mean=True, center=False)
# The first is what the optimisation report starts from, the second the same with one complex comparison a window.
DESCRIBED_LOSS, COMPLEX_LOSS = "before: 5 windows, magnitude + real + imaginary", "before: 5 complex windows"
AFTER_LOSS, EXACT_LOSS = "after: 3 windows, magnitude", "paper, by bsm"
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    DESCRIBED_LOSS: partial(plain_loss, config=SEED_LOSS, kinds=(torch.abs, torch.real, torch.imag)),
    COMPLEX_LOSS: partial(plain_loss, config=SEED_LOSS),
    AFTER_LOSS: partial(plain_loss, config=REDUCED_LOSS),
    "paper, two transforms a window": partial(plain_loss, config=LossConfig()),
    EXACT_LOSS: bsmamba2_loss,
}
# Transforms of a stereo mixture: of each channel in turn, as the optimisation report starts from, with a window made
# for every transform or one that is kept, and of the average, with one that is kept.
ANEW, EACH, AVERAGED = "each channel, windows made anew", "each channel, window kept", "average, window kept"


class TransformCount(TorchDispatchMode):
    """Count the transforms of real signals in a loss; one transform takes all frames of all channels of a batch.

    A call may transform several windows at once, or a part of the frames, so frames are what is counted.

    Args:
        config: the loss.
        estimate: ``(..., samples)``, what the loss is computed of.
    """

    def __init__(self, config: LossConfig, estimate: Tensor) -> None:
        super().__init__()
        self._config, self._shape, self._transforms = config, estimate.shape, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._fft_r2c.default:
            n_fft, samples = args[0].shape[-1], self._shape[-1]
            frames = 1 + (samples if self._config.center else max(0, samples - n_fft)) // self._config.hop_length
            self._transforms += args[0].numel() / n_fft / (frames * self._shape[:-1].numel())
        return function(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Number of transforms so far."""
        return round(self._transforms)


def losses(seconds: float = 1.0, *, batch: int = 2, repeats: int = 5, device: str = "cpu") -> list[dict[str, Any]]:
    """Time losses, value and gradient, at 44.1 kHz stereo.

    Returns:
        One record per loss: its ``loss``, ``seconds`` of every round, ``transforms``.
    """
    generator = torch.Generator().manual_seed(SEED)
    estimate, target = (0.1 * torch.randn(2, batch, 2, round(RATE * seconds), generator=generator)).to(device)

    def run(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        function(estimate.requires_grad_(), target).backward()

    records = []
    times = repeated({name: partial(run, function) for name, function in LOSSES.items()}, repeats)
    for name, function in LOSSES.items():
        config = getattr(function, "keywords", {}).get("config", LossConfig())
        with TransformCount(config, estimate) as counter:
            run(function)
        records.append({"loss": name, "transforms": counter.total} | times.of(name))
    return records


def transforms(seconds: float = 4.0, *, batch: int = 1, repeats: int = 5, device: str = "cpu") -> dict[str, Any]:
    """Time transforms of a stereo mixture and of its average, averaging included, in s a call.

    ``stereo`` and ``mono`` are the model's, both channels in one call; :data:`ANEW`, :data:`EACH` and
    :data:`AVERAGED` are those that the optimisation report lists.
    """
    config = StftConfig()
    stft = STFT(config)
    mixture = torch.randn(batch, 2, round(RATE * seconds), generator=torch.Generator().manual_seed(SEED)).to(device)
    kept = torch.hann_window(config.n_fft, device=device)

    def transform(wave: Tensor, window: Tensor | None = None) -> Tensor:
        window = torch.hann_window(config.n_fft, device=device) if window is None else window
        return torch.stft(wave, config.n_fft, config.hop_length, window=window, return_complex=True)

    functions: dict[str, Callable[[], Any]] = {
        "stereo": partial(stft, mixture),
        "mono": partial(MonoSTFT(stft), mixture),
        ANEW: lambda: [transform(mixture[:, channel]) for channel in range(2)],
        EACH: lambda: [transform(mixture[:, channel], kept) for channel in range(2)],
        AVERAGED: lambda: transform(mixture.mean(1), kept),
    }
    return {"audio_seconds": seconds, "batch": batch} | repeated(functions, repeats).of()


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
