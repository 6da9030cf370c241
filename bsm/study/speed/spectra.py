"""The transforms of a training step: what losses and the model's STFT cost, and what a mono average leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bsm.config import LossConfig, StftConfig
from bsm.data.tracks import VOCALS, Track
from bsm.loss import bsmamba2_loss
from bsm.stats import interval_words, ratio
from bsm.stft import STFT
from bsm.study.speed.timer import SEED, repeated
from bsm.study.speed.yardsticks import MonoSTFT, plain_loss
from bsm.study.unofficial import REDUCED_LOSS

RATE = 44100
# The loss that the reports on the unofficial implementation start from. Its transforms are as long as its windows.
SEED_LOSS = LossConfig(min_fft=REDUCED_LOSS.min_fft)
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


class _Spectra(TorchDispatchMode):
    """List the shapes of what real signals' transforms are computed of, ``(..., n_fft)``."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._fft_r2c.default:
            self.shapes.append(args[0].shape)
        return function(*args, **(kwargs or {}))


def transform_count(function: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, target: Tensor) -> int:
    """Count the transforms that compute a loss once.

    One transform takes all frames of all channels of a batch. A call may transform several windows at once, or some of
    the frames. Therefore frames are counted. The loss's configuration is its keyword ``config``, by default the
    paper's.
    """
    config = getattr(function, "keywords", {}).get("config", LossConfig())
    with _Spectra() as made:
        function(estimate, target)
    *channels, samples = estimate.shape
    count = 0.0
    for *rows, n_fft in made.shapes:
        frames = 1 + (samples if config.center else max(0, samples - n_fft)) // config.hop_length
        count += math.prod(rows) / (frames * math.prod(channels))
    return round(count)


def timed_losses(
    functions: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    shape: tuple[int, int, int],
    *,
    called: str,
    repeats: int,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Time losses of noise of a shape ``(batch, channels, samples)``, value and gradient, in turns.

    Returns:
        One record per loss: its name in the field ``called``, ``transforms`` of one value, its times.
    """
    generator = torch.Generator().manual_seed(SEED)
    estimate, target = (0.1 * torch.randn(2, *shape, generator=generator)).to(device)
    estimate.requires_grad_()
    runs = {name: lambda f=function: f(estimate, target).backward() for name, function in functions.items()}
    return [
        record | {"transforms": transform_count(functions[record[called]], estimate, target)}
        for record in repeated(runs, repeats).records(called, {})
    ]


def losses(seconds: float = 1.0, *, batch: int = 2, repeats: int = 5, device: str = "cpu") -> list[dict[str, Any]]:
    """Time :data:`LOSSES` at 44.1 kHz stereo (:func:`timed_losses`)."""
    return timed_losses(LOSSES, (batch, 2, round(RATE * seconds)), called="loss", repeats=repeats, device=device)


def loss_table(
    records: Sequence[dict[str, Any]], names: Sequence[str] = (), *, reference: str = "the first"
) -> pd.DataFrame:
    """List records of :func:`timed_losses`: transforms, best time, and the speed against that of the first.

    ``names`` are what the table calls the losses, by default as :func:`losses` does; ``reference`` is the first.
    """
    gains = [interval_words(ratio(records[0]["seconds"], r["seconds"]), "x") for r in records]
    return pd.DataFrame(
        {
            "loss": names or [r["loss"] for r in records],
            "transforms": [r["transforms"] for r in records],
            "best (ms)": [1e3 * min(r["seconds"]) for r in records],
            f"times the speed of {reference}": gains,
        }
    )


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

    A record per ``track`` holds the share of the energy in the side signal, 0 to 1, of its ``mixture`` and ``vocals``.
    """
    return [{"track": t.name, "mixture": _side_share(t.mixture()), VOCALS: _side_share(t.read(VOCALS))} for t in tracks]


def _side_share(sound: np.ndarray) -> float:
    total = np.square(sound, dtype=float).sum()
    return float(np.square(sound - sound.mean(0), dtype=float).sum() / total) if total else float("nan")
