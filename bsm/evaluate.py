"""Score separators on a data set, track by track."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from bsm.data.tracks import Track
from bsm.metrics import csdr_frames, ideal_ratio_mask, si_sdr, usdr
from bsm.model import BSMamba2
from bsm.separate import separate

Separator = Callable[[Track], np.ndarray]
"""Gives the estimated vocals of a track, ``(channels, samples)`` at the track's rate."""


def model_separator(model: BSMamba2, **options: Any) -> Separator:
    """Return :func:`bsm.separate.separate` with a model and its options fixed."""
    return lambda track: separate(model, torch.from_numpy(track.mixture()), track.rate, **options).numpy()


BASELINES: dict[str, Separator] = {
    "mixture": lambda track: track.mixture(),
    "silence": lambda track: np.zeros_like(track.mixture()),
    "ideal ratio mask": lambda track: ideal_ratio_mask(track.mixture(), track.read("vocals"), track.accompaniment()),
}
"""What a score is read against: no separation, no output, and an oracle that is shown the sources."""


def score(reference: np.ndarray, estimate: np.ndarray, rate: int) -> dict[str, Any]:
    """Score one estimate: uSDR, cSDR, SI-SDR in dB, and the per-second values behind cSDR.

    NaN stands for what is undefined: cSDR of a track without vocals, say.
    """
    frames = np.asarray(csdr_frames(reference, estimate, rate))
    return {
        "usdr": usdr(reference, estimate),
        "csdr": float(np.nanmedian(frames)) if not np.isnan(frames).all() else float("nan"),
        "si_sdr": si_sdr(reference, estimate),
        "csdr_frames": frames.tolist(),
    }


def evaluate(tracks: Sequence[Track], separators: dict[str, Separator], *, processes: int = 2) -> list[dict[str, Any]]:
    """Separate and score every track with every separator.

    Separation runs here, one track at a time; scoring, which museval makes slow, runs in other processes meanwhile.

    Args:
        tracks: what to evaluate.
        separators: by name.
        processes: that score.

    Returns:
        One record per track and separator: ``track``, ``separator`` and the scores of :func:`score`.
    """
    jobs: Iterable[tuple[Track, str]] = [(track, name) for track in tracks for name in separators]
    records = []
    # Spawned, not forked: a fork would inherit the locks of PyTorch's threads.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = []
        for track, name in tqdm(jobs, desc="separate", unit="track"):
            estimate = separators[name](track)
            pending.append((track.name, name, pool.submit(score, track.read("vocals"), estimate, track.rate)))
        for track_name, name, scores in tqdm(pending, desc="score", unit="track"):
            records.append({"track": track_name, "separator": name} | scores.result())
    return records
