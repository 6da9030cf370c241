"""MIR-1K: a thousand clips of karaoke singing, 16 kHz, accompaniment left and voice right (Hsu and Jang, 2010)."""

from __future__ import annotations

import re
from pathlib import Path

from bsm.data.tracks import VOCALS, AudioFile, Track, open_songs
from bsm.errors import InputError

RATE = 16000
FETCH = "fetch MIR-1K (`bsm data fetch mir1k`)"

#: No singer is in two splits; all others are in ``train``.
SINGERS = {
    "valid": ("heycat", "khair"),
    "test": ("annar", "bug", "fdps", "tammy"),
    "train": (
        "abjones",
        "amy",
        "Ani",
        "ariel",
        "bobon",
        "davidson",
        "geniusturtle",
        "jmzen",
        "Kenshin",
        "leon",
        "stool",
        "titon",
        "yifen",
    ),
}
_CLIP = re.compile(r"(?P<singer>[A-Za-z]+)_\d+_\d+\.(wav|flac)")
# Where the clips lie: as published, or in any folders of their own, such as splits made by hand.
_PLACES = ("MIR-1K/Wavfile", "Wavfile", ".", "train", "valid", "test")


def song_of(clip: str) -> str | None:
    """Return ``<singer>_<song>`` of a clip's name; None for what is not the name of a clip of MIR-1K.

    Clips of one song are more alike than songs are: they are no independent samples.
    """
    singer, _, rest = clip.partition("_")
    known = any(singer in names for names in SINGERS.values())
    return f"{singer}_{rest.partition('_')[0]}" if known and _CLIP.fullmatch(f"{clip}.wav") else None


def clips(root: Path) -> dict[str, Path]:
    """Find the clips of MIR-1K, or of a part of it: files named ``<singer>_<song>_<clip>`` by one of its singers.

    They lie in ``MIR-1K/Wavfile`` or ``Wavfile``, as published, or right in ``root`` or its folders train, valid, test.

    Returns:
        Name -> file, sorted by name; nothing where there are none.
    """
    singers = {singer for names in SINGERS.values() for singer in names}
    found: dict[str, Path] = {}
    for place in _PLACES:
        for path in sorted((Path(root) / place).glob("*_*_*.*")):
            if (named := _CLIP.fullmatch(path.name)) and named["singer"] in singers:
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def clip_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """Open the clips of one split, which their singers decide, whatever folder a clip lies in.

    A clip's sources are ``vocals`` and ``accompaniment``, mono, one channel of the file each; the mixture is their sum.

    Args:
        root: the data set's folder.
        split: ``train``, ``valid`` or ``test``.
        skipped: see :func:`bsm.data.tracks.open_songs`.

    Raises:
        InputError: no clips of that split, or one that cannot be read, is not stereo, or is not at 16 kHz.
    """
    songs = {name: path for name, path in clips(root).items() if name.split("_")[0] in SINGERS[split]}
    if not songs:
        raise InputError(f"{root}: no clips of MIR-1K by {', '.join(SINGERS[split])} ({split}); {FETCH}")
    return open_songs({name: lambda name=name: _clip_track(songs[name], split) for name in songs}, skipped)


def _clip_track(path: Path, split: str) -> Track:
    track = Track(path.stem, split, {"accompaniment": AudioFile(path, 0), VOCALS: AudioFile(path, 1)})
    if track.rate != RATE:
        raise InputError(f"{path}: has {track.rate} Hz, MIR-1K has {RATE}; {FETCH}")
    return track
