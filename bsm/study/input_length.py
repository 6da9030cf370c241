"""Scores by the length of what a model sees at a time, with and without overlap, and what each length costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from bsm.data.tracks import Track
from bsm.evaluate import evaluate
from bsm.stats import SAME
from bsm.study import figures
from bsm.study.compare import METRICS, corrected, counted, paired, song_of, table, tidy, words
from bsm.study.speed.timer import repeated
from bsm.study.subjects import Subject
from bsm.study.windows import Condition, shown, whole_windows

Records = Sequence[dict[str, Any]]

log = logging.getLogger(__name__)


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
    """Time one pass over a window of noise, models in turn, one seed of each, without overlap.

    Args:
        found: the models.
        cut: the conditions.
        whole_seconds: length that stands for a whole song, s.
        repeats: rounds.

    Returns:
        One record per model and window: ``model``, ``window``, ``audio_seconds`` of a pass, and its timing, of
        :meth:`bsm.study.speed.timer.Rounds.of`.
    """
    models = {name: next(s for s in found if s.name == name) for name in dict.fromkeys(s.name for s in found)}
    records = []
    for case in (case for case in cut if case.hop == case.window):
        span = case.window if math.isfinite(case.window) else whole_seconds
        passes = {name: _pass(subject, span) for name, subject in models.items()}
        times = repeated(passes, repeats, warm_up=0)
        for name in passes:
            records.append({"model": name, "window": case.window, "audio_seconds": span} | times.of(name))
    return records


def _pass(subject: Subject, seconds: float) -> Callable[[], torch.Tensor]:
    config = subject.network.config
    size = max(1, round(seconds * config.sample_rate))
    noise = 0.1 * torch.randn(1, config.channels, size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(subject.network.parameters(), noise).device)
    return torch.inference_mode()(lambda: subject.network(noise))


def tables_of(records: Records, metric: str) -> dict[tuple[str, float, float], pd.DataFrame]:
    """Return a table of :func:`bsm.study.compare.table` by (model, window, hop); infinite is the whole song."""
    groups = tidy(records).groupby(["system", "window", "hop"], sort=False)
    return {case: table(own, metric) for case, own in groups}


def reference(records: Records, trained: dict[str, float]) -> dict[str, float]:
    """Return by model the window that others are compared with: that of its training, or else the longest, in s.

    Songs may hold no window of the training's length, such as excerpts of 7 s.
    """
    found = {}
    for model, length in trained.items():
        windows = {r["window"] for r in records if r["model"] == model and math.isfinite(r["window"])}
        found[model] = length if length in windows or not windows else max(windows)
    return found


def differences(records: Records, reference: dict[str, float]) -> list[dict[str, Any]]:
    """Compare every window with that of reference, and every overlap with none, paired over songs.

    Args:
        records: of :func:`scores`, or as a result file holds them.
        reference: by model, a window, s; see :func:`reference`.

    Returns:
        One record of :func:`bsm.study.compare.paired` per ``model``, ``metric``, ``window``, ``hop`` and the window
        that it is compared ``against``, s, without overlap; a metric's verdicts are corrected for their number.
    """
    rows = []
    for metric in METRICS:
        tables, found = tables_of(records, metric), []
        for (model, window, hop), own in tables.items():
            against = window if hop != window else reference[model]
            if (window, hop) != (against, against) and (model, against, against) in tables:
                row = {"model": model, "metric": metric, "window": window, "hop": hop, "against": against}
                found.append(row | paired(own, tables[model, against, against]))
        rows += corrected(found)
    return rows


def answer(rows: Records, trained: dict[str, float]) -> str:
    """Answer in Markdown, model by model: does a score drop in windows shorter or longer than in training?

    Args:
        rows: of :func:`differences`.
        trained: by model, s.
    """
    lines = []
    for model, length in trained.items():
        own = [r for r in rows if r["model"] == model]
        plain = [r for r in own if r["hop"] == r["window"]]
        against = next((r["against"] for r in plain), length)
        other = f", against windows of {against:g} s" * (against != length)
        lines += [f"**{model}**, trained on segments of {length:g} s{other}:", ""]
        for side, part in {
            "shorter": [r for r in plain if r["window"] < against],
            "longer": [r for r in plain if r["window"] > against],
        }.items():
            for metric, label in METRICS.items():
                if these := [r for r in part if r["metric"] == metric]:
                    each = "; ".join(f"{shown(r['window'])}: {_gain(r)}" for r in these)
                    lines.append(f"- {side} windows, {label.split()[0]}: {_drop(these)} ({each}).")
        for r in (r for r in own if r["hop"] != r["window"]):
            name = METRICS[r["metric"]].split()[0]
            lines.append(f"- overlapped windows of {r['window']:g} s every {r['hop']:g} s, {name}: {_gain(r)}.")
        lines.append("")
    return "\n".join(lines)


def _drop(part: Records) -> str:
    """Sum up windows on one side of the training's length: does a score drop, and by how much at most."""
    if worse := [r for r in part if r["verdict"] == "worse"]:
        lowest = min(worse, key=lambda r: r["estimate"])
        return f"it drops, by {-lowest['estimate']:.2f} dB at {shown(lowest['window'])}"
    found = [r["verdict"] for r in part]
    return "it does not drop" if "better" in found else SAME if SAME in found else found[0]


