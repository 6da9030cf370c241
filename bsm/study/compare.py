"""Scores as one tidy frame, and one way to compare them: paired by track, with intervals over clusters and seeds.

A *cluster* is a set of tracks that resemble each other, such as the clips of one singer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bsm.data import mir1k
from bsm.stats import Interval, crossed_interval, interval_words, verdict, verdicts

NAMES = ("system", "model", "variant", "separator")
"""The fields in which records of various origins name the system that was scored."""
LABELS = {
    "usdr": "uSDR (dB)",
    "csdr": "cSDR (dB)",
    "si_sdr": "SI-SDR (dB)",
    "bleedless": "bleedless (0-100)",
    "fullness": "fullness (0-100)",
}
"""Measures, with their names and unit in tables and figures."""
METRICS = {name: LABELS[name] for name in ("usdr", "csdr")}
"""The paper's measures."""
ROWS = ["song", "track", "region"]
"""Index of a table of :func:`table`; ``song`` is the cluster (:func:`cluster_of`)."""
UNTRAINED = ""
"""The seed of a system that is not trained, such as the mixture."""
CORRECTED = "verdicts are corrected for the number of comparisons (Holm)"
"""The note below a table with verdicts of :func:`corrected`."""


def song_of(track: str) -> str:
    """Return the song of a track by its name: the track itself, or the song that a clip of MIR-1K was cut from."""
    return mir1k.song_of(track) or track


def cluster_of(track: str, song: str = "") -> str:
    """Return the cluster of a track: its song, or the singer of a clip of MIR-1K.

    Clips of one singer resemble each other more than clips of two singers.
    """
    clip = mir1k.song_of(track)
    return clip.partition("_")[0] if clip else song or track


