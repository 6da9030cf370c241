"""Figures and tables in one style: colours that colour-blind readers can distinguish, readable at half a page."""

from __future__ import annotations

import itertools
import json
import math
import numbers
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from cycler import cycler
from IPython.display import Audio, Markdown, display
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from bsm.files import replacing
from bsm.stats import Interval
from bsm.study.compare import METRICS, counted, paired, tables
from bsm.study.records import results_used

# Okabe and Ito (2008). Yellow is for areas: a thin yellow line is hard to see on white.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
_STYLE = {
    "axes.prop_cycle": cycler(color=list(COLOURS.values())),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "figure.figsize": (6.4, 3.6),
    "font.size": 10,
    "image.cmap": "magma",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "savefig.dpi": 150,
}
NOT_COMPARABLE = "not comparable with the paper's numbers"
HOLLOW = "hollow: too few songs for an interval"
MODELS = {
    "bsmamba2": ("BSMamba2", "blue"),
    "mamba2": ("BSMamba2", "blue"),  # its time block's name
    "bs-roformer": ("BS-RoFormer", "vermilion"),
    "attention": ("attention", "orange"),
    "attention-nopos": ("attention without positions", "black"),
    "lstm": ("LSTM", "green"),
    "convolution": ("convolution", "purple"),
    "none": ("no time block", "sky"),
}
"""Networks, and BSMamba2 with something else in the place of Mamba2 along frames: names in tables, and colours."""
LABELS = {name: label for name, (label, _) in MODELS.items()}


