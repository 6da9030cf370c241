"""A description of a profile's songs: their length and loudness, when somebody sings, and how loud the voice is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from bsm.activity import vocal_regions
from bsm.data.describe import describe
from bsm.data.tracks import Track
from bsm.study import figures

CLIP = "real clip"
"""The ``split`` in records of the one real recording."""


def describe_all(tracks: dict[str, list[Track]], clip: Track, threshold_db: float) -> list[dict[str, Any]]:
    """Describe every song and the real clip; ``threshold_db`` is that of :func:`bsm.activity.vocal_regions`."""
    songs = [track for split in tracks.values() for track in split]
    records = [describe(track, threshold_db=threshold_db) for track in tqdm(songs, desc="describe", unit="song")]
    return [*records, describe(clip, threshold_db=threshold_db) | {"split": CLIP}]


def durations(records: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the lengths of all vocal regions, s."""
    return np.array([stop - start for record in records for start, stop in record["regions"]])


def table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per split: number of songs, their length, loudness and vocal regions."""
    splits = pd.DataFrame(records).groupby("split", sort=False)
    lengths = {split: pd.Series(durations(own.to_dict("records"))) for split, own in splits}
    means = splits[["lufs", "vocal_share", "vocals_to_rest_db"]].mean()
    means.columns = ["loudness (LUFS)", "vocal share", "vocals to rest (dB)"]
    found = pd.DataFrame({"songs": splits.size(), "minutes": splits["seconds"].sum() / 60}).join(means)
    found["vocal regions"] = [len(lengths[split]) for split in found.index]
    found["of them below 1 s"] = [int((lengths[split] < 1).sum()) for split in found.index]
    found["median region (s)"] = [lengths[split].median() for split in found.index]
    return found


@figures.style()
def figure_of_regions(records: Sequence[dict[str, Any]], most: int) -> Figure:
    """Draw when somebody sings in some test songs and the clip, and the durations of all songs' vocal regions."""
    clip = [record for record in records if record["split"] == CLIP]
    shown = [record for record in records if record["split"] == "test"][:most] + clip
    blue = figures.COLOURS["blue"]
    size = (7.5, 2.5 + 0.35 * len(shown))
    drawn, (timeline, histogram) = plt.subplots(2, 1, figsize=size, height_ratios=[3, 2])
    for row, record in enumerate(shown):
        timeline.broken_barh([(a, b - a) for a, b in record["regions"]], (row - 0.35, 0.7), color=blue, linewidth=0)
    timeline.set(yticks=range(len(shown)), yticklabels=[r["track"] for r in shown], xlabel="time (s)", xlim=(0, None))
    timeline.set_title(f"Vocal regions of {len(shown) - len(clip)} test songs and the real clip")
    timeline.invert_yaxis()
    lengths = durations([record for record in records if record["split"] != CLIP])
    histogram.hist(
        lengths, bins=np.geomspace(0.1, max(20.0, lengths.max(initial=0)), 24), color=blue, edgecolor="white"
    )
    histogram.set(xscale="log", xlabel="duration of a vocal region (s)", ylabel="vocal regions")
    histogram.set_xticks([0.1, 0.3, 1, 3, 10], labels=["0.1", "0.3", "1", "3", "10"])
    histogram.set_title(f"Durations of all {len(lengths)} vocal regions of the songs")
    return drawn


@figures.style()
def figure_of_levels(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw the mixtures' loudness, and how strong the voice is against how much of the song is sung, by split."""
    frame = pd.DataFrame([record for record in records if record["split"] != CLIP])
    drawn, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3))
    edges = np.histogram_bin_edges(frame["lufs"].dropna(), 12)
    for name, own in frame.groupby("split", sort=False):
        left.hist(own["lufs"].dropna(), edges, histtype="step", label=f"{name}: {len(own)} songs", linewidth=1.5)
        right.plot(100 * own["vocal_share"], own["vocals_to_rest_db"], "o", markersize=4, alpha=0.6, label=name)
    left.set(xlabel="integrated loudness (LUFS)", ylabel="songs", title="Loudness of the mixtures")
    left.yaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="time with vocals (%)", ylabel="vocals to rest (dB)", title="Share and strength of the voice")
    figures.legend_above(drawn, left)
    return drawn


@figures.style()
def figure_of_song(track: Track, threshold_db: float) -> Figure:
    """Draw the spectrograms of a song's mixture and vocals, its vocal regions shaded."""
    regions = vocal_regions(track.read("vocals"), track.rate, threshold_db=threshold_db)
    signals = {"mixture": track.mixture(), "vocals": track.read("vocals")}
    return figures.spectrograms(track.name, signals, track.rate, [(region.start, region.stop) for region in regions])
