"""Open MIR-1K: 1000 clips of karaoke singing at 16 kHz, accompaniment left and voice right (Hsu and Jang, 2010)."""

from __future__ import annotations

import re
from pathlib import Path

from bsm.data import registry
from bsm.data.tracks import ACCOMPANIMENT, VOCALS, AudioFile, Track, open_songs
from bsm.errors import InputError

RATE = 16000
FETCH = "fetch MIR-1K (`bsm data fetch mir1k`)"
_NAME = "mir1k"
_CLIP = re.compile(r"(?P<song>(?P<singer>[A-Za-z]+)_\d+)_\d+")
# The published folders, then folders that users make, such as splits.
_PLACES = ("MIR-1K/Wavfile", "Wavfile", ".", "train", "valid", "test")


def song_of(clip: str) -> str | None:
    """Return ``<singer>_<song>`` of the name of a clip of MIR-1K; None for any other name.

    Clips of one song resemble each other: they are not independent samples.
    """
    named = _CLIP.fullmatch(clip)
    return named["song"] if named and any(part.holds(clip) for part in registry.splits(_NAME).values()) else None


def clips(root: Path) -> dict[str, Path]:
    """Find clips of MIR-1K, files named ``<singer>_<song>_<clip>`` by one of its singers: name -> file, sorted by name.

    They lie in ``MIR-1K/Wavfile`` or ``Wavfile``, as published, or in ``root`` or its folders train, valid, test.
    """
    splits = registry.splits(_NAME).values()
    found: dict[str, Path] = {}
    for place in _PLACES:
        for path in sorted((Path(root) / place).glob("*_*_*.*")):
            known = _CLIP.fullmatch(path.stem) and any(part.holds(path.stem) for part in splits)
            if known and path.suffix.lower() in (".wav", ".flac"):
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def clip_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Open the clips of one split: ``vocals`` and ``accompaniment``, mono; the mixture is their sum.

    The singer alone decides the split of a clip. ``skipped`` is that of :func:`bsm.data.layouts.open_tracks`.

    Raises:
        InputError: there are no clips of that split; or one cannot be read, is not stereo, or is not at 16 kHz.
    """
    wanted = registry.load(_NAME).splits[split]
    songs = {name: path for name, path in clips(root).items() if wanted.holds(name)}
    if not songs:
        raise InputError(f"{root}: no clips of MIR-1K by {', '.join(wanted.singers or ())} ({split}); {FETCH}")
    return open_songs(songs, _clip_track, split, skipped)


def _clip_track(path: Path, split: str) -> Track:
    track = Track(path.stem, split, {ACCOMPANIMENT: AudioFile(path, 0), VOCALS: AudioFile(path, 1)})
    if track.rate != RATE:
        raise InputError(f"{path}: has {track.rate} Hz, MIR-1K has {RATE}; {FETCH}")
    return track
