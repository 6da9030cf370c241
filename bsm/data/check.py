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
from bsm.data.tracks import ACCOMPANIMENT, MIXTURE, SUFFIXES, VOCALS, AudioFile, Source
from bsm.errors import InputError

_CLIP = (ACCOMPANIMENT, VOCALS)  # the channels of a clip, in order
_BLOCK = 60.0  # seconds read at a time
_SILENT = 2.0**-15  # a peak of one step of 16 bits; dither alone reaches it


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

    place: Path  # its folder, or its file where one file holds all of its sounds
    name: str
    parts: dict[str, Source]  # its sounds by name
    coded: bool = False  # whether the mixture was coded apart from the sources, and so is not exactly their sum
    unreadable: str = ""  # why its file or folder cannot be opened
    unused: tuple[Path, ...] = ()  # audio files in its folder that are none of its sounds


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
    songs = [_song(place, name) for place, name in find_songs(root, known.layout if known else None).items()]
    if not songs:
        raise InputError(f"{root}: no songs in it, neither <song>/vocals.wav, <song>.stem.mp4 nor clips of MIR-1K")
    names = {song.place: song.name for song in songs}
    found = [*_check_download(known, fill), *check_names(known, names)] if known else []
    headers = [_header(part) for song in songs for part in song.parts.values()]
    rate = known.rate if known else _usual([header.rate for header in headers if isinstance(header, audio.AudioInfo)])
    for song in tqdm(songs, desc="verifying", unit="song"):
        found += _check_song(song, rate, known)
    return found


def find_songs(root: Path, layout: str | None) -> dict[Path, str]:
    """Find every song, however bad, of one layout, or of the layout that the folder seems to have: place -> name."""
    stems = _visible(root, "*/*.stem.mp4")
    if layout == "stems" or (layout is None and stems):
        return {path: path.name.removesuffix(".stem.mp4") for path in stems}
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


def _song(place: Path, name: str) -> Song:
    stems = place.name.endswith(".stem.mp4")
    if place.is_file() and not stems:
        return Song(place, name, {part: AudioFile(place, channel) for channel, part in enumerate(_CLIP)})
    if stems:
        musdb18.need_stempeg()
    try:
        if stems:
            return Song(place, name, musdb18.streams(place), coded=True)
        files, unused = tracks.song_files(place)
        return Song(place, name, files, unused=tuple(unused))
    except InputError as error:
        return Song(place, name, {}, unreadable=_why(place, error))


