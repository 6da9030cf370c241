"""Loading of training data: by workers, whole files or segments, WAV or FLAC."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
ITEMS, BATCH = 200, 2  # mixtures that a loader gives in a round, and in a batch
DRAWN = 8  # segments of one source read in a round
RESTARTED = "2 workers, started anew every round"  # the optimisation report's case before; its 4 workers persist


def loading(tracks: Sequence[Track], seconds: Sequence[float], *, repeats: int) -> dict[str, Any]:
    """Measure how fast training segments come, and what makes them come faster.

    Every round reads the same segments, so that their files lie in memory (the page cache).

    Args:
        tracks: songs of equal rate, channels and source names; the first :data:`SONGS` are used.
        seconds: lengths of a segment, s.
        repeats: rounds.

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
        with tempfile.TemporaryDirectory() as folder:
            starts = _copies(tracks, segment, Path(folder))
            cases = (_loaders(tracks, segment), ITEMS), (_reads(starts, segment), len(starts))
            for functions, segments in cases:
                times = repeated(functions, repeats, waits=True)
                speed += times.records("case", {"audio_seconds": span, "segments": segments})
    return {"speed": speed, "cores": os.cpu_count()}


def _loaders(tracks: Sequence[Track], segment: int) -> dict[str, Callable[[], Any]]:
    """Return functions that load mixtures: with persistent workers, and with workers started anew every round."""
    load = partial(DataLoader, MixingDataset(tracks, segment=segment, seed=SEED, length=ITEMS), batch_size=BATCH)
    loaders = {f"{n} workers": load(num_workers=n, persistent_workers=n > 0) for n in WORKERS}
    loaders[RESTARTED] = load(num_workers=2)
    return {case: partial(deque, loader, maxlen=0) for case, loader in loaders.items()}  # which keeps nothing


def _copies(tracks: Sequence[Track], segment: int, folder: Path) -> dict[Path, int]:
    """Write the vocals of some songs as 16-bit WAV and FLAC; draw a segment of each.

    Returns:
        The segment's first sample, by the path of the WAV file. The FLAC file lies next to it.
    """
    rng, starts = np.random.default_rng(SEED), {}
    for number in rng.choice(len(tracks), min(DRAWN, len(tracks)), replace=False):
        track, path = tracks[number], folder / f"{number}.wav"
        starts[path] = int(rng.integers(track.samples - segment + 1))
        for copy in (path, path.with_suffix(".flac")):
            audio.write(copy, track.read(VOCALS).clip(-1, 1), track.rate, subtype="PCM_16")
    return starts


def _reads(starts: Mapping[Path, int], segment: int) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Return functions that get the segments: by reading them alone, and by cutting them out of their whole files."""

    def alone(suffix: str) -> list[np.ndarray]:
        return [audio.read(p.with_suffix(suffix), start=s, stop=s + segment)[0] for p, s in starts.items()]

    def cut(suffix: str) -> list[np.ndarray]:
        return [audio.read(p.with_suffix(suffix))[0][:, s : s + segment] for p, s in starts.items()]

    functions = {"whole file": cut, "segment": alone}
    return {f"{kind}, {how}": partial(f, f".{kind}") for kind in ("wav", "flac") for how, f in functions.items()}
