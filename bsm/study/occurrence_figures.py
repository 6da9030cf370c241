"""Figures of vocal occurrence: measures by bins, by a song's vocal share, and one song over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsm.activity import Region, frame_rms
from bsm.study import figures
from bsm.study.compare import tables
from bsm.study.occurrence import AFTER, BEFORE, LEAKAGE, NAMES, SDR

Records = Sequence[dict[str, Any]]
LOWEST = -80.0
"""The lowest error on the timeline, dB."""
FRAME = 0.05
"""Length of the timeline's frames whose level is taken, s."""


def draw_bins(ax: Axes, rows: Records, field: str = "means", **labels: str) -> None:
    """Draw ``means`` or ``differences`` of :func:`bsm.study.occurrence.compare` by group, with their intervals."""
    rows = [row for row in rows if row["group"] != "all"]
    ticks = [row["group"].removeprefix("first ").replace(" s or more", " on").removesuffix(" s") for row in rows]
    counts = [next(iter(row["means"].values()))["tracks"] for row in rows]
    values = {name: [row[field][name] for row in rows] for name in rows[0][field]}
    if field == "differences":
        ax.axhline(0, color="0.4", linewidth=0.8)
    figures.interval_plot(ax, [f"{tick}\nn={count}" for tick, count in zip(ticks, counts, strict=True)], values)
    ax.tick_params(axis="x", labelsize="small")
    ax.set(**labels)


@figures.style()
def figure_of_durations(inside: Records) -> Figure:
    """Draw the SDR inside regions by their duration, and the first model's gain over each other one."""
    drawn, axes = plt.subplots(1, 2, figsize=(7.5, 3.4))
    place = "duration of the region (s)"
    draw_bins(axes[0], inside, ylabel="SDR in the region (dB)", xlabel=place, title="Means, 95 % intervals")
    figures.name_lines(axes[0])
    if inside[0]["differences"]:
        first = next(iter(inside[0]["means"]))
        draw_bins(axes[1], inside, "differences", ylabel="difference in SDR (dB)", xlabel=place, title=f"{first} minus")
        figures.name_lines(axes[1])
    else:
        axes[1].set_axis_off()
    return drawn


@figures.style()
def figure_of_leakage(beside: Records, margin: float) -> Figure:
    """Draw the leakage within ``margin`` s before and after regions, by their duration."""
    drawn, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), sharey=True)
    for ax, quantity, side in zip(axes, (BEFORE, AFTER), ("before", "after"), strict=True):
        own = [row for row in beside if row["quantity"] == quantity]
        draw_bins(ax, own, xlabel="duration of the region (s)", title=f"Up to {margin:g} s {side}")
    axes[0].set_ylabel("leakage: error re mixture (dB)")
    figures.name_lines(axes[-1])
    return drawn


@figures.style()
def figure_of_onsets(first: Records, distant: Records) -> Figure:
    """Draw the SDR in the first milliseconds after an onset, and in stretches further from it."""
    drawn, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, width_ratios=(1, 2))
    draw_bins(axes[0], first, ylabel="SDR (dB)", xlabel="first ms after the onset", title="Response")
    draw_bins(axes[1], distant, xlabel="since the onset (s)", title="Distance from the onset")
    figures.name_lines(axes[-1])
    return drawn


@figures.style()
def figure_of_shares(songs: pd.DataFrame) -> Figure:
    """Draw each song's SDR and leakage against the share of it that is sung, seeds averaged."""
    drawn, axes = plt.subplots(1, 2, figsize=(7.5, 3.2))
    shares = songs.groupby("track")["share"].first()
    colours = figures.model_colours(songs["system"].unique())
    for ax, quantity in zip(axes, (SDR, LEAKAGE), strict=True):
        found = {model: own.mean(axis=1, skipna=False) for model, own in tables(songs, quantity).items()}
        means = pd.DataFrame(found).dropna()
        x = 100 * means.index.get_level_values("track").map(shares).to_numpy(float)
        for (model, held), mark in zip(means.items(), "osD^", strict=False):
            ax.plot(x, held, mark, color=colours[model], markersize=5, alpha=0.8, label=model)
        ax.set(xlabel="vocal share of the song (%)", ylabel=NAMES[quantity], title=f"{len(means)} tracks")
    figures.name_lines(axes[-1])
    return drawn


@figures.style()
def timeline(
    name: str,
    mixture: np.ndarray,
    vocals: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    rate: int,
    regions: Sequence[Region],
) -> Figure:
    """Draw one song over time: levels of the mixture, the true vocals and every estimate, and levels of the errors.

    All signals are ``(channels, samples)`` at ``rate`` Hz; ``estimates`` are by model. Regions, where somebody sings,
    are shaded.
    """
    heights = [*[1] * (2 + len(estimates)), 1.8]
    drawn, axes = plt.subplots(len(heights), 1, figsize=(7.5, 1.1 * sum(heights)), sharex=True, height_ratios=heights)
    drawn.suptitle(name, fontsize=10)
    colours = {"mixture": "0.5", "true vocals": "0.15"} | figures.model_colours(estimates)
    times = (np.arange(len(frame_rms(mixture, rate, FRAME))) + 0.5) * FRAME
    top = max(frame_rms(mixture, rate, FRAME).max(), 1e-5)
    for ax in axes:
        figures.mark_regions(ax, [(region.start, region.stop) for region in regions])
    for ax, (title, signal) in zip(
        axes, ({"mixture": mixture, "true vocals": vocals} | estimates).items(), strict=False
    ):
        level = frame_rms(signal, rate, FRAME)
        ax.fill_between(times, -level, level, color=colours[title], linewidth=0)
        ax.set(ylim=(-top, top), yticks=[])
        ax.set_title(f"{title} (RMS)", loc="left", fontsize="small")
    last = axes[-1]
    for model, estimate in estimates.items():
        level = 20 * np.log10(np.maximum(frame_rms(estimate - vocals, rate, FRAME) / top, 10 ** (LOWEST / 20)))
        last.plot(times, level, color=colours[model], linewidth=1, label=model)
    last.set(xlabel="time (s)", xlim=(0, vocals.shape[1] / rate), ylim=(LOWEST, 5), ylabel="error (dB)")
    said = f"error re the mixture's loudest {1000 * FRAME:g} ms; shaded: {len(regions)} vocal regions"
    last.set_title(said, loc="left", fontsize="small")
    figures.name_lines(last)
    return drawn
