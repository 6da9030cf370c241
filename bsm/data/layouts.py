"""Open any data set: what lies in its folder says which layout it has."""

from __future__ import annotations

from pathlib import Path

from bsm.data import mir1k, musdb18
from bsm.data.tracks import Track, folder_tracks, load_tracks
from bsm.errors import InputError

SPLITS = ("train", "valid", "test")
_FETCH = f"give a folder of songs (<song>/vocals.wav and the other sources), {mir1k.FETCH}, or {musdb18.FETCH}"


def open_tracks(root: str | Path, split: str, *, skipped: dict[str, str] | None = None) -> tuple[str, list[Track]]:
    """Open one split, ``train``, ``valid`` or ``test``, of a data set of any known layout.

    - MUSDB18 or its 7 s sample: ``<root>/{train,test}/<song>.stem.mp4``;
    - MUSDB18-HQ: ``<root>/{train,test}/<song>/{mixture,vocals,drums,bass,other}.wav``, recognised by the songs' names;
    - MIR-1K, or a part of it: clips ``<singer>_<song>_<clip>.wav``, recognised by their names and split by singer;
    - songs: ``<root>/<split>/<song>/<source>.wav``, or ``<root>/<song>/<source>.wav`` for every split.

    By default a bad song is an error. Given a dictionary ``skipped``, bad songs are skipped, logged, and entered into
    it: name -> fault.

    Returns:
        The layout (``MUSDB18-HQ``, ``MUSDB18``, ``MIR-1K`` or ``songs``; the sample is ``MUSDB18``) and the tracks,
        sorted by name.

    Raises:
        InputError: the folder is missing, has no songs, or lacks songs of MUSDB18; a song is bad; or there are stem
            files, and ffmpeg is missing. The message says what to fetch.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_FETCH}")
    if any(root.glob(f"*/*{musdb18.SUFFIX}")):
        return "MUSDB18", musdb18.split_tracks(root, split, skipped, stems=True)
    if musdb18.is_hq(root, split):
        return "MUSDB18-HQ", musdb18.split_tracks(root, split, skipped, stems=False)
    if mir1k.clips(root):
        return "MIR-1K", mir1k.clip_tracks(root, split, skipped)
    if not any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir()):
        raise InputError(f"{root}: no songs in it, neither <song>/vocals.wav nor a known data set; {_FETCH}")
    find = load_tracks if any((root / name).is_dir() for name in SPLITS) else folder_tracks
    return "songs", find(root, split, skipped)
