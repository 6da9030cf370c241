"""The ablations' losses: what each costs, what each is blind to, and what a mono estimate can reach at best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from tqdm import tqdm

from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.data.tracks import VOCALS, Track
from bsm.loss import bsmamba2_loss, loss_terms
from bsm.metrics import usdr
from bsm.stats import Interval, bootstrap_interval, interval_words
from bsm.study.figures import interval_plot
from bsm.study.speed.spectra import loss_table, timed_losses
from bsm.study.variants import BASE, STFT, VARIANTS, changed
from bsm.study.windows import loudest

LATE = 1e-3  # s
FLIPPED, DELAYED, MIXTURE, SILENCE = "sign flipped", "1 ms late", "mixture", "silence"
"""Estimates of the vocals that are wrong in a known way."""


def configs(model: ModelConfig, train: TrainConfig) -> dict[str, LossConfig]:
    """Return the base's loss, and by variant every loss that notebook ``08_ablation_stft`` scores."""
    names = [name for name, v in VARIANTS.items() if name == BASE or (v.notebook == STFT and v.loss)]
    return {name: changed(name, model, train)[1].loss for name in names}


def costs(
    losses: dict[str, LossConfig], *, samples: int, channels: int, batch: int, repeats: int
) -> list[dict[str, Any]]:
    """Time losses, value and gradient, in turns: a record of :func:`timed_losses` per ``variant``."""
    functions = {name: partial(bsmamba2_loss, config=config) for name, config in losses.items()}
    return timed_losses(functions, (batch, channels, samples), called="variant", repeats=repeats)


def cost_table(records: Sequence[dict[str, Any]], step: Sequence[float]) -> pd.DataFrame:
    """List the losses' times, and how much faster each is than the base's, the first.

    ``step`` has the seconds of the base's training steps, loss included; the table says what each loss saves of them.
    """
    table = loss_table(records, [VARIANTS[r["variant"]].asks for r in records], reference="the paper's")
    best = table["best (ms)"] / 1e3
    return table.assign(**{"saves of a step (%)": 100 * (best[0] - best) / np.median(step)})


@torch.no_grad()
def blindness(losses: dict[str, LossConfig], tracks: Sequence[Track], seconds: float) -> list[dict[str, Any]]:
    """Compute every loss of estimates that are wrong in a known way.

    Each song's excerpt is ``seconds`` long, where its vocals are loudest.

    Returns:
        One record per song, loss and estimate: ``track``, ``variant``, ``estimate``, ``spectral`` (the sum of the
        spectral terms) and ``total`` (with the waveform's).
    """
    records = []
    for track in tqdm(tracks, desc="blindness of losses", unit="song"):
        start, stop = loudest(track, seconds)
        vocals, mixture = (torch.from_numpy(v) for v in (track.read(VOCALS, start, stop), track.mixture(start, stop)))
        estimates = {
            FLIPPED: -vocals,
            DELAYED: vocals.roll(round(LATE * track.rate), -1),
            MIXTURE: mixture,
            SILENCE: torch.zeros_like(vocals),
        }
        for name, config in losses.items():
            for kind, estimate in estimates.items():
                terms = {k: v.item() for k, v in loss_terms(estimate, vocals, config).items()}
                total = sum(terms.values())
                record = {"track": track.name, "variant": name, "estimate": kind}
                records.append(record | {"spectral": total - terms["waveform"], "total": total})
    return records


def relative(records: Sequence[dict[str, Any]], term: str = "spectral") -> dict[str, dict[str, Interval]]:
    """Return each loss relative to that of silence, mean over songs with its interval: by estimate, then by variant."""
    frame = pd.DataFrame(records).pivot(index=["variant", "track"], columns="estimate", values=term)
    shares = frame.div(frame[SILENCE], axis=0)
    names = dict.fromkeys(r["variant"] for r in records)
    return {kind: {n: bootstrap_interval(shares.loc[n, kind]) for n in names} for kind in (FLIPPED, DELAYED, MIXTURE)}


def blindness_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List the losses of wrong estimates, relative to that of silence."""
    columns = {f"{kind}, spectral terms": found for kind, found in relative(records).items()}
    columns[f"{FLIPPED}, with the waveform's"] = relative(records, "total")[FLIPPED]
    words = {title: [*map(interval_words, found.values())] for title, found in columns.items()}
    names = next(iter(columns.values()))
    return pd.DataFrame({"loss": [VARIANTS[name].asks for name in names]} | words)


def draw_blindness(ax: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Draw the spectral terms of wrong estimates relative to silence, a mark per estimate and loss."""
    found = relative(records)
    names = list(found[FLIPPED])
    ticks = [name.removeprefix("loss-").replace("-", "\n") for name in names]
    interval_plot(ax, ticks, {kind: list(own.values()) for kind, own in found.items()})
    for line in ax.get_lines():
        line.set_linestyle("none")  # losses are no scale
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    songs = len({r["track"] for r in records})
    ax.set(ylabel="spectral loss / that of silence", title=f"Losses of wrong estimates, songs: n = {songs}")


def mono_ceiling(tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Score an estimate whose two channels are both the average of the true vocals' channels.

    No other estimate with equal channels scores better.

    Returns:
        One record per song: ``track``, ``usdr`` (dB).
    """
    vocals = ((track.name, track.read(VOCALS)) for track in tracks)
    return [{"track": name, "usdr": usdr(v, np.broadcast_to(v.mean(0), v.shape))} for name, v in vocals]
