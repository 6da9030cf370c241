"""Figures of vocal occurrence: measures by bins, by a song's vocal share, and one song over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsm.activity import Region, frame_rms
from bsm.stats import Interval
from bsm.study.figures import COLOURS, interval_plot, mark_regions
from bsm.study.occurrence import by_model

_COLOURS = ("blue", "vermilion", "green", "purple")
_RANGE = -80.0  # dB, the lowest error that is drawn


def draw_bins(ax: Axes, rows: Sequence[dict[str, Any]], field: str) -> None:
    """Draw ``means`` or ``differences`` of the bins with their intervals; the number of regions stands below each.

    Args:
        ax: where to draw.
        rows: records of :func:`bsm.study.occurrence.compare`; that of all regions together is left out.
        field: of the records.
    """
    rows = [row for row in rows if row["group"] != "all"]
    ticks = [row["group"].removeprefix("first ").replace(" s or more", " on").removesuffix(" s") for row in rows]
    ticks = [f"{tick}\nn={row['regions']}" for tick, row in zip(ticks, rows, strict=True)]
    names = list(rows[0][field])
    labels = names if field == "means" else [f"minus {name}" for name in names]
    values = {label: [Interval.of(row[field][name]) for row in rows] for label, name in zip(labels, names, strict=True)}
    if field == "differences":
        ax.axhline(0, color="0.4", linewidth=0.8)
    interval_plot(ax, ticks, values)
    ax.tick_params(axis="x", labelsize="small")


def draw_shares(ax: Axes, songs: Sequence[dict[str, Any]], quantity: str) -> None:
    """Draw every song as a point, a measure of it against its vocal share, seeds averaged.

    Args:
        ax: where to draw.
        songs: the songs' records of :func:`bsm.study.occurrence.measure_all`.
        quantity: a name in them.
    """
    shares = {record["track"]: record["share"] for record in songs}
    tables = by_model(songs, quantity, list(dict.fromkeys(record["model"] for record in songs)))
    means = {model: table.mean(axis=1, skipna=False).droplevel(["song", "region"]) for model, table in tables.items()}
    for (model, mean), colour, mark in zip(means.items(), _COLOURS, "osD^", strict=False):
        held = mean.dropna()
        x = [100 * shares[track] for track in held.index]
        ax.plot(x, held, mark, color=COLOURS[colour], markersize=5, alpha=0.8, label=model)
    ax.set(xlabel="vocal share (%)", title=f"tracks: n = {len(pd.DataFrame(means).dropna())}")


def timeline(
    axes: Sequence[Axes],
    mixture: np.ndarray,
    vocals: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    rate: int,
    regions: Sequence[Region],
    *,
    frame: float = 0.05,
) -> None:
    """Draw one song over time: levels of mixture, true vocals and every estimate, then of the errors; regions shaded.

    Args:
        axes: as many as estimates, and three more.
        mixture: ``(channels, samples)``, like all signals.
        vocals: the true ones.
        estimates: by name.
        rate: Hz.
        regions: where somebody sings.
        frame: s over which a level is taken.
    """
    signals = {"mixture": mixture, "true vocals": vocals, **estimates}
    colours = [COLOURS[name] for name in _COLOURS]
    times = (np.arange(len(frame_rms(mixture, rate, frame))) + 0.5) * frame
    top = max(frame_rms(mixture, rate, frame).max(), 1e-5)
    for ax in axes:
        mark_regions(ax, [(region.start, region.stop) for region in regions])
    for ax, (name, signal), colour in zip(axes, signals.items(), ["0.4", "0.15", *colours], strict=False):
        level = frame_rms(signal, rate, frame)
        ax.fill_between(times, -level, level, color=colour, linewidth=0)
        ax.set(ylim=(-top, top), yticks=[])
        ax.set_title(f"{name} (RMS)", loc="left", fontsize="small")
    last = axes[-1]
    for (name, estimate), colour, line in zip(estimates.items(), colours, ("-", "--", ":", "-."), strict=False):
        level = 20 * np.log10(np.maximum(frame_rms(estimate - vocals, rate, frame) / top, 10 ** (_RANGE / 20)))
        last.plot(times, level, line, color=colour, linewidth=1, label=name)
    last.set(xlabel="time (s)", xlim=(0, vocals.shape[1] / rate), ylim=(_RANGE, 5), ylabel="dB")
    last.set_title(
        f"error re the mixture's loudest {1000 * frame:g} ms; shaded: vocal regions (n = {len(regions)})",
        loc="left",
        fontsize="small",
    )
    last.legend(loc="lower right", ncols=4, fontsize="x-small")
