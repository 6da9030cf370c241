"""Find when a source sounds: windows to train on, and the regions with vocals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bsm.errors import InputError

# Frames below this RMS (-80 dB of full scale) are silent, however quiet the recording is.
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
    """Find the windows in which a source sounds, by the author's source activity detection.

    Each window is cut into chunks. It is kept if, in every channel, more than half of its chunks have an RMS above
    ``max(q, floor)``; ``q`` is the given quantile of these chunks' RMS. In practice the floor decides, except for
    chunks of exactly equal RMS, as in a steady test tone. Samples after the last whole window are ignored, and so are
    samples after a window's last whole chunk. A recording shorter than a window is padded with zeros to one.

    Args:
        audio: ``(channels, samples)``, floating point.
        rate: samples per second.
        window: window length, s.
        hop: time between the starts of windows, s.
        chunks: chunks per window.
        quantile: 0 to 1.
        floor: lowest threshold, RMS relative to full scale.

    Returns:
        The first sample of each kept window, in rising order.

    Raises:
        InputError: ``audio`` is not ``(channels, samples)``, or the window has fewer samples than chunks.
    """
    audio = _checked(audio)
    length, step = round(window * rate), max(1, round(hop * rate))
    size = length // chunks
    if size < 1:
        raise InputError(f"a window of {window} s has {length} samples, too few for {chunks} chunks; lengthen it")
    if (missing := length - audio.shape[1]) > 0:
        audio = np.pad(audio, ((0, 0), (0, missing)))
    windows = np.lib.stride_tricks.sliding_window_view(audio, length, axis=1)[:, ::step, : chunks * size]
    parts = windows.reshape(*windows.shape[:2], chunks, size)  # a view: no sample is copied
    rms = np.sqrt(np.vecdot(parts, parts).astype(np.float64) / size)
    threshold = np.maximum(np.quantile(rms, quantile, axis=-1, keepdims=True), floor)
    kept = ((rms > threshold).mean(axis=-1) > 0.5).all(axis=0)
    return [int(start) for start in np.flatnonzero(kept) * step]


@dataclass(frozen=True)
class Region:
    """A stretch of time in which a voice sounds, in seconds."""

    start: float
    stop: float

    @property
    def duration(self) -> float:
        """The duration, s."""
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
    """Find the regions in which a voice sounds, in rising order and at least ``min_gap`` apart; none for silence.

    A frame sounds if its RMS exceeds ``threshold_db`` relative to the reference level: the 99th percentile of all
    frames above -80 dB of full scale. A percentile ignores single clicks; leaving out silent frames makes it the level
    of the singing, however rare. First, gaps shorter than ``min_gap`` s are closed. Then, regions shorter than
    ``min_length`` s are dropped.

    Args:
        vocals: the voice alone, ``(channels, samples)``.
        rate: samples per second.
        threshold_db: threshold, dB relative to the reference level.
        frame: frame length, s. Frames do not overlap. Regions start and end at their edges.
        min_gap: shortest pause that separates two regions, s.
        min_length: shortest region, s.

    Raises:
        InputError: ``vocals`` is not ``(channels, samples)``, or the frame is shorter than a sample.
    """
    samples = _checked(vocals).shape[1]
    rms, size = frame_rms(vocals, rate, frame), round(frame * rate)
    active = rms > sounding_threshold(rms, threshold_db)
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


def frame_rms(audio: np.ndarray, rate: int, frame: float = 0.02) -> np.ndarray:
    """Return the RMS of each frame over all channels; the last frame may be shorter.

    Raises:
        InputError: ``audio`` is not ``(channels, samples)``, or the frame is shorter than a sample.
    """
    audio = _checked(audio)
    samples, size = audio.shape[1], round(frame * rate)
    if size < 1:
        raise InputError(f"a frame of {frame} s has no sample at {rate} Hz; choose a longer frame")
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    starts = np.arange(0, samples, size)
    return np.sqrt(np.add.reduceat(power, starts) / np.minimum(size, samples - starts))


def sounding_threshold(rms: np.ndarray, threshold_db: float = -40.0) -> float:
    """Return the RMS above which a frame sounds, from the RMS of all frames. See :func:`vocal_regions`."""
    sounding = rms[rms > _SILENCE]
    loudest = np.percentile(sounding, 99) if len(sounding) else 0.0
    return max(float(loudest) * 10 ** (threshold_db / 20), _SILENCE)


def vocal_share(regions: Sequence[Region], seconds: float) -> float:
    """Return the share of ``seconds`` that the regions cover, 0 to 1.

    Raises:
        InputError: ``seconds`` is not positive.
    """
    if seconds <= 0:
        raise InputError(f"a share needs a positive length, not {seconds} s")
    return sum(region.duration for region in regions) / seconds


def _checked(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise InputError(f"audio has shape {audio.shape}; give (channels, samples), at least one sample")
    return audio
