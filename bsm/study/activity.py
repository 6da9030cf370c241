"""The picture of the vocal activity detection: levels, threshold, and what it took for singing."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from bsm.activity import Region, frame_rms, sounding_threshold, vocal_regions
from bsm.study.figures import COLOURS, mark_regions

LABELS = ("level", "threshold")


def level_plot(
    ax: Axes, vocals: np.ndarray, rate: int, *, threshold_db: float = -40.0, frame: float = 0.02, **options: float
) -> list[Region]:
    """Draw the level of a voice in dB of full scale, the detection's threshold, and the vocal regions shaded.

    Args:
        ax: where to draw.
        vocals: the voice alone, ``(channels, samples)``.
        rate: samples per second.
        threshold_db: see :func:`bsm.activity.vocal_regions`.
        frame: frame length, s.
        options: further parameters of :func:`bsm.activity.vocal_regions`.

    Returns:
        The regions.
    """
    rms = frame_rms(vocals, rate, frame)
    regions = vocal_regions(vocals, rate, threshold_db=threshold_db, frame=frame, **options)
    seconds = vocals.shape[1] / rate
    times = np.minimum((np.arange(len(rms)) + 0.5) * frame, seconds)
    mark_regions(ax, [(r.start, r.stop) for r in regions], label=f"vocal regions (n = {len(regions)})")
    ax.plot(times, _db(rms), color=COLOURS["blue"], linewidth=0.8, label=LABELS[0])
    ax.axhline(_db(sounding_threshold(rms, threshold_db)), color=COLOURS["vermilion"], linestyle="--", label=LABELS[1])
    ax.set(xlabel="time (s)", ylabel="level (dB of full scale)", xlim=(0, seconds), ylim=(-100, 0))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return regions


def _db(rms: np.ndarray | float) -> np.ndarray | float:
    return 20 * np.log10(np.maximum(rms, 1e-5))
