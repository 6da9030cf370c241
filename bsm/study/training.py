"""A training's folder, its losses and validation scores by update, and the speed of the trained model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.evaluate import Journal
from bsm.files import sha256
from bsm.inference import separate
from bsm.study import figures
from bsm.study.profiles import Profile
from bsm.study.published import journal

BINS = 12  # stretches of updates over which the drawn losses are averaged


def folders(settings: Profile, backbones: Sequence[str], seed: int, run: str = "") -> dict[str, Path]:
    """Return the folder of each backbone's run; ``run`` is another folder, for a single backbone.

    Raises:
        InputError: ``run`` is given for several backbones.
    """
    if run and len(backbones) > 1:
        raise InputError("`run` is the folder of one run, and there are several backbones; leave it empty")
    return {name: Path(run) if run else settings.run_folder(seed, name) for name in backbones}


def kept_scores(
    settings: Profile, tracks: Sequence[Track], weights: Mapping[str, Path], window: float
) -> Journal | None:
    """Return the journal that keeps scores; None for synthesised songs, because scoring them takes a minute only."""
    if settings.makes_songs:
        return None
    checksums = {name: sha256(path) for name, path in weights.items()}
    return journal(settings, "scores", tracks, weights_sha256=checksums, window=window)


@figures.style()
def figure_of_training(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw each model's training loss and validation uSDR by update.

    The loss of an update depends mostly on its segments, so it is summed up over stretches of updates: the line is
    their median, and the band holds the middle half of the losses.
    """
    drawn, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.2))
    named = {figures.LABELS[name]: log.set_index("step") for name, log in logs.items()}
    colours = figures.model_colours(named)
    for name, log in named.items():
        stretch = np.minimum(np.arange(len(log)) * BINS // len(log), BINS - 1)
        parts = log["loss"].groupby(stretch)
        x = log.index.to_series().groupby(stretch).mean()
        left.fill_between(x, parts.quantile(0.25), parts.quantile(0.75), color=colours[name], alpha=0.15, linewidth=0)
        left.plot(x, parts.median(), ".-", color=colours[name], label=name)
        right.plot(log["valid_usdr"].dropna(), "o-", color=colours[name], markersize=4, label=name)
    left.set(xlabel="update", ylabel="training loss", title="Loss: median and middle half")
    right.set(xlabel="update", ylabel="uSDR (dB)", title="Validation, averaged weights")
    figures.name_lines(right)
    return drawn


@torch.no_grad()
def timed_separation(network: nn.Module, track: Track, window: float) -> tuple[np.ndarray, dict[str, float]]:
    """Separate a song; return the estimate, and the time that it took, also per second of audio (``ratio``)."""
    mixture, began = torch.from_numpy(track.mixture()), time.perf_counter()
    estimate = separate(network, mixture, track.rate, window=window).numpy()
    seconds = time.perf_counter() - began
    return estimate, {"audio_seconds": track.seconds, "seconds": seconds, "ratio": seconds / track.seconds}