def _gain(row: dict[str, Any]) -> str:
    return f"{words(row)} dB, {counted(row)}: {row['verdict']}"


def score_table(records: Records, rows: Records, trained: dict[str, float]) -> pd.DataFrame:
    """List mean scores by model and window, and differences from the window of reference, or from no overlap.

    Args:
        records: of :func:`scores`, or as a result file holds them.
        rows: of :func:`differences`, likewise.
        trained: by model, the length of its training segments, s.
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
                line["uSDR reads"] = row["verdict"] if row else "as trained" if window == trained[model] else "–"
        lines.append(line)
    return pd.DataFrame(lines)


def cost_table(records: Records) -> pd.DataFrame:
    """List the best time of a pass over each window, and what that makes for a second of a song."""
    frame = pd.DataFrame(records)
    span, best, whole = frame["audio_seconds"], frame["seconds"].map(min), np.isinf(frame["window"].astype(float))
    names = [
        f"{shown(w)} ({s:g} s)" if long else shown(w) for w, s, long in zip(frame["window"], span, whole, strict=True)
    ]
    return pd.DataFrame(
        {
            "model": frame["model"],
            "window": names,
            "a window takes (s)": best,
            "per second of audio (s)": best / span,
            "half overlapped (s)": (2 * best / span).mask(whole),
            "rounds": frame["seconds"].map(len),
        }
    )


@figures.style()
def figure_of_scores(records: Records, trained: dict[str, float]) -> Figure:
    """Draw mean scores without overlap against the window, with 95 % intervals, a panel per metric."""
    drawn, axes = plt.subplots(1, 2, figsize=(7.5, 3.2))
    for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
        tables = tables_of(records, metric)
        windows = sorted({w for _, w, h in tables if w == h})
        found = {m: [paired(tables[m, w, w]) for w in windows] for m in trained}
        _draw(ax, windows, found, trained)
        ax.set(ylabel=label, title=f"{label.split()[0]}, mean, {counted(next(iter(found.values()))[0])}")
    figures.name_lines(axes[-1])
    return drawn


@figures.style()
def figure_of_differences(rows: Records, trained: dict[str, float]) -> Figure:
    """Draw differences from the window of reference, paired over songs, a panel per metric."""
    drawn, axes = plt.subplots(1, 2, figsize=(7.5, 3.2))
    plain = {(r["metric"], r["model"], r["window"]): r for r in rows if r["hop"] == r["window"]}
    against = {r["against"] for r in plain.values()} or set(trained.values())
    windows = sorted({window for _, _, window in plain} | against)
    what = "training's" if against <= set(trained.values()) else "the longest"
    for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
        found = {model: [plain.get((metric, model, w)) for w in windows] for model in trained}
        ax.axhline(0, color="0.4", linewidth=0.8)
        _draw(ax, windows, found, trained)
        name = label.split()[0]
        ax.set(ylabel=f"change in {name} (dB)", title=f"{name} against {what} window")
    figures.name_lines(axes[-1])
    return drawn


def _draw(ax: plt.Axes, windows: list[float], values: dict[str, list[Any]], trained: dict[str, float]) -> None:
    figures.interval_plot(ax, ["song" if math.isinf(w) else f"{w:g}" for w in windows], values)
    ax.set(xlabel="window (s); bars: 95 % intervals")
    for length in sorted(set(trained.values()) & set(windows)):
        place = windows.index(length)
        ax.axvline(place, color="0.6", linestyle=":", linewidth=1.2, zorder=0)
        ax.text(place, 0.01, " as trained", transform=ax.get_xaxis_transform(), color="0.4", fontsize="x-small")