def tidy(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records of scores as a frame with a row per system, seed, track and, where there are any, region.

    The records may come from ``evaluate``, from a notebook, or from a result file of any version.

    Returns:
        ``system``; ``seed`` as text, or :data:`UNTRAINED`; ``song``, the cluster (:func:`cluster_of`); ``track``;
        ``region``, 0 by default; the records' metrics; and ``window`` and ``hop`` if the records have them, in s,
        infinite for a whole song.
    """
    frame = pd.DataFrame(records)
    system = next(name for name in NAMES if name in frame)
    frame = frame.rename(columns={system: "system"})
    seeds = frame["seed"].map(_seed_name) if "seed" in frame else UNTRAINED
    songs = frame["song"] if "song" in frame else frame["track"]
    songs = [cluster_of(track, song) for track, song in zip(frame["track"], songs, strict=True)]
    frame = frame.assign(seed=seeds, region=frame.get("region", 0), song=songs)
    spans = [name for name in ("window", "hop") if name in frame]
    return frame.assign(**{name: frame[name].astype(float).fillna(np.inf) for name in spans})


def _seed_name(seed: Any) -> str:
    """Return a seed as text. Where some seeds are missing, pandas has turned the others into floats."""
    return UNTRAINED if pd.isna(seed) else f"{seed:g}" if isinstance(seed, float) else str(seed)


def table(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one system's values of a metric: a row per track and region (:data:`ROWS`), a column per seed."""
    wide = frame.assign(value=frame[metric].astype(float)).pivot(index=ROWS, columns="seed", values="value")
    return wide[list(dict.fromkeys(frame["seed"]))]


def table_of(frame: pd.DataFrame, system: str, metric: str = "usdr") -> pd.DataFrame:
    """Return the :func:`table` of one system in a frame of :func:`tidy`; empty where the system was not scored."""
    return table(frame[frame["system"] == system], metric)


def tables(records: Sequence[Mapping[str, Any]] | pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Return the :func:`table` of a metric by system, in the records' order."""
    frame = records if isinstance(records, pd.DataFrame) else tidy(records)
    return {name: table(own, metric) for name, own in frame.groupby("system", sort=False)}


def differences(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Subtract one table of :func:`table` from another, row by row, and seed by seed where both have the seed.

    A system that is not trained has no seed; it is compared with every seed of the other. A row that one table lacks is
    NaN.

    Raises:
        ValueError: both were trained, under different seeds.
    """
    if list(second.columns) == [UNTRAINED]:
        return first.sub(second[UNTRAINED], axis=0)
    if list(first.columns) == [UNTRAINED]:
        return -second.sub(first[UNTRAINED], axis=0)
    seeds = [seed for seed in first.columns if seed in second.columns]
    if not seeds and first.size and second.size:
        raise ValueError(f"trained under other seeds: {', '.join(first.columns)} and {', '.join(second.columns)}")
    return first[seeds] - second[seeds]


def folds_of(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the fold of a cross-validation that tests each cluster, by a frame of :func:`tidy`; None without folds."""
    known = frame.dropna(subset="fold") if "fold" in frame else frame.iloc[:0]
    return None if known.empty else known.groupby("song")["fold"].first().to_dict()


def interval(
    values: pd.DataFrame, folds: Mapping[str, Any] | None = None, *, against: np.ndarray | None = None
) -> Interval:
    """Estimate the mean of a table of :func:`table` over clusters, seeds and, if given, ``folds`` (:func:`folds_of`).

    ``against`` marks the rows whose mean is subtracted from that of the others (:func:`bsm.stats.crossed_interval`).
    """
    owners = values.index.get_level_values("song")
    models = None if folds is None else [folds[name] for name in owners]
    return crossed_interval(values, owners, against=against, trainings=models)


def paired(
    first: pd.DataFrame, second: pd.DataFrame | None = None, folds: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compare two tables of :func:`table` by their :func:`differences`, or describe one table.

    With ``folds`` (:func:`folds_of`), the interval also covers the luck of the trainings of a cross-validation.

    Returns:
        The mean (of the differences) as ``estimate``, with its 95 % interval over clusters and seeds, ``low`` to
        ``high``, and the other fields of :class:`Interval`; the numbers of ``tracks``, clusters (``songs``, called
        ``unit`` in texts) and ``seeds``; and the ``verdict`` in words.
    """
    values = first if second is None else differences(first, second)
    found = interval(values, folds)
    whole = values.dropna()
    counts = {
        "tracks": len(whole),
        "songs": whole.index.get_level_values("song").nunique(),
        "unit": "singers" if any(map(mir1k.song_of, whole.index.get_level_values("track")[:1])) else "songs",
        "seeds": values.shape[1],
    }
    return found._asdict() | counts | {"verdict": verdict(found)}


def corrected(rows: Sequence[dict[str, Any]], *, more_is_better: bool = True) -> list[dict[str, Any]]:
    """Return records of :func:`paired` of one table, with verdicts that are corrected for their number (Holm, 1979)."""
    found = verdicts([Interval.of(row) for row in rows], more_is_better=more_is_better)
    return [row | {"verdict": said} for row, said in zip(rows, found, strict=True)]


def words(found: Interval | Mapping[str, Any] | None) -> str:
    """Write an estimate with its 95 % interval, ``1.97 [1.75, 2.19]``; a dash where there is none."""
    interval = Interval.of(found)
    return "–" if np.isnan(interval.estimate) else interval_words(interval, digits=2)


def covers(seeds: int, unit: str = "songs", folds: int = 1) -> str:
    """Say in a caption what intervals cover: clusters of tracks (``unit``), and training seeds if there are several.

    Args:
        seeds: under which each network was trained.
        unit: of the clusters, such as singers.
        folds: trainings of each seed, in a cross-validation.
    """
    if seeds > 1:
        apart = f" of {folds} trainings (folds) each" if folds > 1 else ""
        return f"95 % intervals over {unit} and {seeds} training seeds{apart}, the wider of bootstrap and t"
    if folds > 1:
        return f"95 % intervals over {unit} and the {folds} trainings (folds) of one seed, the wider of both"
    return f"95 % intervals over {unit} alone: with one training seed, a difference may be the luck of a training"


def how_many(count: int, noun: str) -> str:
    """Return a count and a noun, such as ``1 song`` or ``2 songs``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def counted(counts: Mapping[str, Any]) -> str:
    """Say over how many tracks a mean is taken, and of how many songs or singers and seeds if that adds anything."""
    tracks, songs = counts.get("tracks", counts["songs"]), counts["songs"]
    parts = f" of {songs} {counts.get('unit', 'songs')}" if songs != tracks else ""
    return f"n = {tracks}{parts}" + (f" x {counts['seeds']} seeds" if counts["seeds"] > 1 else "")
