"""What a recording holds: length, level, and where somebody sings."""

from __future__ import annotations

from typing import Any

import numpy as np

from bsm.activity import vocal_regions, vocal_share
from bsm.data.tracks import Track


def describe(track: Track) -> dict[str, Any]:
    """Describe a track.

    Returns:
        ``track``, ``split``, ``seconds``, ``mixture_db`` (RMS re full scale), ``vocals_to_rest_db`` (energy ratio of
        vocals to accompaniment over the whole track), ``vocal_share``, and ``regions``: (onset, offset) in s of every
        vocal region.
    """
    vocals, rest = track.read("vocals"), track.accompaniment()
    regions = vocal_regions(vocals, track.rate)
    return {
        "track": track.name,
        "split": track.split,
        "seconds": track.seconds,
        "mixture_db": _db(np.square(track.mixture(), dtype=np.float64).mean()),
        "vocals_to_rest_db": _db(np.square(vocals, dtype=np.float64).sum())
        - _db(np.square(rest, dtype=np.float64).sum()),
        "vocal_share": vocal_share(regions, track.seconds),
        "regions": [(region.start, region.stop) for region in regions],
    }


def _db(power: float) -> float:
    return float(10 * np.log10(power + 1e-12))
