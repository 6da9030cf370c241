"""The one description of a song with its sources; every data set becomes a list of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bsm import audio
from bsm.errors import InputError

VOCALS = "vocals"
_MIXTURE = "mixture"
_SUFFIXES = (".wav", ".flac")
# Sums of other files: not sources where the parts themselves are there.
_SUMS = ("accompaniment", "linear_mixture")


@dataclass(frozen=True)
class Track:
    """A song and where its sources lie. Nothing is read before it is asked for.

    Attributes:
        name: the song's name, unique in its split.
        split: ``train``, ``valid`` or ``test``.
        rate: samples per second.
        sources: source name -> file; all of one length; ``vocals`` is among them.
        mixture_path: file of the mixture; None where the mixture is the sum of the sources.
    """

    name: str
    split: str
    rate: int
    sources: dict[str, Path] = field(hash=False)
    mixture_path: Path | None = None

    def __post_init__(self) -> None:
        if VOCALS not in self.sources:
            raise InputError(f"song {self.name!r} has no vocals; it has: {', '.join(self.sources) or 'nothing'}")

    @cached_property
    def _info(self) -> audio.AudioInfo:
        return audio.info(self.sources[VOCALS])

    @property
    def samples(self) -> int:
        """Length in samples per channel."""
        return self._info.samples

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return self._info.channels

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate

    def read(self, source: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of one source, and only those.

        Returns:
            float32 ``(channels, stop - start)``.

        Raises:
            InputError: a source that the song does not have, or a file that cannot be read.
        """
        if source not in self.sources:
            raise InputError(f"song {self.name!r} has no source {source!r}; it has: {', '.join(self.sources)}")
        return audio.read(self.sources[source], start=start, stop=stop)[0]

    def mixture(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of the mixture: its file, or else the sum of the sources.

        Returns:
            float32 ``(channels, stop - start)``.
        """
        if self.mixture_path is not None:
            return audio.read(self.mixture_path, start=start, stop=stop)[0]
        return np.sum([self.read(source, start, stop) for source in self.sources], axis=0, dtype=np.float32)

    def accompaniment(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return samples ``[start, stop)`` of the mixture without the vocals, float32 ``(channels, samples)``."""
        return self.mixture(start, stop) - self.read(VOCALS, start, stop)


def folder_tracks(root: Path, split: str) -> list[Track]:
    """Find the songs of a folder laid out as ``<root>/<song>/{mixture,vocals,<other sources>}.wav`` (or ``.flac``).

    ``mixture`` may be missing. ``accompaniment`` counts as a source only where there is none but the vocals.

    Args:
        root: the folder of song folders; hidden ones are passed over.
        split: what to call the songs' split.

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
    return [_track(folder, split) for folder in folders]


def load_tracks(root: Path, split: str) -> list[Track]:
    """Find the songs of one split of a data set: :func:`folder_tracks` of ``<root>/<split>``."""
    return folder_tracks(Path(root) / split, split)


def _track(folder: Path, split: str) -> Track:
    # A song given both as .wav and as .flac: the first suffix wins.
    files: dict[str, Path] = {}
    for suffix in _SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}")):
            if not path.name.startswith("."):
                files.setdefault(path.stem, path)
    if VOCALS not in files:
        raise InputError(f"{folder}: song without vocals; add vocals.wav or vocals.flac, or move the folder away")
    infos = {name: audio.info(path) for name, path in files.items()}
    wanted = infos[VOCALS]
    for name, found in infos.items():
        if found != wanted:
            raise InputError(
                f"{folder}: {files[name].name} ({_describe(found)}) differs from {files[VOCALS].name} "
                f"({_describe(wanted)}); make the song's files equal in length, rate and channels"
            )
    mixture = files.pop(_MIXTURE, None)
    parts = {name: path for name, path in files.items() if name not in _SUMS}
    if set(parts) == {VOCALS} and "accompaniment" in files:
        parts["accompaniment"] = files["accompaniment"]
    return Track(folder.name, split, wanted.rate, dict(sorted(parts.items())), mixture)


def _describe(found: audio.AudioInfo) -> str:
    return f"{found.samples} samples, {found.rate} Hz, {found.channels} channels"
