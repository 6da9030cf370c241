"""Loading of training data: by workers, whole files or segments, WAV or FLAC, spectrograms kept on disk or made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from bsm import audio
from bsm.config import LossConfig, StftConfig
from bsm.data.mixing import MixingDataset
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.study.speed.timer import SEED, Rounds, repeated

WORKERS = (0, 1, 2, 4)
SONGS = 24  # used at most: as many as the demo trains on
DRAWN = 8  # segments of one source that are read in a round
LOADER, READ, SPECTROGRAM = "loader", "read", "spectrogram"
RESTARTED = "2 workers, started anew every round"  # as the optimisation report found them: its 4 live on


class Transform(NamedTuple):
    """A spectrogram: samples of the transform, of its Hann window, and from frame to frame."""

    n_fft: int
    window: int
    hop: int


def _transforms() -> dict[str, list[Transform]]:
    """The paper's spectrograms of one waveform: the network's, and those in which its loss compares."""
    stft, loss = StftConfig(), LossConfig()
    return {
        "network's": [Transform(stft.n_fft, stft.n_fft, stft.hop_length)],
        "loss's": [Transform(max(window, loss.min_fft), window, loss.hop_length) for window in loss.windows],
    }


def loading(
    tracks: Sequence[Track], seconds: Sequence[float] = (1.0,), *, repeats: int = 9, batch: int = 2, items: int = 200
) -> dict[str, Any]:
    """Measure how fast training segments come, and what makes them come faster.

    Every round reads the same segments, so that their files lie in memory (the page cache), except where they are said
    to be on disk: then they are dropped from memory before each round, which only Linux can do. Files made for the
    purpose lie in the system's temporary folder; ``TMPDIR`` chooses another disk.

    Args:
        tracks: songs of equal rate, channels and source names; the first :data:`SONGS` are used.
        seconds: lengths of a segment, s.
        repeats: rounds.
        batch: mixtures in a batch of the loader.
        items: mixtures that the loader gives in a round.

    Returns:
        ``speed``: one record per length, part and case: ``segments`` of a round, ``seconds`` of every round, and
        ``bytes`` of a segment's files, or of its part of a file (None of the loader).
        ``cores``: the machine's processor cores.

    Raises:
        InputError: no songs, or segments longer than a song or shorter than half a transform.
    """
    tracks = tracks[:SONGS]
    longest = min((track.samples for track in tracks), default=0)
    shortest = max(t.n_fft for wanted in _transforms().values() for t in wanted) // 2 + 1
    speed = []
    for span in tqdm(seconds, desc="data loading", unit="length"):
        segment = round(span * tracks[0].rate) if tracks else 0
        if not shortest <= segment <= longest:
            raise InputError(f"segments of {segment} samples cannot be measured here; choose {shortest} to {longest}")
        records = _loaders(tracks, segment, repeats, batch, items)
        with _copies(tracks, segment) as copies:
            records += _reads(copies, repeats)
            for kind, wanted in _transforms().items():
                records += _spectrograms(copies, kind, wanted, repeats)
        speed += [{"audio_seconds": span} | record for record in records]
    return {"speed": speed, "cores": os.cpu_count()}


def _loaders(tracks: Sequence[Track], segment: int, repeats: int, batch: int, items: int) -> list[dict[str, Any]]:
    """Time batches of mixtures from loaders whose workers live on from round to round, but for one."""
    mixtures = MixingDataset(tracks, segment=segment, seed=SEED, length=items)
    loaders = {
        f"{n} workers": DataLoader(mixtures, batch_size=batch, num_workers=n, persistent_workers=n > 0) for n in WORKERS
    }
    loaders[RESTARTED] = DataLoader(mixtures, batch_size=batch, num_workers=2)
    reading = {case: partial(_each, lambda _: None, loader) for case, loader in loaders.items()}
    times = repeated(reading, repeats, waits=True)
    return [_record(LOADER, case, times, items) for case in loaders]


class _Copy(NamedTuple):
    """A song's vocals in a file of each format, and where the segment lies that is to be read."""

    wav: Path
    flac: Path
    start: int
    stop: int

    def read(self, suffix: str) -> np.ndarray:
        return audio.read(getattr(self, suffix), start=self.start, stop=self.stop)[0]

    def cut(self, suffix: str) -> np.ndarray:
        return audio.read(getattr(self, suffix))[0][:, self.start : self.stop]

    def bytes(self, suffix: str) -> float:
        path = getattr(self, suffix)
        return path.stat().st_size * (self.stop - self.start) / audio.info(path).samples

    def transform(self, wanted: Sequence[Transform]) -> list[Tensor]:
        wave = torch.from_numpy(self.read("wav"))
        windows = [torch.hann_window(t.window) for t in wanted]
        return [
            torch.stft(wave, t.n_fft, t.hop, t.window, window, return_complex=True)
            for t, window in zip(wanted, windows, strict=True)
        ]


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