def _visible(root: Path, pattern: str) -> list[Path]:
    found = sorted(root.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _header(part: Source) -> audio.AudioInfo | InputError:
    try:
        return part.info
    except InputError as error:
        return error


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

    ``known`` gives the expected sounds and channels. Without it, a song needs vocals and another sound.
    """
    if song.unreadable:
        return [Finding(song.place, f"unreadable: {song.unreadable}")]
    wanted = [VOCALS] if known is None else [*known.sources, *([MIXTURE] if known.mixture != "none" else [])]
    suffix = next((part.path.suffix for part in song.parts.values()), ".wav")
    found = [
        Finding(song.place / f"{name}{suffix}", f"missing: {'a song without vocals' if name == VOCALS else name}")
        for name in wanted
        if name not in song.parts
    ]
    if known is None and song.parts and not found and (fault := tracks.lacks(song.parts)):
        found.append(Finding(song.place, fault))
    if song.unused:
        unused = ", ".join(path.name for path in song.unused)
        found.append(Finding(song.place, f"audio files that are no sources, not used: {unused}", fault=False))
    infos = {}
    for name, part in song.parts.items():
        if isinstance(header := _header(part), InputError):
            found.append(Finding(part.path, f"unreadable: {_why(part.path, header)}"))
            continue
        infos[name] = header
    others = "the song's other files have"
    usual_channels, usual_samples = (_usual([getattr(i, of) for i in infos.values()]) for of in ("channels", "samples"))
    channels, whose = (known.channels, "the data set has") if known else (usual_channels, others)
    for name, info in infos.items():
        path, label = song.parts[name].path, _label(song, name)
        if info.rate != rate:
            found.append(Finding(path, f"{info.rate} Hz where the data set has {rate}"))
        if info.channels != channels:
            found.append(Finding(path, f"{label}{info.channels} channel(s) where {whose} {channels}"))
        if info.samples != usual_samples:
            found.append(Finding(path, f"{label}{info.samples} samples where {others} {usual_samples}"))
    found += _check_samples(
        song, {name: song.parts[name] for name in infos}, sound=not any(finding.fault for finding in found)
    )
    return list(dict.fromkeys(found))  # one finding for a file that holds several sounds


def _check_samples(song: Song, parts: dict[str, Source], *, sound: bool) -> Iterator[Finding]:
    """Read all sounds of a song together, block by block; if ``sound``, compare the mixture with the sources' sum.

    A silent source is a note; silent vocals and a silent mixture are faults.
    """
    reading, peaks = dict(parts), dict.fromkeys(parts, 0.0)
    sums = _Sum(parts) if sound and MIXTURE in parts and len(tracks.source_names(parts)) > 1 else None
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
                yield Finding(part.path, f"unreadable: {_why(part.path, error)}")
                del reading[name]
                sums = None
            else:
                peaks[name] = max(peaks[name], float(np.abs(block[name]).max()))
        if sums:
            sums.add(block)
    for name, part in reading.items():
        if peaks[name] <= _SILENT:
            yield Finding(part.path, f"{_label(song, name)}silent throughout", fault=name in (VOCALS, MIXTURE))
    if sums and (difference := sums.difference(coded=song.coded)):
        yield Finding(parts[MIXTURE].path, difference, fault=not song.coded)


class _Sum:
    """Measure block by block how far a song's mixture is from the sum of its sources."""

    def __init__(self, parts: dict[str, Source]) -> None:
        self.sources = tracks.source_names(parts)
        self.bits = min(_bits(parts[name].path) for name in (*self.sources, MIXTURE))
        self.peak = self.energy = self.rest = 0.0

    def add(self, block: dict[str, np.ndarray]) -> None:
        total = np.sum([block[name] for name in self.sources], axis=0, dtype=np.float64)
        rest = block[MIXTURE] - (np.clip(total, -1, 1) if self.bits < 24 else total)
        self.peak = max(self.peak, float(np.abs(rest).max()))
        self.energy += float(np.square(block[MIXTURE], dtype=np.float64).sum())
        self.rest += float(np.square(rest).sum())

    def difference(self, *, coded: bool) -> str:
        """Describe the difference; empty if rounding explains it.

        Rounding moves every file by one step of its sample format at most. The coarsest format counts. A mixture that
        was coded apart always differs, and no difference is too large.
        """
        step, allowed = 2.0 ** (1 - self.bits), len(self.sources) + 1
        if not coded and self.peak <= allowed * step:
            return ""
        ratio = 10 * np.log10((self.energy + 1e-12) / (self.rest + 1e-12))
        text = f"not the sum of {', '.join(self.sources)}: it is {ratio:.1f} dB above the difference"
        if coded:
            return f"{text}, as it was coded apart"
        return f"{text}, {self.peak / step:.0f} steps of {self.bits} bits at most where {allowed} are allowed"


def _usual(values: list[int]) -> int:
    return Counter(values).most_common(1)[0][0] if values else 0


def _why(path: Path, error: InputError) -> str:
    return str(error).removeprefix(f"{path}: ")


def _label(song: Song, name: str) -> str:
    """Return the prefix that names a sound in a file that holds several."""
    return f"{name}: " if song.place.is_file() else ""


def _bits(path: Path) -> int:
    return audio.bits(path) if path.suffix.lower() in SUFFIXES else 24
