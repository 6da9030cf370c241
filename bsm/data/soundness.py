"""Whether a song is sound: its files are there, can be read to the end, fit each other, and hold what they should."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from bsm.data.musdb18 import STEMS
from bsm.data.registry import DataSet
from bsm.data.tracks import VOCALS, Source
from bsm.errors import InputError

MIXTURE, ACCOMPANIMENT = "mixture", "accompaniment"
STREAMS = (MIXTURE, *STEMS)  # of a stem file, in order
CLIP = (ACCOMPANIMENT, VOCALS)  # the channels of a clip, in order
_BLOCK = 60.0  # seconds read at a time
_SILENT = 2.0**-15  # a peak of one step of 16 bits, which dither makes out of nothing
_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 24, "FLOAT": 24, "DOUBLE": 24}  # as float32 holds them; others: 8


@dataclass(frozen=True)
class Finding:
    """Something to know about a data set.

    Attributes:
        where: the file or folder.
        what: what was found.
        fault: whether it makes the data set bad.
    """

    where: Path
    what: str
    fault: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Song:
    """A song as it was found, however bad.

    Attributes:
        place: its folder, or its file where one file holds all its parts.
        name: its name.
        parts: the sounds, by name; none where the file cannot be opened.
        coded: whether the mixture was coded apart from the sources, with loss, and so is not their sum.
    """

    place: Path
    name: str
    parts: dict[str, Source]
    coded: bool = False


def check_song(song: Song, rate: int, known: DataSet | None = None) -> list[Finding]:
    """Read a song from beginning to end, a minute at a time, and name everything that is wrong with it.

    The mixture counts as the sum of the sources where no sample differs from the clipped sum by more than one step of
    the coarsest file's sample format per file, for rounding moves each by at most one. How far a mixture that was coded
    apart is off is noted, not judged. A silent source is noted; silent vocals or a silent mixture are a fault.

    Args:
        song: what was found.
        rate: samples per second that it should have.
        known: the data set that it belongs to, which says what parts and channels it should have; without it, a song
            needs vocals only.
    """
    found = [*_missing(song, known)]
    readable = {}
    for name, part in song.parts.items():
        faults = list(_header(song, name, part, rate, known))
        found += faults
        if not any(fault.what.startswith("unreadable") for fault in faults):
            readable[name] = part
    whole = not found and len(readable) == len(song.parts)
    found += [*_lengths(song, readable), *_read(song, readable, summed=whole)]
    return list(dict.fromkeys(found))  # once for a file that holds several parts


def _missing(song: Song, known: DataSet | None) -> Iterator[Finding]:
    if song.place.is_file() and not song.parts:
        yield Finding(song.place, "unreadable: it has no audio streams or is damaged")
        return
    wanted = [VOCALS]
    if known:
        wanted = [*known.sources, *([MIXTURE] if known.mixture != "none" else [])]
    suffix = next((part.path.suffix for part in song.parts.values()), ".wav")
    for part in wanted:
        if part not in song.parts:
            where = song.place if song.place.is_file() else song.place / f"{part}{suffix}"
            yield Finding(where, f"missing: {'a song without vocals' if part == VOCALS else part}")


def _header(song: Song, name: str, part: Source, rate: int, known: DataSet | None) -> Iterator[Finding]:
    path = part.path
    try:
        found = part.info
    except InputError as error:
        yield _unreadable(path, error)
        return
    if (lacking := _lacking(path)) > 0:
        yield Finding(path, f"truncated: {lacking:,} bytes fewer than its header says")
    if found.rate != rate:
        yield Finding(path, f"{found.rate} Hz where the data set has {rate}")
    if known and found.channels != known.channels:
        yield Finding(path, f"{_label(song, name)}{found.channels} channel(s) where the data set has {known.channels}")


def _lengths(song: Song, parts: dict[str, Source]) -> Iterator[Finding]:
    if not parts:
        return
    usual, _ = Counter(part.info.samples for part in parts.values()).most_common(1)[0]
    for name, part in parts.items():
        if part.info.samples != usual:
            text = f"{part.info.samples} samples where the song's other files have {usual}"
            yield Finding(part.path, f"{_label(song, name)}{text}")


def _read(song: Song, parts: dict[str, Source], *, summed: bool) -> Iterator[Finding]:
    """Read all parts side by side, block by block; hold the mixture against the sum of the others where ``summed``."""
    peaks, sums = dict.fromkeys(parts, 0.0), _Sums(parts if summed else {})
    reading = dict(parts)
    length = max((part.info.samples for part in parts.values()), default=0)
    step = max((round(_BLOCK * part.info.rate) for part in parts.values()), default=1)
    for start in range(0, length, step):
        block = {}
        for name, part in list(reading.items()):
            if start >= part.info.samples:
                continue
            try:
                block[name] = part.read(start, start + step)
            except InputError as error:
                yield _unreadable(part.path, error)
                del reading[name]
            else:
                peaks[name] = max(peaks[name], float(np.abs(block[name]).max()))
        sums.add(block)
    for name, part in reading.items():
        if peaks[name] <= _SILENT:
            yield Finding(part.path, f"{_label(song, name)}silent throughout", fault=name in (VOCALS, MIXTURE))
    if difference := sums.judge(coded=song.coded):
        text, fault = difference
        yield Finding(parts[MIXTURE].path, text, fault)


class _Sums:
    """How far the mixture is from the sum of the sources, block by block; nothing where that cannot be told."""

    def __init__(self, parts: dict[str, Source]) -> None:
        sources = sorted(set(parts) - {MIXTURE, ACCOMPANIMENT, "linear_mixture"})
        if sources == [VOCALS] and ACCOMPANIMENT in parts:
            sources = [ACCOMPANIMENT, VOCALS]
        used = [parts[name] for name in (*sources, MIXTURE) if name in parts]
        alike = len({(part.info.samples, part.info.channels) for part in used}) == 1
        self.sources = sources if MIXTURE in parts and len(sources) > 1 and alike else []
        self.bits = min((_bits(part.path) for part in used), default=0)
        self.peak = self.energy = self.difference = 0.0

    def add(self, block: dict[str, np.ndarray]) -> None:
        if not {*self.sources, MIXTURE} <= block.keys():
            self.sources = []  # a part cannot be read, which is said already
        if not self.sources:
            return
        total = np.sum([block[name] for name in self.sources], axis=0, dtype=np.float64)
        difference = block[MIXTURE] - (np.clip(total, -1, 1) if self.bits < 24 else total)
        self.peak = max(self.peak, float(np.abs(difference).max()))
        self.energy += float(np.square(block[MIXTURE], dtype=np.float64).sum())
        self.difference += float(np.square(difference).sum())

    def judge(self, *, coded: bool) -> tuple[str, bool] | None:
        """Return what to say of the difference and whether it is a fault; None where there is none to speak of."""
        step, allowed = 2.0 ** (1 - self.bits), len(self.sources) + 1
        if not self.sources or (not coded and self.peak <= allowed * step):
            return None
        ratio = 10 * np.log10((self.energy + 1e-12) / (self.difference + 1e-12))
        text = f"not the sum of {', '.join(self.sources)}: it is {ratio:.1f} dB above the difference"
        if coded:
            return f"{text}, as it was coded apart", False
        return f"{text}, {self.peak / step:.0f} steps of {self.bits} bits at most where {allowed} are allowed", True


def _unreadable(path: Path, error: InputError) -> Finding:
    return Finding(path, f"unreadable: {str(error).removeprefix(f'{path}: ')}")


def _label(song: Song, name: str) -> str:
    """Return what to call a part in a file that holds others, too."""
    return f"{name}: " if song.place.is_file() else ""


def _bits(path: Path) -> int:
    return _BITS.get(soundfile.info(os.fsencode(path)).subtype, 8) if path.suffix in (".wav", ".flac") else 24


def _lacking(path: Path) -> int:
    """Return by how many bytes a WAV file is shorter than its header says, which libsndfile passes over in silence."""
    if path.suffix != ".wav":
        return 0
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"RIFF" or head[4:] in (b"\xff" * 4, b"\0" * 4):  # a stream's header does not tell
        return 0
    return struct.unpack("<I", head[4:])[0] + 8 - path.stat().st_size