def model_colours(names: Iterable[str]) -> dict[str, str]:
    """Return colours by name: each model has its own, baselines are grey, other names share the remaining colours."""
    names = list(names)
    own = {called: COLOURS[colour] for name, (label, colour) in MODELS.items() for called in (name, label)}
    own |= dict.fromkeys(("mixture", "silence", "ideal ratio mask"), "0.5")
    used = {own[name] for name in names if name in own}
    left = itertools.cycle([colour for colour in COLOURS.values() if colour not in used] or ["0.3"])
    return {name: own[name] if name in own else next(left) for name in names}


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made; it also serves as a decorator of a function that draws."""
    return mpl.rc_context(_STYLE)


def save(figure: Figure, path: str | Path) -> Path:
    """Save a figure as PNG; equal figures of equal results give equal files.

    The metadata of a figure in ``reports/<profile>/figures`` hold the names and checksums of the profile's result files
    that this process has written or read so far; ``bsm provenance FIGURE`` shows them.
    """
    path = Path(path)
    used = results_used(path.parent.parent / "results")
    metadata = {"Software": None} | ({"Source": json.dumps(used)} if used else {})
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata=metadata)
    return path


def spectrogram(ax: Axes, audio: np.ndarray | torch.Tensor, rate: int, *, peak: float | None = None) -> AxesImage:
    """Draw a power spectrogram in dB below a peak, averaged over the channels.

    Args:
        ax: where to draw.
        audio: (channels, samples) or (samples,).
        rate: Hz.
        peak: power that is drawn as 0 dB; by default the largest. Spectrograms with one peak can be compared.

    Returns:
        The image, for a colour bar; its ``peak`` attribute is the power that is drawn as 0 dB.
    """
    signal = np.atleast_2d(audio.detach().cpu().numpy() if isinstance(audio, torch.Tensor) else audio).astype(float)
    n_fft = 2048 if rate > 24000 else 1024
    signal = np.pad(signal, ((0, 0), (0, max(0, n_fft - signal.shape[1]))))
    hop = max(n_fft // 4, signal.shape[1] // 2000)  # a page shows no more than about 2000 columns
    power = ShortTimeFFT(hann(n_fft, sym=False), hop, rate).spectrogram(signal).mean(axis=0)  # (bins, frames)
    peak = max(power.max(), 1e-20) if peak is None else peak
    level = 10 * np.log10(power / peak + 1e-12)
    extent, look = (0, signal.shape[1] / rate, 0, rate / 2000), {"aspect": "auto", "interpolation": "nearest"}
    image = ax.imshow(level, origin="lower", extent=extent, vmin=-80, vmax=0, **look)
    image.peak = peak
    ax.set(xlabel="time (s)", ylabel="frequency (kHz)")
    return image


@style()
def spectrograms(
    title: str, signals: Mapping[str, np.ndarray], rate: int, regions: Sequence[tuple[float, float]] = ()
) -> Figure:
    """Draw spectrograms one above the other, with levels relative to the peak of the first; regions are shaded."""
    drawn, axes = plt.subplots(len(signals), 1, figsize=(7.5, 2.3 * len(signals)), sharex=True, squeeze=False)
    peak = None
    for ax, (name, signal) in zip(axes.flat, signals.items(), strict=True):
        image = spectrogram(ax, signal, rate, peak=peak)
        peak = image.peak
        mark_regions(ax, regions, colour="white")
        ax.set(title=f"{title}: {name}", xlabel="time (s)" if ax is axes.flat[-1] else "")
    drawn.colorbar(image, ax=axes, label=f"level re the loudest of the {next(iter(signals))} (dB)")
    return drawn


def mark_regions(ax: Axes, regions: Iterable[tuple[float, float]], *, colour: str = COLOURS["sky"]) -> None:
    """Shade time regions, ``(start, end)`` in s."""
    for start, end in regions:
        ax.axvspan(start, end, color=colour, alpha=0.3, linewidth=0)


def dots(
    ax: Axes, values: Mapping[str, pd.DataFrame], *, against: float | None = None, colour: str | None = None
) -> None:
    """Draw a row per name: each track as a point (seeds averaged), below it the mean with its 95 % interval.

    ``values`` are tables of :func:`bsm.study.compare.table`. A vertical line stands at ``against``, such as 0 for
    differences. All points have the ``colour``; by default each model has its own.
    """
    colours = dict.fromkeys(values, colour) if colour else model_colours(values)
    if against is not None:
        ax.axvline(against, color="0.4", linewidth=0.8)
    for y, (name, table) in enumerate(values.items()):
        tracks = table.mean(axis=1, skipna=False).dropna()
        ax.plot(tracks, np.full(len(tracks), y - 0.15), "o", color=colours[name], alpha=0.5, markersize=4)
        found = paired(table)
        interval, there = Interval.of(found), np.isfinite(found["low"])
        bar = {"xerr": reach([interval])} if there else {}
        mark = {"color": "0.15", "markerfacecolor": "0.15" if there else "white"}
        ax.errorbar(interval.estimate, y + 0.15, **bar, fmt="s", markersize=5, capsize=3, **mark)
        ax.text(1.0, y, counted(found), transform=ax.get_yaxis_transform(), fontsize="x-small", color="0.4")
        if not there and found["tracks"]:
            ax.figure.supxlabel(HOLLOW, fontsize="x-small", color="0.4")
    labels = [textwrap.fill(name, 38) for name in values]
    ax.set(yticks=range(len(values)), yticklabels=labels, ylim=(len(values) - 0.5, -0.5))


@style()
def figure_of_scores(
    records: Sequence[Mapping[str, Any]],
    title: str,
    published: Iterable[Mapping[str, Any]] = (),
    trivial: Mapping[str, float] | None = None,
) -> Figure:
    """Draw uSDR and cSDR of every song by separator, with lines at published means if there are any.

    Lines stand also at the mean uSDR of ``trivial`` separators, by name; they have no cSDR.
    """
    found = {metric: tables(records, metric) for metric in METRICS}
    drawn, axes = plt.subplots(1, 2, figsize=(8, 1.4 + 0.5 * len(found["usdr"])), sharey=True)
    for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
        dots(ax, found[metric])
        ax.set(xlabel=label, title=f"{label.split()[0]}, {title}")
        for row, colour in zip(published, ("blue", "vermilion"), strict=False):
            shown = {"color": COLOURS[colour], "label": f"published, {row['model']}"}
            ax.axvline(row[metric], linestyle="--", linewidth=1, **shown)
    for (name, mean), line in zip((trivial or {}).items(), itertools.cycle((":", "-."))):
        axes[0].axvline(
            mean, color="0.15", linestyle=line, linewidth=1.2, zorder=0, label=f"{name}: {mean:.2f} dB uSDR"
        )
    if published or trivial:
        legend_above(drawn, axes[0])
    return drawn


def interval_plot(
    ax: Axes,
    ticks: Sequence[str],
    values: Mapping[str, Sequence[Interval | Mapping[str, Any] | None]],
    *,
    line: str = "-",
) -> None:
    """Draw estimates with their intervals over the same ticks, a line per name; a mark without interval is hollow.

    ``values`` hold by name one interval per tick, or its record. None and an estimate of NaN leave a gap. ``line`` is
    matplotlib's style of the line between marks; there is none if it is empty.
    """
    shifts = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
    colours = model_colours(values)
    for mark, shift, (name, found) in zip(itertools.cycle("osD^"), shifts, values.items(), strict=False):
        points = [Interval.of(value) for value in found]
        x, means, bars = np.arange(len(ticks)) + shift, np.array([p.estimate for p in points]), reach(points)
        ax.errorbar(x, means, yerr=bars, fmt=f"{mark}{line}", color=colours[name], capsize=3, label=name)
        bare = np.isnan(bars[0]) & np.isfinite(means)  # a filled mark without bar would look exact
        ax.plot(x[bare], means[bare], mark, color=colours[name], markerfacecolor="white", zorder=3)
        if bare.any():
            ax.figure.supxlabel(HOLLOW, fontsize="x-small", color="0.4")
    ax.set(xticks=range(len(ticks)), xticklabels=ticks, xlim=(-0.5, len(ticks) - 0.5))


def name_lines(ax: Axes) -> None:
    """Write the name of each line beside its last point, in its colour, instead of a legend."""
    ax.autoscale_view()  # the limits are needed now, and not first when the figure is rendered
    place, low, ends = ax.transScale + ax.transLimits, -np.inf, []
    for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
        line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        points = np.column_stack(line.get_data()).astype(float)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            ends.append((place.transform(points[points[:, 0].argmax()])[1], name, line.get_color()))
    for height, name, colour in sorted(ends):
        low = max(height, low + 0.09)  # names do not overlap
        ax.text(1.02, low, name, transform=ax.transAxes, color=colour, va="center", fontsize="small")


def reach(intervals: Sequence[Interval]) -> np.ndarray:
    """Return the lengths of error bars: from the estimates down to ``low`` and up to ``high``, (2, n); NaN for none."""
    return np.maximum([[p.estimate - p.low for p in intervals], [p.high - p.estimate for p in intervals]], 0)


def legend_above(figure: Figure, ax: Axes) -> None:
    """Put the legend of ``ax`` above all panels of the figure, in as few rows as its width allows."""
    handles, labels = ax.get_legend_handles_labels()
    for rows in range(1, len(labels) + 1):
        columns = math.ceil(len(labels) / rows)
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize="small")
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def table_markdown(
    frame: pd.DataFrame, *, caption: str, data: str | None = None, not_comparable: bool = False, digits: int = 2
) -> str:
    """Return a frame as a table in Markdown, with caption, data and comparability below it; NaN and None are dashes.

    Named levels of the frame's index become columns. ``digits`` are the decimals of floats.
    """
    if any(frame.index.names):
        frame = frame.reset_index()
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    rows = [[_cell(value, digits) for value in row] for row in frame.itertuples(index=False, name=None)]
    lines = [[_cell(name, digits) for name in frame.columns], ["---:" if x else "---" for x in numeric], *rows]
    notes = ([f"Data: {data}."] if data else []) + ([f"These numbers are {NOT_COMPARABLE}."] if not_comparable else [])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n*{' '.join([caption.rstrip('.') + '.', *notes])}*\n"


def _cell(value: object, digits: int) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral | bool | np.bool_):
        return f"{value:.{digits}f}"
    return " ".join(str(value).split()).replace("|", "\\|")


def players(signals: Mapping[str, np.ndarray], rate: int, title: str = "") -> None:
    """Display one audio player per signal, all at one gain, so that they can be compared by ear.

    The signals are ``(channels, samples)`` with full scale at 1. If one exceeds that, all are turned down alike.
    """
    peak = max(1.0, *(float(np.abs(signal).max()) for signal in signals.values()))
    for name, signal in signals.items():
        label = f"**{title}{': ' * bool(title)}{name}**"
        display(Markdown(label), Audio(np.asarray(signal) / peak, rate=rate, normalize=False))
