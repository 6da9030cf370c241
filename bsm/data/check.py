"""Check a data set: are all of its songs there, and is each one sound?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bsm import audio
from bsm.data import mir1k, musdb18, registry, tracks
from bsm.data.registry import DataSet
from bsm.data.tracks import MIXTURE, SUFFIXES, VOCALS, Source
from bsm.errors import InputError

_BLOCK = 60.0  # seconds read at a time
_SILENT = 2.0**-15  # highest peak of a silent sound: one step of 16 bits, because dither alone reaches it


@dataclass(frozen=True)
class Finding:
    """Something to know about a data set."""

    where: Path  # the file or folder
    what: str
    fault: bool = True  # whether it makes the data set unfit for use

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Song:
    """A song as found, however bad."""

    place: Path  # its folder, or its file if one file holds all of its sounds
    sounds: dict[str, Source]  # those whose header can be read, by name
    findings: list[Finding]  # what is wrong with its files and headers

    @property
    def coded(self) -> bool:
        """Whether the mixture was coded apart from the sources, and so is not exactly their sum."""
        return self.place.name.endswith(musdb18.SUFFIX)


def verify(target: str | Path, *, fill: bool = False) -> list[Finding]:
    """Read a data set from beginning to end; list what is wrong with it. It is good if no finding is a fault.

    Args:
        target: a known data set, which is compared with its manifest; or a folder, whose songs are compared with each
            other.
        fill: write the sizes and checksums measured on the downloaded files into the manifest where it has them as
            unverified.

    Raises:
        InputError: there is no such data set or folder; it has no songs; or it has stem files, and ffmpeg or stempeg is
            missing.
    """
    known = registry.load(str(target)) if str(target) in registry.names() else None
    if fill and known is None:
        raise InputError(f"{target}: has no manifest to fill in; these have: {', '.join(registry.names())}")
    root = known.place if known else Path(target)
    if not root.is_dir():
        how = f"run `{known.made_by or f'bsm data fetch {known.name}'}`" if known else "give a folder of songs"
        raise InputError(f"{root}: no such folder; {how}")
    names = find_songs(root, known.layout if known else None)
    if not names:
        raise InputError(f"{root}: no songs in it, neither <song>/vocals.wav, <song>.stem.mp4 nor clips of MIR-1K")
    found = [*_check_download(known, fill), *check_names(known, names)] if known else []
    songs = [_open_song(place, known) for place in names]
    rate = known.rate if known else _usual([sound.info.rate for song in songs for sound in song.sounds.values()])
    for song in tqdm(songs, desc="verifying", unit="song"):
        found += _check_song(song, rate, known)
    return found


def find_songs(root: Path, layout: str | None) -> dict[Path, str]:
    """Find every song, however bad, of one layout, or of the layout that the folder seems to have: place -> name."""
    stems = _visible(root, f"*/*{musdb18.SUFFIX}")
    if layout == "stems" or (layout is None and stems):
        return {path: path.name.removesuffix(musdb18.SUFFIX) for path in stems}
    clips = mir1k.clips(root)
    if layout == "clips" or (layout is None and clips):
        return {path: name for name, path in clips.items()}
    songs = {path: path.name for path in (*_visible(root, "*"), *_visible(root, "*/*")) if tracks.broken(path)}
    for folder in [root, *_visible(root, "*/"), *_visible(root, "*/*/")]:
        # An empty folder, or one that cannot be read, is a song without files.
        leaf = folder != root and not _visible(folder, "*/")
        if leaf or any(path.suffix.lower() in SUFFIXES for path in _visible(folder, "*")):
            songs[folder] = folder.resolve().name
    return songs


def _open_song(place: Path, known: DataSet | None) -> Song:
    """Open a song; list the sounds that are missing and the files that cannot be read.

    ``known`` says which sounds are wanted. Without it, a song needs vocals and another sound.
    """
    unused: list[Path] = []
    stems = place.name.endswith(musdb18.SUFFIX)
    if stems:
        musdb18.need_stempeg()  # a missing package is no fault of the song
    try:
        if stems:
            parts = musdb18.streams(place)
        elif place.is_file():
            parts = mir1k.sounds(place)
        else:
            parts, unused = tracks.song_files(place)
    except InputError as error:
        return Song(place, {}, [_unreadable(place, error)])
    wanted = [VOCALS] if known is None else [*known.sources, *([MIXTURE] if known.mixture != "none" else [])]
    suffix = next((part.path.suffix for part in parts.values()), ".wav")
    found = [
        Finding(place / f"{name}{suffix}", f"missing: {'a song without vocals' if name == VOCALS else name}")
        for name in wanted
        if name not in parts
    ]
    if known is None and parts and not found and (fault := tracks.lacks(parts)):
        found.append(Finding(place, fault))
    if unused:
        names = ", ".join(path.name for path in unused)
        found.append(Finding(place, f"audio files that are no sources, not used: {names}", fault=False))
    sounds = {}
    for name, part in parts.items():
        try:
            part.info  # noqa: B018 (reads the header)
        except InputError as error:
            found.append(_unreadable(part.path, error))
        else:
            sounds[name] = part
    return Song(place, sounds, found)


def _visible(root: Path, pattern: str) -> list[Path]:
    found = sorted(root.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _check_download(known: DataSet, fill: bool) -> Iterator[Finding]:
    """Compare what was measured on the downloaded files with the manifest."""
    measured = known.fetched
    for archive in known.files:
        where = known.place / archive.file
        if measured is None or archive.file not in measured:
            yield Finding(where, "not unpacked by `bsm data fetch`, so its checksum is not known", fault=False)
            continue
        size, checksum = measured[archive.file]["size"], measured[archive.file]["checksum"]
        text = f"{size:,} bytes, {checksum}"
        if archive.size not in (None, size) or archive.checksum not in (None, checksum):
            yield Finding(where, f"unpacked from {text}, where {archive.size} and {archive.checksum} are recorded")
        elif fill and not archive.verified:
            registry.fill(known.name, archive.file, size, checksum)
            yield Finding(where, f"{text}: now in the manifest, as verified", fault=False)
        elif not archive.verified:
            yield Finding(where, f"{text}: not verified in the manifest; --fill enters it", fault=False)


def check_names(known: DataSet, songs: dict[Path, str]) -> Iterator[Finding]:
    """Compare the songs that are there, as :func:`find_songs` returns them, with those of the manifest."""
    unknown = dict(songs)
    for split, wanted in known.splits.items():
        folder = known.place / wanted.folder
        held = {p: name for p, name in unknown.items() if wanted.holds(name) and folder in (p.parent, p)}
        for place in held:
            del unknown[place]
        names = set(held.values())
        if wanted.names and wanted.songs == len(wanted.names):
            for name in sorted(set(wanted.names) - names):
                yield Finding(folder / name, f"missing ({split})")
        elif wanted.songs not in (None, len(names)):
            yield Finding(folder, f"{len(names)} songs where {split} has {wanted.songs}")
        for singer in sorted(set(wanted.singers or ()) - {name.partition("_")[0] for name in names}):
            yield Finding(folder, f"no clip by {singer} ({split})")
    for place in unknown:
        yield Finding(place, f"not a song of {known.name}, or in the wrong folder")


def _check_song(song: Song, rate: int, known: DataSet | None) -> list[Finding]:
    """Read a song from beginning to end and list everything that is wrong with it.

    ``known`` gives the expected number of channels. Without it, the song's other sounds do.
    """
    found, infos = list(song.findings), {name: sound.info for name, sound in song.sounds.items()}
    others = "the song's other files have"
    usual_channels, usual_samples = (
        _usual([getattr(info, of) for info in infos.values()]) for of in ("channels", "samples")
    )
    channels, whose = (known.channels, "the data set has") if known else (usual_channels, others)
    for name, info in infos.items():
        path, label = song.sounds[name].path, _label(song, name)
        if info.rate != rate:
            found.append(Finding(path, f"{info.rate} Hz where the data set has {rate}"))
        if info.channels != channels:
            found.append(Finding(path, f"{label}{info.channels} channel(s) where {whose} {channels}"))
        if info.samples != usual_samples:
            found.append(Finding(path, f"{label}{info.samples} samples where {others} {usual_samples}"))
    found += _check_samples(song, compare=not any(finding.fault for finding in found))
    return list(dict.fromkeys(found))  # one finding for a file that holds several sounds


def _check_samples(song: Song, *, compare: bool) -> Iterator[Finding]:
    """Read all sounds of a song together, block by block; if ``compare``, compare the mixture with the sources' sum.

    A silent source is a note; silent vocals and a silent mixture are faults.
    """
    reading, peaks = dict(song.sounds), dict.fromkeys(song.sounds, 0.0)
    sums = _Sum(song) if compare and MIXTURE in reading and len(tracks.source_names(reading)) > 1 else None
    length = max((sound.info.samples for sound in reading.values()), default=0)
    step = max((round(_BLOCK * sound.info.rate) for sound in reading.values()), default=1)
    for start in range(0, length, step):
        block = {}
        for name, sound in list(reading.items()):
            if start >= sound.info.samples:
                continue
            try:
                block[name] = sound.read(start, start + step)
            except InputError as error:
                yield _unreadable(sound.path, error)
                del reading[name]
                sums = None
            else:
                peaks[name] = max(peaks[name], float(np.abs(block[name]).max()))
        if sums:
            sums.add(block)
    for name, sound in reading.items():
        if peaks[name] <= _SILENT:
            yield Finding(sound.path, f"{_label(song, name)}silent throughout", fault=name in (VOCALS, MIXTURE))
    if sums and (difference := sums.difference()):
        yield Finding(song.sounds[MIXTURE].path, difference, fault=not song.coded)


class _Sum:
    """Measure block by block how far a song's mixture is from the sum of its sources."""

    def __init__(self, song: Song) -> None:
        self.sources, self.coded = tracks.source_names(song.sounds), song.coded
        paths = [song.sounds[name].path for name in (*self.sources, MIXTURE)]
        self.bits = 24 if song.coded else min(map(audio.bits, paths))
        self.peak = self.energy = self.rest = 0.0

    def add(self, block: dict[str, np.ndarray]) -> None:
        total = np.sum([block[name] for name in self.sources], axis=0, dtype=np.float64)
        rest = block[MIXTURE] - (np.clip(total, -1, 1) if self.bits < 24 else total)
        self.peak = max(self.peak, float(np.abs(rest).max()))
        self.energy += float(np.square(block[MIXTURE], dtype=np.float64).sum())
        self.rest += float(np.square(rest).sum())

    def difference(self) -> str:
        """Describe the difference; empty if rounding explains it.

        Rounding moves every file by one step of its sample format at most. The coarsest format of the files counts. A
        mixture that was coded apart always differs, so its difference is described whatever its size.
        """
        step, allowed = 2.0 ** (1 - self.bits), len(self.sources) + 1
        if not self.coded and self.peak <= allowed * step:
            return ""
        ratio = 10 * np.log10((self.energy + 1e-12) / (self.rest + 1e-12))
        text = f"not the sum of {', '.join(self.sources)}: it is {ratio:.1f} dB above the difference"
        if self.coded:
            return f"{text}, as it was coded apart"
        return f"{text}, {self.peak / step:.0f} steps of {self.bits} bits at most where {allowed} are allowed"


def _usual(values: list[int]) -> int:
    return Counter(values).most_common(1)[0][0] if values else 0


def _unreadable(path: Path, error: InputError) -> Finding:
    return Finding(path, f"unreadable: {str(error).removeprefix(f'{path}: ')}")


def _label(song: Song, name: str) -> str:
    """Return the prefix that names a sound of a file with several sounds."""
    return f"{name}: " if song.place.is_file() else ""
