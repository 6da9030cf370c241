"""Describe recordings: length, level, and where somebody sings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyloudnorm
from tqdm import tqdm

from bsm.activity import vocal_regions, vocal_share
from bsm.data import registry
from bsm.data.layouts import SPLITS, open_tracks
from bsm.data.tracks import VOCALS, Track, song_track


def describe(track: Track, *, threshold_db: float = -40.0) -> dict[str, Any]:
    """Describe a track. Somebody sings where the vocals exceed ``threshold_db`` (:func:`bsm.activity.vocal_regions`).

    Returns:
        ``track``, ``split``, ``seconds``; ``mixture_db``: RMS of the mixture in dB of full scale; ``lufs``: its
        :func:`loudness`; ``vocals_to_rest_db``: energy of the vocals in dB relative to the accompaniment's;
        ``vocal_share``: sung share of the track, 0 to 1; ``regions``: (onset, offset) in s of every vocal region.
    """
    mixture, vocals, rest = track.mixture(), track.read(VOCALS), track.accompaniment()
    regions = vocal_regions(vocals, track.rate, threshold_db=threshold_db)
    return {
        "track": track.name,
        "split": track.split,
        "seconds": track.seconds,
        "mixture_db": _db(np.square(mixture, dtype=np.float64).mean()),
        "lufs": loudness(mixture, track.rate),
        "vocals_to_rest_db": _db(np.square(vocals, dtype=np.float64).sum())
        - _db(np.square(rest, dtype=np.float64).sum()),
        "vocal_share": vocal_share(regions, track.seconds),
        "regions": [(region.start, region.stop) for region in regions],
    }


def loudness(sound: np.ndarray, rate: int) -> float:
    """Return the integrated loudness of ``(channels, samples)`` in LUFS (ITU-R BS.1770).

    It is NaN for silence, and for sounds shorter than one block of 0.4 s.
    """
    meter = pyloudnorm.Meter(rate)
    if sound.shape[1] < meter.block_size * rate:
        return float("nan")
    found = float(meter.integrated_loudness(sound.T.astype(np.float64)))
    return found if np.isfinite(found) else float("nan")


def table(target: str | Path) -> pd.DataFrame:
    """Describe the tracks of a known data set or a folder, a row each, with rate, channels and number of regions."""
    rows = []
    for track in tqdm(_tracks(registry.folder_of(target)), desc="describing", unit="song"):
        found = describe(track)
        rows.append(found | {"regions": len(found["regions"]), "rate": track.rate, "channels": track.channels})
    return pd.DataFrame(rows)


def _tracks(root: Path) -> list[Track]:
    if any(root.glob(f"{VOCALS}.*")):  # the folder of one song
        return [song_track(root, "test")]
    splits = [split for split in SPLITS if (root / split).is_dir()] or ["test"]
    layout, last = open_tracks(root, splits[-1])
    opened = {splits[-1]: last}
    if layout != "songs":  # a published data set has all splits, whatever folders it has
        splits = list(SPLITS)
    return [track for split in splits for track in opened.get(split) or open_tracks(root, split)[1]]


def _db(power: float) -> float:
    return float(10 * np.log10(power + 1e-12))
