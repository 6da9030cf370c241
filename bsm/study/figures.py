"""Figures and tables in one style: colours that colour-blind readers can tell apart, readable at half a page."""

from __future__ import annotations

import itertools
import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from bsm.files import replacing
from bsm.stats import FEWEST, Interval, Values, bootstrap_interval, crossed_interval
from bsm.study.records import results_used

# Okabe and Ito (2008), without black.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
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
"""What a hollow mark says, for legends and labels."""


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made: ``with figures.style(): figure, ax = plt.subplots()``."""
    return mpl.rc_context(_STYLE)


def save(figure: Figure, path: str | Path) -> Path:
    """Save a figure as PNG at 150 dpi; equal figures of equal results give equal files.

    A figure of ``reports/<profile>/figures`` names, in its metadata, the profile's result files that were written or
    read before it was drawn, with their checksums: ``bsm provenance FIGURE`` shows them.

    Args:
        figure: the figure.
        path: the file, ending in ``.png``; its folder is made.

    Returns:
        The path.
    """
    path = Path(path)
    used = results_used(path.parent.parent / "results")
    metadata = {"Software": None} | ({"Source": json.dumps(used)} if used else {})
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata=metadata)
    return path


def spectrogram(
    ax: Axes, audio: np.ndarray | torch.Tensor, rate: int, *, vmin: float = -80, peak: float | None = None
) -> AxesImage:
    """Draw a power spectrogram in dB below a peak, averaged over the channels.

    Args:
        ax: where to draw.
        audio: (channels, samples) or (samples,).
        rate: Hz.
        vmin: the darkest level, dB.
        peak: power drawn at 0 dB; by default the largest here. Give several pictures one peak to compare levels.

    Returns:
        The image, for a colour bar; its ``peak`` attribute is the power drawn at 0 dB.
    """
    signal = np.atleast_2d(audio.detach().cpu().numpy() if isinstance(audio, torch.Tensor) else audio).astype(float)
    n_fft = 2048 if rate > 24000 else 1024
    signal = np.pad(signal, ((0, 0), (0, max(0, n_fft - signal.shape[1]))))
    hop = max(n_fft // 4, signal.shape[1] // 2000)  # no more columns than a page has dots
    power = ShortTimeFFT(hann(n_fft, sym=False), hop, rate).spectrogram(signal).mean(axis=0)  # (bins, frames)
    peak = max(power.max(), 1e-20) if peak is None else peak
    level = 10 * np.log10(power / peak + 1e-12)
    image = ax.imshow(
        level,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, signal.shape[1] / rate, 0, rate / 2000),
        vmin=vmin,
        vmax=0,
    )
    image.peak = peak
    ax.set(xlabel="time (s)", ylabel="frequency (kHz)")
    return image


def mark_regions(
    ax: Axes, regions: Iterable[tuple[float, float]], *, colour: str = COLOURS["sky"], label: str | None = None
) -> None:
    """Shade time regions, such as those in which somebody sings.

    Args:
        ax: where to draw; its x axis is in seconds.
        regions: (start, end) in s.
        colour: of the shade.
        label: for the legend, given once.
    """
    for start, end in regions:
        ax.axvspan(start, end, color=colour, alpha=0.3, linewidth=0, label=label)
        label = None


def score_plot(
    ax: Axes,
    labels: Sequence[str],
    values_per_label: Sequence[Values] | Mapping[str, Values],
    *,
    clusters: Sequence[Sequence[str]] | Mapping[str, Sequence[str]] | None = None,
    ylabel: str = "SDR (dB)",
) -> None:
    """Draw every track as a point, and the mean with its 95 % bootstrap interval beside them; hollow without one.

    The interval is over songs: clips of one song, told by ``clusters``, are drawn together
    (:func:`bsm.stats.crossed_interval`), for they are more alike than songs are.

    Args:
        ax: where to draw.
        labels: one per group; the number of tracks is written below it.
        values_per_label: one value per track and group, in the labels' order or by label; NaN and None are left out.
        clusters: the song of each value, in the same form; by default every track is a song of its own.
        ylabel: what the values are, with their unit.

    Raises:
        ValueError: as many labels as groups, and as many songs as values, are needed.
    """
    groups = [values_per_label[x] for x in labels] if isinstance(values_per_label, Mapping) else values_per_label
    songs = [clusters[x] for x in labels] if isinstance(clusters, Mapping) else clusters or [None] * len(groups)
    if not len(groups) == len(songs) == len(labels):
        raise ValueError(f"{len(labels)} labels for {len(groups)} groups of values and {len(songs)} of songs")
    ticks = []
    for x, (label, group, own) in enumerate(zip(labels, groups, songs, strict=True)):
        values = np.asarray(group, dtype=float)
        kept = np.isfinite(values)
        values, parts = values[kept], ""
        if own is None:
            interval = bootstrap_interval(values)
        else:
            own = [song for song, there in zip(own, kept, strict=True) if there]
            interval = crossed_interval(values[:, None], own)
            parts = f"\nof {len(set(own))} songs" * (len(set(own)) < len(own))
        ticks.append(f"{label}\nn = {interval.n}{parts}")
        if not interval.n:
            continue
        # a fixed spread instead of random jitter: equal data give equal files
        spread = np.linspace(-0.12, 0.12, interval.n) if interval.n > 1 else np.zeros(1)
        ax.plot(x - 0.1 + spread, values, "o", markersize=4, alpha=0.6, color=COLOURS["blue"], markeredgewidth=0)
        draw_interval(ax, x + 0.2, interval, capsize=4)
        if np.isnan(interval.low):
            ax.set_xlabel(HOLLOW)
    ax.set(xticks=range(len(labels)), xticklabels=ticks, xlim=(-0.5, len(labels) - 0.5), ylabel=ylabel)


def draw_interval(ax: Axes, x: float, interval: Interval, *, across: bool = False, capsize: float = 3) -> None:
    """Draw an estimate with its interval; hollow, and without a bar of no length, where there is none.

    Args:
        ax: where to draw.
        x: place on the axis of the groups.
        interval: estimate and interval.
        across: draw the estimate along the horizontal axis, ``x`` along the vertical one.
        capsize: of the bar's ends, points.
    """
    none, colour = np.isnan(interval.low), COLOURS["vermilion"]
    place = (interval.estimate, x) if across else (x, interval.estimate)
    ends = np.maximum([[interval.estimate - interval.low], [interval.high - interval.estimate]], 0)
    bar = {} if none else {"xerr" if across else "yerr": ends}
    ax.errorbar(*place, **bar, fmt="s", capsize=capsize, color=colour, markerfacecolor="none" if none else colour)


def legend_above(figure: Figure, ax: Axes) -> None:
    """Put the legend of ``ax`` above all panels, where it hides nothing; it says, too, what hollow marks of any are."""
    found = {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    for other in figure.axes:
        for handle, label in zip(*other.get_legend_handles_labels(), strict=True):
            if label == HOLLOW:
                found.pop(label, None)
                found[label] = handle  # last
    figure.legend(
        found.values(), found, loc="outside upper center", ncols=len(found), fontsize="small", columnspacing=1.2
    )


def coverage(seeds: Sequence[object], songs: int = FEWEST) -> str:
    """Say in a caption what intervals over songs and training seeds cover.

    Args:
        seeds: of one model's trainings.
        songs: how many there are.
    """
    text = f"95 % intervals over songs and {len(seeds)} training seeds, the wider of bootstrap and t"
    if len(seeds) == 1:
        text = "95 % intervals over songs alone: with one training seed, a difference may be the luck of a training"
    return text if songs >= FEWEST else f"{text}; {songs} song(s) are too few for any"


def interval_plot(ax: Axes, ticks: Sequence[str], values: Mapping[str, Sequence[Interval | None]]) -> None:
    """Draw estimates with their intervals over the same ticks, one line per name, marks side by side.

    Marks are hollow and without a bar where there is no interval; the legend then says so.

    Args:
        ax: where to draw.
        ticks: labels of the x axis.
        values: by name, for the legend: one interval per tick; None, and an estimate that is NaN, leave a gap.

    Raises:
        ValueError: as many intervals as ticks are needed.
    """
    shifts = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
    looks = itertools.cycle(zip("osD^", ("blue", "vermilion", "green", "purple"), strict=True))
    some = False
    for (mark, colour), shift, (name, found) in zip(looks, shifts, values.items(), strict=False):
        if len(found) != len(ticks):
            raise ValueError(f"{name}: {len(found)} intervals for {len(ticks)} ticks")
        nothing = Interval(np.nan, np.nan, np.nan, 0, 0, "none")
        points = [nothing if interval is None else interval for interval in found]
        means = np.array([p.estimate for p in points])
        ends = np.array([[p.estimate - p.low for p in points], [p.high - p.estimate for p in points]])
        x = np.arange(len(ticks)) + shift
        ax.errorbar(x, means, yerr=np.maximum(ends, 0), fmt=f"{mark}-", color=COLOURS[colour], capsize=3, label=name)
        bare = np.isnan(ends[0]) & np.isfinite(means)  # drawn anew on white: a bar of no length would look exact
        ax.plot(x[bare], means[bare], mark, color=COLOURS[colour], markerfacecolor="white", zorder=3)
        some |= bool(bare.any())
    if some:
        ax.plot([], [], "o", color="0.4", markerfacecolor="white", label=HOLLOW)
    ax.set(xticks=range(len(ticks)), xticklabels=ticks, xlim=(-0.5, len(ticks) - 0.5))


def table_markdown(
    frame: pd.DataFrame, *, caption: str, data: str | None = None, not_comparable: bool = False, digits: int = 2
) -> str:
    """Return a table as Markdown, its caption below it.

    Args:
        frame: the table; its index becomes columns where it has names.
        caption: what the table shows.
        data: the data set's name, added to the caption.
        not_comparable: say that the numbers are not comparable with the paper's.
        digits: decimals of numbers that are not whole; NaN and None are drawn as a dash.

    Returns:
        The text, ending in a newline.
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

    Args:
        signals: by name, ``(channels, samples)``, full scale at 1; the loudest beyond that turns all of them down.
        rate: Hz.
        title: before each name, such as the song's.
    """
    from IPython.display import Audio, Markdown, display  # of notebooks alone

    peak = max(1.0, *(float(np.abs(signal).max()) for signal in signals.values()))
    for name, signal in signals.items():
        label = f"{title}: {name}" if title else name
        display(Markdown(f"**{label}**"), Audio(np.asarray(signal) / peak, rate=rate, normalize=False))
