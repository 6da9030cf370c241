"""Open MIR-1K: 1000 clips of karaoke singing at 16 kHz, accompaniment left and voice right (Hsu and Jang, 2010).

A clip's file is named ``<singer>_<song>_<clip>``. The data set is split by singer.
"""

from __future__ import annotations

import re
from pathlib import Path

from bsm.data import registry
from bsm.data.tracks import ACCOMPANIMENT, SUFFIXES, VOCALS, AudioFile, Track, open_songs
from bsm.errors import InputError

RATE = 16000
FETCH = "fetch MIR-1K (`bsm data fetch mir1k`)"
_NAME = "mir1k"
_CLIP = re.compile(r"(?P<song>(?P<singer>[A-Za-z]+)_\d+)_\d+")
_PLACES = ("MIR-1K/Wavfile", "Wavfile", ".", "train", "valid", "test")  # as published, then as users arrange clips


def song_of(clip: str) -> str | None:
    """Return ``<singer>_<song>`` of the name of a clip by one of MIR-1K's singers; None for any other name.

    Clips of one song resemble each other: they are not independent samples.
    """
    named = _CLIP.fullmatch(clip)
    return named["song"] if named and named["singer"] in _singers() else None


def clips(root: Path) -> dict[str, Path]:
    """Find the clips of MIR-1K, .wav or .flac, in a folder: name -> file, sorted by name.

    They lie in ``MIR-1K/Wavfile`` or ``Wavfile``, as published, or in ``root`` or its folders train, valid, test.
    """
    found, singers = {}, _singers()
    for place in _PLACES:
        for path in sorted((Path(root) / place).glob("*_*_*.*")):
            named = _CLIP.fullmatch(path.stem)
            if named and named["singer"] in singers and path.suffix.lower() in SUFFIXES:
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _singers() -> set[str]:
    return {singer for part in registry.splits(_NAME).values() for singer in part.singers or ()}


def clip_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Open the clips of one split: ``vocals`` and ``accompaniment``, mono; the mixture is their sum.

    :func:`bsm.data.layouts.open_tracks` documents ``skipped``.

    Raises:
        InputError: the folder has no clips of that split; or a clip cannot be read, is not stereo, or is not at 16 kHz.
    """
    wanted = registry.load(_NAME).splits[split]
    songs = {name: path for name, path in clips(root).items() if wanted.holds(name)}
    if not songs:
        raise InputError(f"{root}: no clips of MIR-1K by {', '.join(wanted.singers or ())} ({split}); {FETCH}")
    return open_songs(songs, _clip_track, split, skipped)


def sounds(clip: Path) -> dict[str, AudioFile]:
    """Return the two sounds of a clip, by name."""
    return {ACCOMPANIMENT: AudioFile(clip, 0), VOCALS: AudioFile(clip, 1)}


def _clip_track(path: Path, split: str) -> Track:
    track = Track(path.stem, split, sounds(path))
    if track.rate != RATE:
        raise InputError(f"{path}: has {track.rate} Hz, MIR-1K has {RATE}; {FETCH}")
    return track
