"""Scores by the length of the windows that a model separates, with and without overlap."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from bsm.data.tracks import Track
from bsm.evaluate import evaluate
from bsm.study import figures
from bsm.study.compare import METRICS, corrected, counted, paired, song_of, table, tidy, words
from bsm.study.subjects import Subject
from bsm.study.windows import Condition, shown, whole_windows

Records = Sequence[dict[str, Any]]

log = logging.getLogger(__name__)


def scores(found: Sequence[Subject], tracks: Sequence[Track], cut: Sequence[Condition]) -> list[dict[str, Any]]:
    """Separate and score every song, cut to whole windows, with every model under every condition.

    Returns:
        One record each: ``track``, its ``song``, ``seconds`` that were scored, ``model``, ``seed``, ``window`` and
        ``hop`` (s), ``usdr`` and ``csdr`` (dB).
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
            (subject, case), track = cases[record["separator"]], record["track"]
            own = {"track": track, "song": song_of(track), "seconds": seconds[track]}
            own |= {"model": subject.name, "seed": subject.seed, "window": case.window, "hop": case.hop}
            records.append(own | {name: record[name] for name in METRICS})
    return records


def tables_of(records: Records | pd.DataFrame, metric: str) -> dict[tuple[str, float, float], pd.DataFrame]:
    """Return tables of :func:`bsm.study.compare.table` by (model, window, hop); a whole song's window is infinite."""
    frame = records if isinstance(records, pd.DataFrame) else tidy(records)
    groups = frame.groupby(["system", "window", "hop"], sort=False)
    return {case: table(own, metric) for case, own in groups}


def reference(records: Records, trained: dict[str, float]) -> dict[str, float]:
    """Return by model the window in s that the others are compared with: the training's length, or else the longest.

    Short songs, such as excerpts of 7 s, may hold no window of the training's length.
    """
    found = {}
    for model, length in trained.items():
        windows = {r["window"] for r in records if r["model"] == model and math.isfinite(r["window"])}
        found[model] = length if length in windows or not windows else max(windows)
    return found


def differences(records: Records, reference: dict[str, float]) -> list[dict[str, Any]]:
    """Compare every window with that of :func:`reference`, and overlapped windows with plain ones, paired over songs.

    Returns:
        One record of :func:`bsm.study.compare.paired` per ``model``, ``metric``, ``window`` and ``hop``, with the
        window in s that it is compared ``against``, without overlap. Verdicts are corrected for their number, metric by
        metric.
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


def score_table(records: Records, rows: Records, trained: dict[str, float]) -> pd.DataFrame:
    """List mean scores by model and window, and the differences of :func:`differences`, which are ``rows``.

    ``trained`` is by model the length of its training segments in s.
    """
    found = {(r["model"], r["metric"], r["window"], r["hop"]): r for r in rows}
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
                line["uSDR verdict"] = row["verdict"] if row else "as trained" if window == trained[model] else "–"
        lines.append(line)
    return pd.DataFrame(lines)


@figures.style()
def figure(records: Records, rows: Records, trained: dict[str, float]) -> Figure:
    """Draw mean scores without overlap by window, and below them the differences from the window of reference.

    There is a column per metric. Bars are 95 % intervals. The arguments are those of :func:`score_table`.
    """
    drawn, axes = plt.subplots(2, 2, figsize=(7.5, 6), sharex=True)
    gains = {(r["metric"], r["model"], r["window"]): r for r in rows if r["hop"] == r["window"]}
    what = "training's" if {r["against"] for r in gains.values()} <= set(trained.values()) else "the longest"
    for (above, below), (metric, label) in zip(axes.T, METRICS.items(), strict=True):
        tables, name = tables_of(records, metric), label.split()[0]
        windows = sorted({w for _, w, h in tables if w == h})
        found = {model: [paired(tables[model, w, w]) for w in windows] for model in trained}
        above.set(ylabel=label, title=f"{name}, mean, {counted(next(iter(found.values()))[0])}")
        below.set(ylabel=f"change in {name} (dB)", title=f"{name} against {what} window")
        below.axhline(0, color="0.4", linewidth=0.8)
        changes = {model: [gains.get((metric, model, w)) for w in windows] for model in trained}
        for ax, values in ((above, found), (below, changes)):
            figures.interval_plot(ax, ["song" if math.isinf(w) else f"{w:g}" for w in windows], values)
            for length in sorted(set(trained.values()) & set(windows)):
                place = windows.index(length)
                ax.axvline(place, color="0.6", linestyle=":", linewidth=1.2, zorder=0)
                ax.text(place, 0.01, " as trained", transform=ax.get_xaxis_transform(), color="0.4", fontsize="x-small")
        below.set(xlabel="window (s); bars: 95 % intervals")
    figures.name_lines(axes[0, 1])
    figures.name_lines(axes[1, 1])
    return drawn
