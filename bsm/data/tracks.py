"""Define a song and its sources. Opening any data set gives a list of songs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from bsm import audio
from bsm.errors import InputError
from bsm.files import content_checksum

log = logging.getLogger(__name__)

VOCALS, ACCOMPANIMENT, MIXTURE = "vocals", "accompaniment", "mixture"
SUFFIXES = (".wav", ".flac")
# Ends of the names of copies and of outputs of `bsm separate`: such files are not sources.
_COPY = re.compile(r"(\.vocals|\.accompaniment|\(\d+\)| - copy| copy( \d+)?)$", re.IGNORECASE)
_CHECKED_SECONDS = 30.0  # read at a time by :func:`check`


class Source(Protocol):
    """One sound of a song. It reads its file only when asked to, and only the part asked for."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def info(self) -> audio.AudioInfo:
        """Rate, channels and length, from the file's header."""

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)``, at most to the end, as float32 ``(channels, samples)``."""


@dataclass(frozen=True)
class AudioFile:
    """A sound that is an audio file, or one channel of it."""

    path: Path
    channel: int | None = None  # for a file with another sound in each channel; by default the sound has all channels

    @cached_property
    def info(self) -> audio.AudioInfo:
        """Rate, channels and length, from the file's header.

        Raises:
            InputError: the file cannot be read or has no such channel.
        """
        found = audio.info(self.path)
        if self.channel is None:
            return found
        if self.channel >= found.channels:
            raise InputError(
                f"{self.path}: has {found.channels} channel(s), but voice and accompaniment need one each; fetch it"
            )
        return audio.AudioInfo(found.rate, 1, found.samples)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` as float32 ``(channels, samples)``."""
        sound = audio.read(self.path, start=start, stop=stop)[0]
        return sound if self.channel is None else np.ascontiguousarray(sound[self.channel : self.channel + 1])


