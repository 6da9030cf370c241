"""Loading of training data: by workers, whole files or segments, WAV or FLAC."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from bsm import audio
from bsm.data.mixing import MixingDataset
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.study.speed.timer import SEED, repeated

WORKERS = (0, 2, 4)
SONGS = 24  # songs used at most: as many as the demo trains on
DRAWN = 8  # segments of one source read in a round
RESTARTED = "2 workers, started anew every round"  # the optimisation report's case before; its 4 workers persist


def loading(
    tracks: Sequence[Track], seconds: Sequence[float] = (1.0,), *, repeats: int = 9, batch: int = 2, items: int = 200
) -> dict[str, Any]:
    """Measure how fast training segments come, and what makes them come faster.

    Every round reads the same segments, so that their files lie in memory (the page cache).

    Args:
        tracks: songs of equal rate, channels and source names; the first :data:`SONGS` are used.
        seconds: lengths of a segment, s.
        repeats: rounds.
        batch: mixtures in a batch of the loader.
        items: mixtures that the loader gives in a round.

    Returns:
        ``speed``: one record per length and ``case``: ``segments`` of a round and its times. ``cores``: the machine's
        processor cores.

    Raises:
        InputError: no songs, or segments longer than a song.
    """
    tracks = tracks[:SONGS]
    longest = min((track.samples for track in tracks), default=0)
    speed = []
    for span in tqdm(seconds, desc="data loading", unit="length"):
        segment = round(span * tracks[0].rate) if tracks else 0
        if not 1 <= segment <= longest:
            raise InputError(f"segments of {segment} samples cannot be measured here; choose 1 to {longest}")
        with _copies(tracks, segment) as copies:
            for functions, segments in (
                (_loaders(tracks, segment, batch, items), items),
                (_reads(copies), len(copies)),
            ):
                times = repeated(functions, repeats, waits=True)
                speed += times.records("case", {"audio_seconds": span, "segments": segments})
    return {"speed": speed, "cores": os.cpu_count()}


def _loaders(tracks: Sequence[Track], segment: int, batch: int, items: int) -> dict[str, Callable[[], None]]:
    """Return functions that load mixtures: with persistent workers, and with workers started anew every round."""
    load = partial(DataLoader, MixingDataset(tracks, segment=segment, seed=SEED, length=items), batch_size=batch)
    loaders = {f"{n} workers": load(num_workers=n, persistent_workers=n > 0) for n in WORKERS}
    loaders[RESTARTED] = load(num_workers=2)
    return {case: partial(_each, lambda _: None, loader) for case, loader in loaders.items()}


class _Copy(NamedTuple):
    """A song's vocals in a file of each format, and the first and last sample of the segment to read."""

    wav: Path
    flac: Path
    start: int
    stop: int

    def read(self, suffix: str) -> np.ndarray:
        return audio.read(getattr(self, suffix), start=self.start, stop=self.stop)[0]

    def cut(self, suffix: str) -> np.ndarray:
        return audio.read(getattr(self, suffix))[0][:, self.start : self.stop]


@contextmanager
def _copies(tracks: Sequence[Track], segment: int) -> Iterator[list[_Copy]]:
    """Write the vocals of some songs as 16-bit files, and draw a segment of each."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for number in rng.choice(len(tracks), min(DRAWN, len(tracks)), replace=False):
            track, start = tracks[number], int(rng.integers(tracks[number].samples - segment + 1))
            wav, flac = (Path(folder) / f"{number}.{suffix}" for suffix in ("wav", "flac"))
            for path in (wav, flac):
                audio.write(path, track.read(VOCALS).clip(-1, 1), track.rate, subtype="PCM_16")
            copies.append(_Copy(wav, flac, start, start + segment))
        yield copies


def _reads(copies: Sequence[_Copy]) -> dict[str, Callable[[], None]]:
    """Return functions that get segments: by reading them alone, and by cutting them out of their whole files."""
    functions: dict[str, Callable[[], None]] = {}
    for suffix in ("wav", "flac"):
        functions[f"{suffix}, whole file"] = partial(_each, lambda copy, suffix=suffix: copy.cut(suffix), copies)
        functions[f"{suffix}, segment"] = partial(_each, lambda copy, suffix=suffix: copy.read(suffix), copies)
    return functions


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> None:
    for item in items:
        function(item)