def _reads(copies: Sequence[_Copy], repeats: int) -> list[dict[str, Any]]:
    """Time getting a segment by reading it alone, and by reading its whole file and cutting it out."""
    functions: dict[str, Callable[[], None]] = {}
    for suffix in ("wav", "flac"):
        functions[f"{suffix}, whole file"] = partial(_each, lambda copy, suffix=suffix: copy.cut(suffix), copies)
        functions[f"{suffix}, segment"] = partial(_each, lambda copy, suffix=suffix: copy.read(suffix), copies)
    times = repeated(functions, repeats, waits=True)
    sizes = {suffix: round(np.mean([copy.bytes(suffix) for copy in copies])) for suffix in ("wav", "flac")}
    return [_record(READ, case, times, len(copies), sizes[case.split(",")[0]]) for case in functions]


def _spectrograms(
    copies: Sequence[_Copy], kind: str, wanted: Sequence[Transform], repeats: int
) -> list[dict[str, Any]]:
    """Time getting a segment's spectrograms: read as complex64 arrays, or made of its audio; one thread, as a worker.

    An array holds just the segment's frames. One of a whole song would differ at the segment's ends, where the paper's
    transforms reflect the waveform.
    """
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        kept: list[list[Path]] = []
        for number, copy in enumerate(copies):
            kept.append([Path(folder) / f"{number}-{i}.npy" for i in range(len(wanted))])
            for path, spectrogram in zip(kept[-1], copy.transform(wanted), strict=True):
                np.save(path, spectrogram.numpy())
        sounds, arrays = [copy.wav for copy in copies], [path for paths in kept for path in paths]
        make = partial(_each, lambda copy: copy.transform(wanted), copies)
        load = partial(_each, lambda paths: [np.load(path) for path in paths], kept)
        functions = {f"{kind}, made, files in memory": make, f"{kind}, kept, files in memory": load}
        if hasattr(os, "posix_fadvise"):
            functions |= {
                "forget sounds": partial(_each, _forget, sounds),
                f"{kind}, made, files on disk": make,
                "forget arrays": partial(_each, _forget, arrays),
                f"{kind}, kept, files on disk": load,
            }
        times = repeated(functions, repeats, waits=True)
        sizes = {
            "made": round(np.mean([copy.bytes("wav") for copy in copies])),
            "kept": sum(path.stat().st_size for path in arrays) // len(copies),
        }
    cases = [case for case in functions if not case.startswith("forget")]
    return [_record(SPECTROGRAM, case, times, len(copies), sizes[case.split(", ")[1]]) for case in cases]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _forget(path: Path) -> None:
    """Drop a file from memory; what is not yet written to the disk could not be dropped, so it is written first."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> None:
    for item in items:
        function(item)


def _record(part: str, case: str, times: Rounds, segments: int, size: int | None = None) -> dict[str, Any]:
    return {"part": part, "case": case, "segments": segments, "bytes": size} | times.of(case)
