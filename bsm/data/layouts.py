"""One door to every data set: its layout is recognised by what lies in the folder."""

from __future__ import annotations

from pathlib import Path

from bsm.data import mir1k, musdb18
from bsm.data.tracks import Track, folder_tracks, load_tracks
from bsm.errors import InputError

SPLITS = ("train", "valid", "test")
_FETCH = f"give a folder of songs (<song>/vocals.wav and the rest), {mir1k.FETCH}, or {musdb18.FETCH}"


def open_tracks(root: str | Path, split: str, *, skipped: dict[str, str] | None = None) -> tuple[str, list[Track]]:
    """Open one split of a data set, whichever of the known layouts it has.

    - MUSDB18 or its 7 s sample: ``<root>/{train,test}/<song>.stem.mp4``;
    - MUSDB18-HQ: ``<root>/{train,test}/<song>/{mixture,vocals,drums,bass,other}.wav``, known by its songs' names;
    - MIR-1K, or a part of it: clips ``<singer>_<song>_<clip>.wav``, known by their names; split by singer;
    - songs: ``<root>/<split>/<song>/<source>.wav``, or ``<root>/<song>/<source>.wav`` whatever the split.

    Args:
        root: the data set's folder.
        split: ``train``, ``valid`` or ``test``.
        skipped: where given, a bad song is left out, named in the log and entered here, name -> what is wrong; by
            default it is an error.

    Returns:
        The layout, ``MUSDB18-HQ``, ``MUSDB18`` (the sample too), ``MIR-1K`` or ``songs``, and the tracks, sorted by
        name.

    Raises:
        InputError: no such folder, no songs, a data set that is there in part only, a bad song, or ffmpeg is missing;
            it says what to fetch.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_FETCH}")
    if any(root.glob("*/*.stem.mp4")):
        return "MUSDB18", musdb18.stem_tracks(root, split, skipped)
    folder = root / ("train" if split == "valid" else split)
    if folder.is_dir() and any(musdb18.is_known(path.name) for path in folder.iterdir() if path.is_dir()):
        return "MUSDB18-HQ", musdb18.hq_tracks(root, split, skipped)
    if mir1k.clips(root):
        return "MIR-1K", mir1k.clip_tracks(root, split, skipped)
    if not any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir()):
        raise InputError(f"{root}: no songs in it, neither <song>/vocals.wav nor a known data set; {_FETCH}")
    find = load_tracks if any((root / name).is_dir() for name in SPLITS) else folder_tracks
    return "songs", find(root, split, skipped)
