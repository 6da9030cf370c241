"""Scores by the length of what a model sees at a time, with and without overlap, and what each length costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from bsm.audio import AudioInfo
from bsm.data.tracks import Source, Track
from bsm.errors import InputError
from bsm.evaluate import evaluate
from bsm.stats import SAME, Interval
from bsm.study.compare import corrected, counted, paired, song_of, table, tidy, words
from bsm.study.figures import interval_plot
from bsm.study.speed.timer import repeated
from bsm.study.subjects import Subject

WHOLE = "whole"
"""In a list of windows: the whole song in one pass."""
METRICS = {"usdr": "uSDR (dB)", "csdr": "cSDR (dB)"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """How a song is cut up.

    Attributes:
        window: seconds that the model sees at a time; infinity for the whole song.
        hop: seconds from window to window; the window's own length for no overlap.
    """

    window: float
    hop: float

    @property
    def options(self) -> dict[str, Any]:
        """Options of :func:`bsm.inference.separate`."""
        return {"whole": True} if math.isinf(self.window) else {"window": self.window, "hop": self.hop}


def conditions(windows: Sequence[Any], overlapped: Sequence[Any], trained: Sequence[float]) -> list[Condition]:
    """Return the conditions to measure, without overlap from short to long, then those with half of each window shared.

    The lengths of training, against which the others are judged, are among the first whether named or not.

    Args:
        windows: s, or :data:`WHOLE`.
        overlapped: s; these windows are measured without overlap too.
        trained: lengths of the training segments, s.

    Raises:
        InputError: a window that is neither a positive number nor ``whole``, or a whole song to be overlapped.
    """
    again = sorted({_seconds("overlap_windows", w) for w in overlapped})
    if math.inf in again:
        raise InputError(f"overlap_windows: {WHOLE!r} is one window, which nothing overlaps")
    plain = sorted({_seconds("windows", w) for w in windows} | {float(t) for t in trained} | set(again))
    return [Condition(w, w) for w in plain] + [Condition(w, w / 2) for w in again]


def _seconds(name: str, window: Any) -> float:
    if window == WHOLE:
        return math.inf
    if isinstance(window, bool) or not isinstance(window, int | float) or not 0 < window < math.inf:
        raise InputError(f"{name}: a window is a positive number of seconds, or {WHOLE!r}, not {window!r}")
    return float(window)


def shown(window: float | None) -> str:
    """Return a window's name for axes and tables; None is the whole song, as a result file has it."""
    return "whole song" if window is None or not math.isfinite(window) else f"{window:g} s"


@dataclass(frozen=True)
class _Beginning:
    """The first samples of a sound."""

    source: Source
    samples: int

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def info(self) -> AudioInfo:
        return AudioInfo(self.source.info.rate, self.source.info.channels, self.samples)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.source.read(start, self.samples if stop is None else min(stop, self.samples))


