"""Whether a data set is whole: all its songs there, and each of them sound (:mod:`bsm.data.soundness`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from bsm.data import fetch, mir1k, registry
from bsm.data.musdb18 import Stem, need_ffmpeg
from bsm.data.registry import DataSet
from bsm.data.soundness import CLIP, STREAMS, Finding, Song, check_song
from bsm.data.tracks import AudioFile, Source
from bsm.errors import InputError

_SUFFIXES = (".wav", ".flac")


def verify(target: str | Path, *, fill: bool = False) -> list[Finding]:
    """Read a data set from beginning to end and name everything that is wrong with it.

    Args:
        target: the name of a known data set, or a folder. A named one is held against its manifest: songs, sources,
            rate, channels; a folder's songs are held against each other.
        fill: write the sizes and checksums measured on the downloaded files into the manifest where they are
            unverified there.

    Returns:
        The findings. The data set is good if none of them is a fault.

    Raises:
        InputError: no such data set or folder, nothing in it, or for stem files ffmpeg or stempeg is missing.
    """
    known = registry.load(str(target)) if str(target) in registry.names() else None
    if fill and known is None:
        raise InputError(f"{target}: has no manifest to fill in; these have: {', '.join(registry.names())}")
    root = known.folder if known else Path(target)
    if not root.is_dir():
        how = f"run `{known.made_by or f'bsm data fetch {known.name}'}`" if known else "give a folder of songs"
        raise InputError(f"{root}: no such folder; {how}")
    songs = _songs(root, known.layout if known else None)
    if not songs:
        raise InputError(f"{root}: no songs in it, neither <song>/vocals.wav, <song>.stem.mp4 nor clips of MIR-1K")
    found = [*_check_download(known, fill), *_check_names(known, root, songs)] if known else []
    rate = known.rate if known else _usual_rate(songs)
    for song in tqdm(songs, desc="verifying", unit="song"):
        found += check_song(song, rate, known)
    return found


def _songs(root: Path, layout: str | None) -> list[Song]:
    """Find every song, however bad, of one layout, or of the one that the folder seems to have."""
    stems = _visible(root, "*/*.stem.mp4")
    if layout == "stems" or (layout is None and stems):
        return [Song(path, path.name.removesuffix(".stem.mp4"), _streams(path), coded=True) for path in stems]
    clips = mir1k.clips(root)
    if layout == "clips" or (layout is None and clips):
        return [Song(p, name, {part: AudioFile(p, k) for k, part in enumerate(CLIP)}) for name, p in clips.items()]
    folders = [root, *_visible(root, "*/"), *_visible(root, "*/*/")]
    return [song for folder in folders if (song := _folder(folder, root))]


def _visible(root: Path, pattern: str) -> list[Path]:
    found = sorted(root.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _folder(folder: Path, root: Path) -> Song | None:
    """Return the song of a folder: its audio files, of which a song may have none; None for a folder of folders."""
    files: dict[str, Source] = {}
    for suffix in _SUFFIXES:  # a sound given in both: the first counts
        for path in _visible(folder, f"*{suffix}"):
            files.setdefault(path.stem, AudioFile(path))
    if not files and (folder == root or _visible(folder, "*/")):
        return None
    return Song(folder, folder.resolve().name, files)


def _streams(path: Path) -> dict[str, Source]:
    need_ffmpeg("stem files need")
    try:
        import stempeg  # late: it runs ffmpeg when imported
    except ImportError as error:
        raise InputError(f"stem files need the package stempeg ({error}); run `make env`") from error
    try:
        header = stempeg.Info(str(path))
        count = header.nb_audio_streams
    except Exception:  # ffprobe's failures come as several types; a file without streams is a fault of the song
        return {}
    return {part: Stem(path, stream, header) for stream, part in enumerate(STREAMS[:count])}


def _usual_rate(songs: list[Song]) -> int:
    rates: Counter[int] = Counter()
    for song in songs:
        for part in song.parts.values():
            try:
                rates[part.info.rate] += 1
            except InputError:
                continue  # named when the song is checked
    return rates.most_common(1)[0][0] if rates else 0


def _check_download(known: DataSet, fill: bool) -> Iterator[Finding]:
    """Hold what was measured on the downloaded files against the manifest."""
    measured = fetch.record(known)
    for archive in known.files:
        where = known.folder / archive.file
        if measured is None or archive.file not in measured:
            yield Finding(where, "not unpacked by `bsm data fetch`: its checksum cannot be told", fault=False)
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


def _check_names(known: DataSet, root: Path, songs: list[Song]) -> Iterator[Finding]:
    """Hold the songs that are there against those that the manifest lists."""
    unknown = {song.place: song for song in songs}
    for split, wanted in known.splits.items():
        folder = root / wanted.folder
        held = {p: s for p, s in unknown.items() if wanted.holds(s.name) and folder in (p.parent, p)}
        for place in held:
            del unknown[place]
        names = {song.name for song in held.values()}
        if wanted.names and wanted.songs == len(wanted.names):
            for name in sorted(set(wanted.names) - names):
                yield Finding(folder / name, f"missing ({split})")
        elif wanted.songs not in (None, len(names)):
            yield Finding(folder, f"{len(names)} songs where {split} has {wanted.songs}")
        for singer in sorted(set(wanted.singers) - {name.partition("_")[0] for name in names}):
            yield Finding(folder, f"no clip by {singer} ({split})")
    for place in unknown:
        yield Finding(place, f"not a song of {known.name}, or in the wrong folder")
