"""The report's own tables: frames made from result files, narrow enough for a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bsm.stats import Interval, crossed_interval, verdict
from bsm.study import input_length, occurrence
from bsm.study.subjects import LABELS, song_of
from bsm.study.variants import VARIANTS

METRICS = {"usdr": "uSDR", "csdr": "cSDR", "si_sdr": "SI-SDR"}
UNCORRECTED = "not corrected for the number of comparisons"
OURS = LABELS["bsmamba2"]
Frames = list[tuple[pd.DataFrame, str]]
"""Tables, each with what is said below it."""


def interval(found: Interval | Mapping[str, Any], digits: int = 2, unit: str = "") -> str:
    """Write an estimate with its 95 % interval, such as ``1.97 [1.75, 2.19]``; the estimate alone without one."""
    estimate, low, high = found[:3] if isinstance(found, tuple) else (found[k] for k in ("estimate", "low", "high"))
    if estimate is None or np.isnan(estimate):
        return "–"
    estimate = round(estimate, digits) + 0.0  # no negative zero
    if low is None or np.isnan(low):
        return f"{estimate:.{digits}f}{unit}"
    return f"{estimate:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def _counted(tracks: int, songs: int) -> str:
    return f"{songs} songs" if songs == tracks else f"{tracks} clips of {songs} songs"


def _by_song(records: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """Return scores as a frame of a row per track, a column per metric and separator; and the song of each row."""
    frame = pd.DataFrame(records).pivot(index="track", columns="separator", values=list(METRICS)).astype(float)
    return frame, [song_of(track) for track in frame.index]


def held_out(records: Sequence[Mapping[str, Any]]) -> Frames:
    """Compare separators on held-out songs: mean scores, and the network's gain over every other.

    Args:
        records: of :func:`bsm.evaluate.evaluate`.
    """
    frame, songs = _by_song(records)
    names = list(dict.fromkeys(record["separator"] for record in records))
    rows, gains = [], []
    for name in names:
        row = {"": name}
        for metric, label in METRICS.items():
            row[f"{label} (dB)"] = interval(crossed_interval(frame[metric][[name]], songs))
        rows.append(row)
    for name in (name for name in names if name != OURS):
        row = {f"{OURS} minus": name}
        for metric, label in METRICS.items():
            found = crossed_interval((frame[metric][OURS] - frame[metric][name]).to_frame(), songs)
            row[f"{label} (dB)"] = interval(found)
            if metric == "usdr":
                row["in uSDR"] = verdict(found)
        gains.append(row)
    count = _counted(len(songs), len(set(songs)))
    return [
        (pd.DataFrame(rows), f"Mean scores over {count}, one training of each network; in brackets 95 % intervals"),
        (pd.DataFrame(gains), f"Mean differences, paired over {count}"),
    ]


def recording(records: Sequence[Mapping[str, Any]]) -> Frames:
    """List the scores of one recording by separator."""
    frame = pd.DataFrame(records)[["separator", *METRICS]]
    names = {"separator": ""} | {metric: f"{label} (dB)" for metric, label in METRICS.items()}
    return [
        (frame.rename(columns=names), "One real recording; a model that heard other songs meets something new here")
    ]


def windows(values: Mapping[str, Any]) -> Frames:
    """List uSDR by the window that a model sees, and the difference from the length of its training."""
    found = {(r["model"], r["window"], r["hop"]): r for r in values["differences"] if r["metric"] == "usdr"}
    rows = []
    for (model, window, hop), table in input_length.tables_of(values["scores"], "usdr").items():
        plain = None if np.isinf(window) else window
        gain = found.get((model, plain, plain if np.isinf(hop) else hop))
        rows.append(
            {
                "model": model,
                "window": input_length.shown(window) + ("" if hop == window else ", half overlapped"),
                "uSDR (dB)": table.to_numpy().mean(),
                "difference (dB)": interval(gain) if gain else "–",
                "reads": gain["verdict"] if gain else "as trained",
                "_order": (hop != window, window),
            }
        )
    frame = pd.DataFrame(rows)
    frame = frame.iloc[sorted(range(len(frame)), key=lambda i: (frame["model"][i] != OURS, *frame["_order"][i]))]
    counts = next(iter(values["differences"]), {"songs": 0, "seeds": 0})
    note = (
        f"uSDR by window, mean over {counts['songs']} songs and {counts['seeds']} training(s), and the paired "
        f"difference from the training's own window (with overlap: from the same window without); {UNCORRECTED}"
    )
    return [(frame.drop(columns="_order"), note)]


def regions(values: Mapping[str, Any], parameters: Mapping[str, Any]) -> Frames:
    """List the SDR inside vocal regions by their duration, and the first model's gain over the second."""
    groups = occurrence.grouped(values["regions"], "duration", parameters["duration_bins"])
    compared = occurrence.compare(values["regions"], occurrence.SDR, groups)
    rows = []
    for row in compared:
        line = {"duration": row["group"], "regions": row["regions"], "songs": row["songs"]}
        line |= {f"{model} (dB)": mean["estimate"] for model, mean in row["means"].items()}
        for other, gain in row["differences"].items():
            line[f"minus {other} (dB)"] = interval(gain)
            line["reads"] = row["verdicts"][other]
        rows.append(line)
    note = "SDR inside vocal regions by their duration, paired by region; whole songs are drawn for the intervals"
    return [(pd.DataFrame(rows), note)]


def variants(values: Mapping[str, Any]) -> Frames:
    """List what each change of the base does to uSDR, the worst first."""
    found = sorted(values["differences"], key=lambda row: row["estimate"])
    rows = [
        {
            "change": VARIANTS[row["variant"]].asks if row["variant"] in VARIANTS else row["variant"],
            "difference (dB)": interval(row),
            "reads": row["verdict"],
        }
        for row in found
    ]
    some = next(iter(found), {"songs": 0, "seeds": 0})
    note = (
        f"uSDR against the base, trained alike; {some['songs']} songs, {some['seeds']} training(s) of each; "
        f"{UNCORRECTED}"
    )
    return [(pd.DataFrame(rows), note)]


def published(values: Mapping[str, Any]) -> Frames:
    """List the published scores."""
    rows = [{"model": r["model"], "cSDR (dB)": r["csdr"], "uSDR (dB)": r["usdr"]} for r in values["published"]]
    status = {"blocked": "not compared: see what is missing"}.get(values["status"], "compared below")
    return [(pd.DataFrame(rows), f"Published scores, of the 50 test songs of MUSDB18-HQ; {status}")]


class Own(NamedTuple):
    """A notebook's own tables in the report.

    Attributes:
        result: name of the result file that they are made from.
        frames: makes them from its content.
        instead: names of the notebook's tables that they stand for.
    """

    result: str
    frames: Callable[[dict[str, Any]], Frames]
    instead: tuple[str, ...] = ()


FRAMES: dict[str, list[Own]] = {
    "04_train": [
        Own("scores", lambda record: held_out(record["values"]), ("scores", "differences")),
        Own("real_clip", lambda record: recording(record["values"]), ("real_clip",)),
    ],
    "05_input_length": [Own("input_length", lambda record: windows(record["values"]))],
    "06_vocal_occurrence": [
        Own("vocal_occurrence", lambda record: regions(record["values"], record["parameters"])),
    ],
    "08_ablation_stft": [Own("ablation_stft", lambda record: variants(record["values"]))],
    "09_ablation_size": [Own("ablation_size", lambda record: variants(record["values"]))],
    "10_published_model": [Own("published_model", lambda record: published(record["values"]))],
}
"""By notebook."""
