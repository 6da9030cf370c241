"""When a source sounds: windows worth training on, and the regions in which somebody sings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bsm.errors import InputError

# Frames below this RMS (-80 dB of full scale) are silence whatever the recording's loudest frame is.
_SILENCE = 1e-4


def active_windows(
    audio: np.ndarray,
    rate: int,
    *,
    window: float = 8.0,
    hop: float = 4.0,
    chunks: int = 10,
    quantile: float = 0.15,
    floor: float = 1e-3,
) -> list[int]:
    """Find the windows of a source in which it sounds (the author's source activity detection).

    A window of ``window`` seconds starts every ``hop`` seconds and is cut into ``chunks`` chunks. It is kept when more
    than half of its chunks have an RMS above ``max(q, floor)``. The paper's code speaks of "their 0.15 quantile"; read
    here as: ``q`` is that quantile over all chunks of all windows, so that a recording has one threshold.
    Samples after the last whole window belong to none; a recording shorter than a window is one, padded with zeros.

    Args:
        audio: ``(channels, samples)``.
        rate: samples per second.
        window: window length, s.
        hop: time between the starts of windows, s.
        chunks: chunks per window; samples that do not fill the last chunk are left out.
        quantile: see above, 0 to 1.
        floor: lowest threshold, RMS of full scale.

    Returns:
        The first sample of each window kept, in rising order.

    Raises:
        InputError: audio that is not ``(channels, samples)``, or a window too short for its chunks.
    """
    audio = _checked(audio)
    length, step = round(window * rate), max(1, round(hop * rate))
    chunk = length // chunks
    if chunk < 1:
        raise InputError(f"a window of {window} s has {length} samples, too few for {chunks} chunks; make it longer")
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    power = np.pad(power, (0, max(0, length - len(power))))
    starts = np.arange(0, len(power) - length + 1, step)
    energy = np.concatenate([[0.0], np.cumsum(power)])
    edges = starts[:, None] + np.arange(chunks + 1) * chunk
    # A difference of running sums can fall just below zero in silence.
    rms = np.sqrt(np.diff(energy[edges], axis=1).clip(min=0) / chunk)
    threshold = max(float(np.quantile(rms, quantile)), floor)
    return [int(start) for start in starts[(rms > threshold).mean(axis=1) > 0.5]]


@dataclass(frozen=True)
class Region:
    """A stretch of time ``[start, stop)``, in seconds."""

    start: float
    stop: float

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.stop - self.start


def vocal_regions(
    vocals: np.ndarray,
    rate: int,
    *,
    threshold_db: float = -40.0,
    frame: float = 0.02,
    min_gap: float = 0.2,
    min_length: float = 0.1,
) -> list[Region]:
    """Find the occurrences of a voice: stretches that are loud enough, with short pauses counted in.

    A frame sounds when its RMS exceeds ``threshold_db`` relative to the 99th percentile of the recording's frames above
    -80 dB of full scale (a percentile, so that one click does not set it; of those frames only, so that it is the level
    of the singing however rare that is). Gaps shorter than ``min_gap`` are closed first, then regions shorter than
    ``min_length`` dropped.

    Args:
        vocals: the voice alone, ``(channels, samples)``.
        rate: samples per second.
        threshold_db: dB relative to the loudest frames.
        frame: frame length, s; frames do not overlap, and region edges lie on them.
        min_gap: shortest pause that separates two regions, s.
        min_length: shortest region, s.

    Returns:
        Regions in rising order, apart by at least ``min_gap``; none for silence.

    Raises:
        InputError: audio that is not ``(channels, samples)``, or a frame shorter than a sample.
    """
    vocals = _checked(vocals)
    samples, size = vocals.shape[1], round(frame * rate)
    if size < 1:
        raise InputError(f"a frame of {frame} s has no sample at {rate} Hz; make it longer")
    power = np.square(vocals, dtype=np.float64).mean(axis=0)
    starts = np.arange(0, samples, size)
    lengths = np.minimum(size, samples - starts)
    rms = np.sqrt(np.add.reduceat(power, starts) / lengths)
    sounding = rms[rms > _SILENCE]
    if not len(sounding):
        return []
    active = rms > max(np.percentile(sounding, 99) * 10 ** (threshold_db / 20), _SILENCE)
    steps = np.diff(np.concatenate([[0], active.astype(np.int8), [0]]))
    spans = zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True)
    merged: list[list[int]] = []  # first and last sample of each region
    for first, last in spans:
        begin, end = int(first) * size, min(int(last) * size, samples)
        if merged and begin - merged[-1][1] < min_gap * rate:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return [Region(begin / rate, end / rate) for begin, end in merged if end - begin >= min_length * rate]


def vocal_share(regions: Sequence[Region], seconds: float) -> float:
    """Return the part of ``seconds`` that the regions cover, 0 to 1.

    Raises:
        InputError: a length that is not positive.
    """
    if seconds <= 0:
        raise InputError(f"a share needs a positive length, not {seconds} s")
    return sum(region.duration for region in regions) / seconds


def _checked(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise InputError(f"audio has shape {audio.shape}; give (channels, samples), at least one sample")
    return audio
