"""Windows that songs are separated in: their length and overlap, and songs cut off after their last whole window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bsm.audio import AudioInfo
from bsm.data.tracks import VOCALS, Source, Track
from bsm.errors import InputError

WHOLE = "whole"
"""In a list of windows: the whole song in one pass."""


@dataclass(frozen=True)
class Condition:
    """How a song is cut into windows: ``window`` is their length in s, infinite for the whole song; ``hop`` in s."""

    window: float
    hop: float

    @property
    def options(self) -> dict[str, Any]:
        """Options of :func:`bsm.inference.separate`."""
        return {"whole": True} if math.isinf(self.window) else {"window": self.window, "hop": self.hop}


def conditions(windows: Sequence[Any], overlapped: Sequence[Any], trained: Sequence[float]) -> list[Condition]:
    """Return the conditions to measure: without overlap from short to long, then with an overlap of half a window.

    Args:
        windows: lengths in s, or :data:`WHOLE`.
        overlapped: lengths in s that are measured with and without overlap.
        trained: lengths of the training's segments in s; they are measured, too.

    Raises:
        InputError: a window is neither a positive number nor ``whole``, or ``whole`` is to be overlapped.
    """
    again = sorted({_seconds("overlap_windows", w) for w in overlapped})
    if math.inf in again:
        raise InputError(f"overlap_windows: {WHOLE!r} is one window and has no other to overlap; give seconds")
    plain = sorted({_seconds("windows", w) for w in windows} | {float(t) for t in trained} | set(again))
    return [Condition(w, w) for w in plain] + [Condition(w, w / 2) for w in again]


def _seconds(name: str, window: Any) -> float:
    if window == WHOLE:
        return math.inf
    if isinstance(window, bool) or not isinstance(window, int | float) or not 0 < window < math.inf:
        raise InputError(f"{name}: a window is a positive number of seconds, or {WHOLE!r}, not {window!r}")
    return float(window)


def shown(window: float | None) -> str:
    """Return a window's name for tables; None, as in result files, is the whole song, like infinity."""
    return "whole song" if window is None or not math.isfinite(window) else f"{window:g} s"


@dataclass(frozen=True)
class _Beginning:
    """The first samples of a sound."""

    source: Source
    samples: int

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def info(self) -> AudioInfo:
        return AudioInfo(self.source.info.rate, self.source.info.channels, self.samples)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.source.read(start, self.samples if stop is None else min(stop, self.samples))


def whole_windows(track: Track, cut: Sequence[Condition]) -> tuple[Track, list[Condition]]:
    """Cut a song to a multiple of all windows; return it, and the conditions whose windows are not too long for that.

    In a last window that is padded with silence, the model sees less than the window's length.
    """
    windows = sorted({round(1000 * case.window) for case in cut if math.isfinite(case.window)})  # ms
    while windows and math.lcm(*windows) > 1000 * track.seconds:
        windows.pop()
    fitting = [case for case in cut if math.isinf(case.window) or round(1000 * case.window) in windows]
    if not windows:
        return track, fitting
    step = math.lcm(*windows)
    samples = int(1000 * track.seconds // step) * step * track.rate // 1000
    sources = {name: _Beginning(source, samples) for name, source in track.sources.items()}
    mixture = track.mixture_source and _Beginning(track.mixture_source, samples)
    return replace(track, sources=sources, mixture_source=mixture), fitting


def loudest(track: Track, seconds: float) -> tuple[int, int]:
    """Return start and end, in samples, of the ``seconds`` of a song in which its vocals have the most energy."""
    energy = np.square(track.read(VOCALS), dtype=np.float64).sum(0)
    size = min(round(seconds * track.rate), len(energy))
    before = np.concatenate([[0], np.cumsum(energy)])  # energy before each sample
    start = int((before[size:] - before[: len(before) - size]).argmax())
    return start, start + size
