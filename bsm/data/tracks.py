"""The one description of a song with its sources; every data set becomes a list of these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from bsm import audio
from bsm.errors import InputError

log = logging.getLogger(__name__)

VOCALS = "vocals"
_MIXTURE = "mixture"
_SUFFIXES = (".wav", ".flac")
# Sums of other files: not sources where the parts themselves are there.
_SUMS = ("accompaniment", "linear_mixture")
_CHECKED_SECONDS = 30.0  # read at a time by :func:`check`


class Source(Protocol):
    """Where one sound of a song lies. Nothing is read before it is asked for, and then no more than is asked for."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def info(self) -> audio.AudioInfo:
        """Rate, channels and length, from the file's header."""

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)``, float32 ``(channels, samples)``; ``stop`` is at most the sound's end."""


@dataclass(frozen=True)
class AudioFile:
    """A sound that fills an audio file, or one of its channels.

    Attributes:
        path: the file.
        channel: the one channel that is the sound, for files that hold another sound in each; by default all of them.
    """

    path: Path
    channel: int | None = None

    @cached_property
    def info(self) -> audio.AudioInfo:
        """Rate, channels and length, from the file's header.

        Raises:
            InputError: a file that cannot be read, or that has no such channel.
        """
        found = audio.info(self.path)
        if self.channel is None:
            return found
        if self.channel >= found.channels:
            raise InputError(
                f"{self.path}: has {found.channels} channel(s), channel {self.channel} is wanted: voice and "
                "accompaniment are a channel each; fetch it again"
            )
        return audio.AudioInfo(found.rate, 1, found.samples)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)``; see :class:`Source`."""
        sound = audio.read(self.path, start=start, stop=stop)[0]
        return sound if self.channel is None else np.ascontiguousarray(sound[self.channel : self.channel + 1])


@dataclass(frozen=True)
class Track:
    """A song and where its sources lie. Nothing is read before it is asked for.

    Attributes:
        name: the song's name, unique in its split.
        split: ``train``, ``valid`` or ``test``.
        sources: name -> source; all of one rate, length and number of channels; ``vocals`` is among them.
        mixture_source: the mixture; None where it is the sum of the sources.
        accompaniment_parts: names of the sources whose sum is the accompaniment; by default it is mixture - vocals.
    """

    name: str
    split: str
    sources: Mapping[str, Source] = field(hash=False)
    mixture_source: Source | None = None
    accompaniment_parts: tuple[str, ...] = ()

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
    def files(self) -> list[Path]:
        """The files that it is read from, each once."""
        parts = [*self.sources.values(), *([self.mixture_source] if self.mixture_source else [])]
        return sorted({part.path for part in parts})

    def read(self, source: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of one source, and only those.

        Returns:
            float32 ``(channels, stop - start)``.

        Raises:
            InputError: a source that the song does not have, or a file that cannot be read.
        """
        if source not in self.sources:
            raise InputError(f"song {self.name!r} has no source {source!r}; it has: {', '.join(self.sources)}")
        return self.sources[source].read(start, stop)

    def mixture(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of the mixture: its own sound, or else the sum of the sources.

        Returns:
            float32 ``(channels, stop - start)``.
        """
        if self.mixture_source is not None:
            return self.mixture_source.read(start, stop)
        return np.sum([self.read(source, start, stop) for source in self.sources], axis=0, dtype=np.float32)

    def accompaniment(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return samples ``[start, stop)`` of what is not the vocals, float32 ``(channels, samples)``."""
        if self.accompaniment_parts:
            parts = [self.read(source, start, stop) for source in self.accompaniment_parts]
            return np.sum(parts, axis=0, dtype=np.float32)
        return self.mixture(start, stop) - self.read(VOCALS, start, stop)


def folder_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Find the songs of a folder laid out as ``<root>/<song>/{mixture,vocals,<other sources>}.wav`` (or ``.flac``).

    ``mixture`` may be missing. ``accompaniment`` counts as a source only where there is none but the vocals.

    Args:
        root: the folder of song folders; hidden ones are passed over.
        split: what to call the songs' split.
        skipped: see :func:`open_songs`.

    Returns:
        The songs, sorted by name.

    Raises:
        InputError: no such folder, no song in it, or a song without vocals, with an unreadable file, or with files of
            unequal length, rate or channels.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder that holds one folder per song")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: no songs in it; expected <song>/vocals.wav and the other sources")
    return open_songs({folder.name: lambda folder=folder: song_track(folder, split) for folder in folders}, skipped)


def load_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Find the songs of one split of a data set: :func:`folder_tracks` of ``<root>/<split>``."""
    return folder_tracks(Path(root) / split, split, skipped)


def open_songs(songs: Mapping[str, Callable[[], Track]], skipped: dict[str, str] | None = None) -> list[Track]:
    """Open songs in their order; the first that is bad ends it, unless bad songs may be skipped.

    Args:
        songs: name -> what opens the song.
        skipped: where given, every song is read through as well (:func:`check`), and the bad ones are left out, named
            in the log, and entered here: name -> what is wrong.

    Raises:
        InputError: a bad song; with ``skipped``, only where no good one is left.
    """
    if skipped is None:
        return [make() for make in songs.values()]
    tracks, why = [], ""
    for name, make in tqdm(songs.items(), desc="checking songs", unit="song", disable=len(songs) < 5, leave=False):
        try:
            track = make()
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
    """Read a song from beginning to end.

    Raises:
        InputError: a sound that is damaged, shorter than its header says, or has NaN or infinite samples.
    """
    step = round(_CHECKED_SECONDS * track.rate)
    for start in range(0, track.samples, step):
        stop = min(start + step, track.samples)
        for source in track.sources:
            track.read(source, start, stop)
        if track.mixture_source is not None:
            track.mixture(start, stop)


def song_track(folder: Path, split: str) -> Track:
    """Open one song of :func:`folder_tracks`, the folder ``<song>``.

    Raises:
        InputError: as there.
    """
    # A song given both as .wav and as .flac: the first suffix wins.
    files: dict[str, AudioFile] = {}
    for suffix in _SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}")):
            if not path.name.startswith("."):
                files.setdefault(path.stem, AudioFile(path))
    if VOCALS not in files:
        raise InputError(f"{folder}: song without vocals; add vocals.wav or vocals.flac, or move the folder away")
    wanted = files[VOCALS].info
    for file in files.values():
        if file.info != wanted:
            raise InputError(
                f"{folder}: {file.path.name} ({_describe(file.info)}) differs from {files[VOCALS].path.name} "
                f"({_describe(wanted)}); make the song's files equal in length, rate and channels"
            )
    mixture = files.pop(_MIXTURE, None)
    parts = {name: file for name, file in files.items() if name not in _SUMS}
    if set(parts) == {VOCALS} and "accompaniment" in files:
        parts["accompaniment"] = files["accompaniment"]
    return Track(folder.name, split, dict(sorted(parts.items())), mixture)


def _describe(found: audio.AudioInfo) -> str:
    return f"{found.samples} samples, {found.rate} Hz, {found.channels} channels"