@dataclass(frozen=True)
class Track:
    """A song and its sources. It reads files only when asked to."""

    name: str  # unique in its split
    split: str  # train, valid or test
    sources: Mapping[str, Source] = field(hash=False)  # of equal rate, length and channels; vocals is among them
    mixture_source: Source | None = None  # None where the mixture is the sum of the sources
    accompaniment_parts: tuple[str, ...] = ()  # sources whose sum it is; by default it is mixture - vocals

    def __post_init__(self) -> None:
        if VOCALS not in self.sources:
            raise InputError(f"song {self.name!r} has no vocals; it has: {', '.join(self.sources) or 'nothing'}")

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.sources[VOCALS].info.rate

    @property
    def samples(self) -> int:
        """Length in samples per channel."""
        return self.sources[VOCALS].info.samples

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return self.sources[VOCALS].info.channels

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate

    @property
    def sounds(self) -> dict[str, Source]:
        """The sources, and the mixture if it is a sound of its own, by name."""
        return dict(self.sources) | ({MIXTURE: self.mixture_source} if self.mixture_source else {})

    @property
    def files(self) -> list[Path]:
        """The song's files, each once."""
        return sorted({sound.path for sound in self.sounds.values()})

    def identity(self) -> dict[str, Any]:
        """Return the song's name, format and checksums as plain JSON values, the same wherever its files lie.

        Raises:
            InputError: a file cannot be read.
        """
        checksums = {path: content_checksum(path) for path in self.files}
        return {
            "name": self.name,
            "samples": self.samples,
            "rate": self.rate,
            "channels": self.channels,
            "files": {name: checksums[sound.path] for name, sound in sorted(self.sounds.items())},
        }

    def read(self, source: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of one source, float32 ``(channels, stop - start)``.

        Raises:
            InputError: the song has no such source, or its file cannot be read.
        """
        if source not in self.sources:
            raise InputError(f"song {self.name!r} has no source {source!r}; it has: {', '.join(self.sources)}")
        return self.sources[source].read(start, stop)

    def mixture(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of the mixture, or sum the sources; float32 ``(channels, stop - start)``."""
        if self.mixture_source is not None:
            return self.mixture_source.read(start, stop)
        return np.sum([self.read(source, start, stop) for source in self.sources], axis=0, dtype=np.float32)

    def accompaniment(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Compute samples ``[start, stop)`` of everything but the vocals, float32 ``(channels, stop - start)``."""
        if self.accompaniment_parts:
            parts = [self.read(source, start, stop) for source in self.accompaniment_parts]
            return np.sum(parts, axis=0, dtype=np.float32)
        return self.mixture(start, stop) - self.read(VOCALS, start, stop)


def folder_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Open the songs of a folder, sorted by name: ``<root>/<song>/{mixture,vocals,<other sources>}.wav`` or ``.flac``.

    A song without ``mixture`` needs two sources or more, and is their sum. Hidden folders are skipped.
    :func:`source_names` says which files are sources, and :func:`open_songs` what ``skipped`` does.

    Raises:
        InputError: the folder is missing or has no songs; or :func:`song_track` refuses a song.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder that holds one folder per song")
    # A broken link may have been a song, so opening it raises an error.
    folders = sorted(p for p in root.iterdir() if (p.is_dir() or broken(p)) and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: no songs in it; expected <song>/vocals.wav and the other sources")
    return open_songs({folder.name: folder for folder in folders}, song_track, split, skipped)


def load_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Open the songs of ``<root>/<split>`` with :func:`folder_tracks`."""
    return folder_tracks(Path(root) / split, split, skipped)


def open_songs(
    songs: Mapping[str, Path], make: Callable[[Path, str], Track], split: str, skipped: dict[str, str] | None = None
) -> list[Track]:
    """Open songs, name -> folder or file, with ``make(path, split)``, in the given order.

    Given a dictionary ``skipped``, this also reads every song to its end with :func:`check`. Bad songs are then
    skipped, logged, and entered into ``skipped``: name -> fault.

    Raises:
        InputError: a song is bad; or, with ``skipped``, all songs are bad.
    """
    if skipped is None:
        return [make(path, split) for path in songs.values()]
    tracks, why = [], ""
    for name, path in tqdm(songs.items(), desc="checking songs", unit="song", disable=len(songs) < 5, leave=False):
        try:
            track = make(path, split)
            check(track)
        except InputError as error:
            skipped[name] = why = str(error)
            log.warning("skipping song %r: %s", name, error)
        else:
            tracks.append(track)
    if songs and not tracks:
        raise InputError(f"none of {len(songs)} songs can be used; the last: {why}")
    return tracks


def check(track: Track) -> None:
    """Read a song from beginning to end; damage, NaN and infinite samples are an InputError."""
    step = round(_CHECKED_SECONDS * track.rate)
    for start in range(0, track.samples, step):
        for sound in track.sounds.values():
            sound.read(start, min(start + step, track.samples))


def song_track(folder: Path, split: str) -> Track:
    """Open one song folder of :func:`folder_tracks`. Log the names of audio files in it that are not used.

    Raises:
        InputError: the folder or a file in it cannot be read; the song has no vocals, or only vocals; or its files
            differ in length, rate or channels.
    """
    files, unused = song_files(folder)
    if unused:
        log.warning("%s: audio files that are no sources, not used: %s", folder, ", ".join(p.name for p in unused))
    if VOCALS not in files:
        raise InputError(f"{folder}: song without vocals; add vocals.wav or vocals.flac, or move the folder away")
    wanted = files[VOCALS].info
    for file in files.values():
        if file.info != wanted:
            raise InputError(
                f"{folder}: {file.path.name} ({_describe(file.info)}) differs from {files[VOCALS].path.name} "
                f"({_describe(wanted)}); make the song's files equal in length, rate and channels"
            )
    if fault := lacks(files):
        raise InputError(f"{folder}: {fault}")
    return Track(folder.name, split, {name: files[name] for name in source_names(files)}, files.get(MIXTURE))


def broken(path: Path) -> bool:
    """Return whether a path is a broken link."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 (Path.exists raises for a circle)


def lacks(sounds: Collection[str]) -> str:
    """Return what sounds lack to be a song with something to separate; empty if they lack nothing."""
    if MIXTURE in sounds or len(source_names(sounds)) > 1:
        return ""
    return "song of one source; add mixture.wav or another source as WAV or FLAC"


def song_files(folder: Path) -> tuple[dict[str, AudioFile], list[Path]]:
    """Find the sounds in a song's folder, by name, and the other audio files.

    Sounds are .wav and .flac files that are not hidden. If both exist under one name, .wav is used. Copies such as
    ``vocals (1).wav`` and outputs of ``bsm separate`` are not sounds of the song.

    Raises:
        InputError: the folder cannot be read.
    """
    files: dict[str, AudioFile] = {}
    unused: list[Path] = []
    try:
        inside = sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() != ".wav", path.name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check the path and its permissions") from error
    for path in inside:
        if path.name.startswith(".") or not (audio.READABLE.search(path.name) or audio.FOREIGN.search(path.name)):
            continue
        if path.suffix.lower() in SUFFIXES and not _COPY.search(path.stem) and path.stem not in files:
            files[path.stem] = AudioFile(path)
        else:
            unused.append(path)
    return files, unused


def source_names(sounds: Iterable[str]) -> list[str]:
    """Return which of a song's sounds are sources, sorted: all but the mixture and sums of sources.

    ``accompaniment`` is a source only if the song's other sounds are vocals and mixture alone.
    """
    sounds = set(sounds)
    names = sounds - {MIXTURE, ACCOMPANIMENT, "linear_mixture"}
    return sorted(names | (sounds & {ACCOMPANIMENT}) if names == {VOCALS} else names)


def _describe(found: audio.AudioInfo) -> str:
    return f"{found.samples} samples, {found.rate} Hz, {found.channels} channels"
