"""Find when a source sounds: windows to train on, and the regions with vocals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bsm.errors import InputError

# The author's source activity detection: chunks per window, the quantile of their RMS, and the lowest threshold (RMS
# relative to full scale).
_CHUNKS, _QUANTILE, _FLOOR = 10, 0.15, 1e-3
_SILENCE = 1e-4  # RMS of -80 dB of full scale: a frame below it is silent, however quiet the recording is
_FRAME = 0.02  # length of a frame, s
_SHORTEST_GAP, _SHORTEST_REGION = 0.2, 0.1  # s


def active_windows(audio: np.ndarray, rate: int, *, window: float = 8.0, hop: float = 4.0) -> list[int]:
    """Find the windows in which a source sounds, by the author's source activity detection.

    Each window is cut into 10 chunks. It is kept if, in every channel, more than half of its chunks have an RMS above
    ``max(q, 0.001)``; ``q`` is the 0.15 quantile of these chunks' RMS. In practice 0.001 decides, except for chunks of
    exactly equal RMS, as in a steady test tone. Samples after the last whole window are ignored, and so are samples
    after a window's last whole chunk. A recording shorter than a window is padded with zeros to one window.

    Args:
        audio: ``(channels, samples)``, floating point.
        rate: samples per second.
        window: window length, s.
        hop: time between the starts of windows, s.

    Returns:
        The first sample of each kept window, in rising order.

    Raises:
        InputError: ``audio`` is not ``(channels, samples)``, or the window has fewer samples than chunks.
    """
    audio = _checked(audio)
    length, step = round(window * rate), max(1, round(hop * rate))
    size = length // _CHUNKS
    if size < 1:
        raise InputError(f"a window of {window} s has {length} samples, too few for {_CHUNKS} chunks; lengthen it")
    if (missing := length - audio.shape[1]) > 0:
        audio = np.pad(audio, ((0, 0), (0, missing)))
    windows = np.lib.stride_tricks.sliding_window_view(audio, length, axis=1)[:, ::step, : _CHUNKS * size]
    parts = windows.reshape(*windows.shape[:2], _CHUNKS, size)  # a view: no sample is copied
    rms = np.sqrt(np.vecdot(parts, parts).astype(np.float64) / size)
    threshold = np.maximum(np.quantile(rms, _QUANTILE, axis=-1, keepdims=True), _FLOOR)
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


def vocal_regions(vocals: np.ndarray, rate: int, *, threshold_db: float = -40.0) -> list[Region]:
    """Find the regions in which a voice sounds, in rising order; none for silence.

    The voice is cut into frames of 20 ms. A frame sounds if its RMS exceeds the reference level by ``threshold_db``.
    The reference level is the 99th percentile of all frames above -80 dB of full scale. A percentile ignores single
    clicks. Leaving out silent frames makes it the level of the singing, however rare. First, gaps shorter than 0.2 s
    are closed. Then, regions shorter than 0.1 s are dropped. Regions start and end at the edges of frames.

    Args:
        vocals: the voice alone, ``(channels, samples)``.
        rate: samples per second.
        threshold_db: threshold, dB relative to the reference level.

    Raises:
        InputError: ``vocals`` is not ``(channels, samples)``, or a frame is shorter than a sample.
    """
    rms, size = frame_rms(vocals, rate), round(_FRAME * rate)
    sounding = rms[rms > _SILENCE]
    reference = np.percentile(sounding, 99) if len(sounding) else 0.0
    active = rms > max(reference * 10 ** (threshold_db / 20), _SILENCE)
    steps = np.diff(np.concatenate([[0], active.astype(np.int8), [0]]))
    spans = zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True)
    merged: list[list[int]] = []  # first and last sample of each region
    for first, last in spans:
        begin, end = int(first) * size, min(int(last) * size, np.shape(vocals)[1])
        if merged and begin - merged[-1][1] < _SHORTEST_GAP * rate:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return [Region(begin / rate, end / rate) for begin, end in merged if end - begin >= _SHORTEST_REGION * rate]


def frame_rms(audio: np.ndarray, rate: int, frame: float = _FRAME) -> np.ndarray:
    """Return the RMS of each frame over all channels. Frames of ``frame`` s do not overlap; the last may be shorter.

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


def vocal_share(regions: Sequence[Region], seconds: float) -> float:
    """Return the share of ``seconds`` that the regions cover, 0 to 1; a length of 0 or less is an InputError."""
    if seconds <= 0:
        raise InputError(f"a share needs a positive length, not {seconds} s")
    return sum(region.duration for region in regions) / seconds


def _checked(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise InputError(f"audio has shape {audio.shape}; give (channels, samples), at least one sample")
    return audio