def whole_windows(track: Track, cut: Sequence[Condition]) -> tuple[Track, list[Condition]]:
    """Cut a song off where its last whole window ends, of every condition alike.

    A last window that is filled up with silence is no window of its length: it shows the model less. So the song is cut
    to a multiple of all windows, and windows that are too long for that are left out for this song.
    """
    windows = sorted({round(1000 * case.window) for case in cut if math.isfinite(case.window)})  # ms
    while windows and (step := math.lcm(*windows)) > 1000 * track.seconds:
        windows.pop()
    if not windows:
        return track, [case for case in cut if math.isinf(case.window)]
    samples = int(1000 * track.seconds // step) * step * track.rate // 1000
    sources = {name: _Beginning(source, samples) for name, source in track.sources.items()}
    mixture = track.mixture_source and _Beginning(track.mixture_source, samples)
    fitting = [case for case in cut if math.isinf(case.window) or round(1000 * case.window) in windows]
    return replace(track, sources=sources, mixture_source=mixture), fitting


def scores(found: Sequence[Subject], tracks: Sequence[Track], cut: Sequence[Condition]) -> list[dict[str, Any]]:
    """Separate and score every song, cut to whole windows, with every model under every condition.

    Returns:
        One record each: ``track``, ``song`` (that it is of), ``seconds`` (of it that are scored), ``model``, ``seed``,
        ``window``, ``hop`` (s), ``usdr`` and ``csdr`` (dB).
    """
    groups: dict[tuple[Condition, ...], list[Track]] = {}
    for track in tracks:
        shorter, fitting = whole_windows(track, cut)
        groups.setdefault(tuple(fitting), []).append(shorter)
    records = []
    for fitting, some in groups.items():
        if left_out := sorted({shown(case.window) for case in cut if case not in fitting}):
            log.warning("%s: no whole window of %s", ", ".join(track.name for track in some), ", ".join(left_out))
        cases = {f"{i}": (subject, case) for i, (subject, case) in enumerate((s, c) for c in fitting for s in found)}
        separators = {name: subject.separator(**case.options) for name, (subject, case) in cases.items()}
        seconds = {track.name: track.seconds for track in some}
        for record in evaluate(some, separators):
            subject, case = cases[record["separator"]]
            own = {"track": record["track"], "song": song_of(record["track"]), "seconds": seconds[record["track"]]}
            own |= {"model": subject.name, "seed": subject.seed, "window": case.window, "hop": case.hop}
            records.append(own | {name: record[name] for name in METRICS})
    return records


def costs(
    found: Sequence[Subject], cut: Sequence[Condition], *, whole_seconds: float, repeats: int
) -> list[dict[str, Any]]:
    """Time one pass over a window of noise, models in turn; seeds of a model cost the same, and one is timed.

    Args:
        found: the models.
        cut: the conditions; those without overlap are timed.
        whole_seconds: length that stands for a whole song, s.
        repeats: rounds.

    Returns:
        One record per model and window: ``model``, ``window``, ``audio_seconds`` of a pass, ``seconds`` of every round.
    """
    models = {subject.name: subject for subject in reversed(found)}
    models = dict(reversed(models.items()))
    records = []
    for case in cut:
        if case.hop != case.window:
            continue
        span = case.window if math.isfinite(case.window) else whole_seconds
        passes = {name: _pass(subject, span) for name, subject in models.items()}
        for name, seconds in repeated(passes, repeats, warm_up=0).seconds.items():
            records.append({"model": name, "window": case.window, "audio_seconds": span, "seconds": seconds})
    return records


def _pass(subject: Subject, seconds: float) -> Any:
    config = subject.network.config
    size = max(1, round(seconds * config.sample_rate))
    noise = 0.1 * torch.randn(1, config.channels, size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(subject.network.parameters(), noise).device)
    return torch.inference_mode()(lambda: subject.network(noise))


def tables_of(records: Sequence[dict[str, Any]], metric: str) -> dict[tuple[str, float, float], pd.DataFrame]:
    """Return a table of :func:`bsm.study.compare.table` by (model, window, hop); infinite is the whole song."""
    frame = tidy(records)
    return {case: table(own, metric) for case, own in frame.groupby(["system", "window", "hop"], sort=False)}


def differences(records: Sequence[dict[str, Any]], trained: dict[str, float]) -> list[dict[str, Any]]:
    """Compare every window with that of the training, and every overlap with none, paired over songs.

    Args:
        records: of :func:`scores`, or as a result file holds them.
        trained: by model, the length of its training segments, s.

    Returns:
        One record of :func:`bsm.study.compare.paired` per ``model``, ``metric``, ``window``, ``hop`` and the window
        that it is compared ``against``, s, without overlap; a metric's verdicts are corrected for their number.
    """
    rows = []
    for metric in METRICS:
        tables, found = tables_of(records, metric), []
        for (model, window, hop), own in tables.items():
            against = window if hop != window else trained[model]
            if (window, hop) != (against, against) and (model, against, against) in tables:
                row = {"model": model, "metric": metric, "window": window, "hop": hop, "against": against}
                found.append(row | paired(own, tables[model, against, against]))
        rows += corrected(found)
    return rows


def answer(rows: Sequence[dict[str, Any]], trained: dict[str, float]) -> str:
    """Answer, model by model: does a score drop when windows are shorter or longer than in training, and by how much?

    Args:
        rows: of :func:`differences`.
        trained: by model, s.

    Returns:
        Markdown, a paragraph per model.
    """
    paragraphs = []
    for model, length in trained.items():
        own = [r for r in rows if r["model"] == model and r["hop"] == r["window"]]
        lines = [f"**{model}**, trained on segments of {length:g} s:", ""]
        sides = {
            "shorter": [r for r in own if r["window"] < length],
            "longer": [r for r in own if r["window"] > length],
        }
        for side, part in sides.items():
            for metric, label in METRICS.items():
                if these := [r for r in part if r["metric"] == metric]:
                    lines.append(f"- {side} windows, {label.split()[0]}: {_side(these)}")
        overlapped = [r for r in rows if r["model"] == model and r["hop"] != r["window"]]
        lines += [
            f"- windows of {r['window']:g} s every {r['hop']:g} s against the same without overlap, "
            f"{METRICS[r['metric']].split()[0]}: {_gain(r)}."
            for r in overlapped
        ]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def _side(part: Sequence[dict[str, Any]]) -> str:
    """Sum up the windows on one side of the training's length: whether any is worse, and the figures of each."""
    worse, better = ([r for r in part if r["verdict"] == word] for word in ("worse", "better"))
    if worse:
        lowest = min(worse, key=lambda r: r["estimate"])
        first = f"it drops, by {-lowest['estimate']:.2f} dB at {shown(lowest['window'])}"
    elif better:
        first = "it does not drop"
    else:
        first = SAME if any(r["verdict"] == SAME for r in part) else part[0]["verdict"]
    each = "; ".join(f"{shown(r['window'])}: {_gain(r)}" for r in part)
    return f"{first} ({each})."


def _gain(row: dict[str, Any]) -> str:
    return f"{words(row)} dB, {counted(row)}: {row['verdict']}"


def score_table(records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return mean scores by model and window, and differences from the training's length, or from no overlap.

    Args:
        records: of :func:`scores`, or as a result file holds them.
        rows: of :func:`differences`, likewise.
    """
    inf = math.inf  # which a result file holds as null
    found = {(r["model"], r["metric"], r["window"] or inf, r["hop"] or inf): r for r in rows}
    tables = {metric: tables_of(records, metric) for metric in METRICS}
    models = list(dict.fromkeys(model for model, *_ in tables["usdr"]))
    lines = []
    for model, window, hop in sorted(tables["usdr"], key=lambda c: (models.index(c[0]), c[2] != c[1], c[1])):
        line = {"model": model, "window": shown(window) + (", half overlapped" if hop != window else "")}
        for metric, label in METRICS.items():
            row = found.get((model, metric, window, hop))
            line[label] = paired(tables[metric][model, window, hop])["estimate"]
            line[f"{label.split()[0]} difference"] = words(row)
            if metric == "usdr":
                line["uSDR reads"] = row["verdict"] if row else "as trained"
        lines.append(line)
    return pd.DataFrame(lines)


def cost_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the best time of a pass over each window, and what that makes for a second of a song."""
    lines = []
    for record in records:
        best, span = min(record["seconds"]), record["audio_seconds"]
        name = shown(record["window"])
        lines.append(
            {
                "model": record["model"],
                "window": name if math.isfinite(record["window"]) else f"{name} ({span:g} s)",
                "a window takes (s)": best,
                "per second of audio (s)": best / span,
                "half overlapped (s)": 2 * best / span if math.isfinite(record["window"]) else None,
                "rounds": len(record["seconds"]),
            }
        )
    return pd.DataFrame(lines)


def draw_scores(axes: Sequence[Axes], records: Sequence[dict[str, Any]], trained: dict[str, float]) -> None:
    """Draw mean scores without overlap against the window, with 95 % intervals, one of ``axes`` per metric."""
    for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
        tables = tables_of(records, metric)
        windows = sorted({w for _, w, h in tables if w == h})
        found = {m: [paired(tables[m, w, w]) for w in windows] for m in trained}
        _draw(ax, windows, {m: [Interval.of(mean) for mean in own] for m, own in found.items()}, trained)
        ax.set(
            ylabel=f"{label}, mean", title=f"{label.split()[0]}, {counted(next(iter(found.values()))[0])}; bars: 95 %"
        )


def draw_differences(axes: Sequence[Axes], rows: Sequence[dict[str, Any]], trained: dict[str, float]) -> None:
    """Draw differences from the window of the training, paired over songs, one of ``axes`` per metric."""
    plain = {(r["metric"], r["model"], r["window"]): r for r in rows if r["hop"] == r["window"]}
    windows = sorted({window for _, _, window in plain} | set(trained.values()))
    for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
        found = {model: [plain.get((metric, model, w)) for w in windows] for model in trained}
        gains = {model: [row and Interval.of(row) for row in own] for model, own in found.items()}
        ax.axhline(0, color="0.4", linewidth=0.8)
        _draw(ax, windows, gains, trained)
        few = min((r for (name, *_), r in plain.items() if name == metric), key=lambda r: r["n"], default=None)
        title = f"{label.split()[0]}, {counted(few)}; bars: 95 %" if few else label.split()[0]
        ax.set(ylabel="dB against training's length", title=title)


def _draw(ax: Axes, windows: list[float], values: dict[str, list[Interval | None]], trained: dict[str, float]) -> None:
    interval_plot(ax, ["song" if math.isinf(w) else f"{w:g}" for w in windows], values)
    ax.set(xlabel="window (s)")
    for length in sorted(set(trained.values())):
        ax.axvline(windows.index(length), color="0.6", linestyle=":", linewidth=1.2, label="as trained")
