"""MUSDB18 in its published forms (HQ, stems, 7 s sample), and the one excerpt that the package stempeg carries.

The 14 validation songs are those that the package musdb names; they are out of its ``train``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bsm import audio
from bsm.data.tracks import VOCALS, AudioFile, Track, open_songs, song_track
from bsm.errors import InputError

_SONG = "The Easton Ellises - Falcon 69"
# Streams of a MUSDB18 stem file, in order; stream 0 is the mixture as AAC made it, which is not the sum of its stems.
_STREAMS = (("drums", 1), ("bass", 2), ("other", 3), ("vocals", 4))
STEMS = tuple(name for name, _ in _STREAMS)
_AAC_FRAME = 1024  # samples
# Enough of the 50 test songs to know even a half data set by.
_TEST_SONGS = (
    "AM Contra - Heart Peripheral",
    "Al James - Schoolboy Facination",
    "Arise - Run Run Run",
    "BKS - Too Much",
    "Buitraker - Revo X",
    "Cristina Vane - So Easy",
    "Forkupines - Semantics",
    "Hollow Ground - Ill Fate",
    "Motor Tapes - Shore",
    "Mu - Too Bright",
    "PR - Oh No",
    "Punkdisco - Oral Hygiene",
    "Secretariat - Over The Top",
    "Speak Softly - Like Horses",
    "The Easton Ellises - Falcon 69",
    "The Long Wait - Dark Horses",
    "Timboz - Pony",
    "Tom McKenzie - Directions",
    "We Fell From The Sky - Not You",
    "Zeno - Signs",
)
FETCH = (
    "fetch MUSDB18-HQ (`bsm data fetch musdb18-hq`), MUSDB18 (`bsm data fetch musdb18`) or its 7 s sample "
    "(`bsm data fetch musdb18-sample`)"
)


def example_track(cache: Path) -> Track:
    """Return a real 6 s excerpt of a MUSDB18 test song, decoded once.

    The mixture is the sum of the stems: the file's own mixture stream was coded apart and differs from it (15.4 dB).

    Args:
        cache: folder that keeps the decoded files, as ``<cache>/falcon69/*.wav``, float.

    Returns:
        "The Easton Ellises - Falcon 69", 44.1 kHz stereo, split ``test``.

    Raises:
        InputError: ffmpeg or stempeg is missing, or the excerpt cannot be decoded or kept.
    """
    folder = Path(cache) / "falcon69"
    if not folder.is_dir():
        _decode(folder)
    sources = {name: AudioFile(folder / f"{name}.wav") for name, _ in sorted(_STREAMS)}
    return Track(_SONG, "test", sources, AudioFile(folder / "mixture.wav"))


def _decode(folder: Path) -> None:
    """Decode into a temporary folder beside ``folder``, which then takes its place."""
    need_ffmpeg()
    try:
        import stempeg  # late: it runs ffmpeg when imported
    except ImportError as error:
        raise InputError(f"the real excerpt needs the package stempeg ({error}); run `make env`") from error
    source = stempeg.example_stem_path()
    try:
        stems, rate = stempeg.read_stems(source, dtype=np.float32)  # (streams, samples, channels)
    except Exception as error:  # ffmpeg's failures come as several types
        raise InputError(f"{source}: cannot be decoded ({error}); install stempeg and ffmpeg anew") from error
    sounds = {name: np.ascontiguousarray(stems[stream].T, dtype=np.float32) for name, stream in _STREAMS}
    sounds["mixture"] = np.sum(list(sounds.values()), axis=0, dtype=np.float32)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, sound in sounds.items():
            audio.write(temporary / f"{name}.wav", sound, int(rate))
        temporary.replace(folder)
    except OSError as error:
        # Another process may have been first: its files are the same.
        if not folder.is_dir():
            raise InputError(f"{folder}: cannot be made ({error}); make {folder.parent} writable") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def need_ffmpeg(who: str = "decoding MUSDB18 needs") -> None:
    """Make sure that ffmpeg is here.

    Raises:
        InputError: it is not; ``who`` begins the sentence.
    """
    missing = [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"{who} {' and '.join(missing)} on PATH; run `apt-get install ffmpeg`")


@dataclass(frozen=True)
class Stem:
    """One audio stream of a ``.stem.mp4`` file, a :class:`bsm.data.tracks.Source`.

    A part is decoded from two AAC frames before it on, which gives the very samples that decoding all of it gives.

    Attributes:
        path: the file.
        stream: number of the stream.
        header: what ffprobe says about the file.
    """

    path: Path
    stream: int
    header: Any = field(repr=False, compare=False)

    @property
    def info(self) -> audio.AudioInfo:
        """Rate and channels of the stream; the length is the mixture's."""
        return audio.AudioInfo(self.header.rate(self.stream), self.header.channels(self.stream), self.header.samples(0))

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)``, float32 ``(channels, stop - start)``.

        Raises:
            InputError: a part outside the stream, or a file that cannot be decoded.
        """
        import stempeg  # late: it runs ffmpeg when imported

        found = self.info
        stop = found.samples if stop is None else min(stop, found.samples)
        if not 0 <= start < stop:
            raise InputError(f"{self.path}: has samples 0 to {found.samples}, asked for {start} to {stop}")
        first = max(0, start - 2 * _AAC_FRAME)
        try:
            sound, _ = stempeg.read_stems(
                str(self.path),
                start=first / found.rate if first else None,
                duration=(stop - first) / found.rate,
                stem_id=self.stream,
                dtype=np.float32,
                ffmpeg_format="s16le",  # as musdb reads it
                info=self.header,
            )
        except Exception as error:  # ffmpeg's failures come as several types
            raise InputError(f"{self.path}: cannot be decoded ({_line(error)}); fetch it again") from error
        sound = sound.reshape(-1, found.channels)[start - first : stop - first].T
        # A decoded stream may be off the length that its header names, by one frame.
        if (missing := stop - start - sound.shape[1]) > _AAC_FRAME:
            raise InputError(
                f"{self.path}: damaged, {sound.shape[1]} of {stop - start} samples decoded; fetch it again"
            )
        return np.ascontiguousarray(np.pad(sound, ((0, 0), (0, max(0, missing)))))


def stem_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """List one split of MUSDB18, or of its 7 s sample: ``<root>/{train,test}/<song>.stem.mp4``.

    The mixture is the file's own, as in every published figure for MUSDB18; the stems' sum differs from it a little,
    for each stream was coded apart. The accompaniment is the sum of drums, bass and other, which is musdb's target.

    Args:
        root: the data set's folder.
        split: ``train``, ``valid`` or ``test``.
        skipped: see :func:`bsm.data.tracks.open_songs`.

    Raises:
        InputError: songs are missing, one cannot be read, or ffmpeg or stempeg is missing.
    """
    need_ffmpeg()
    folder, songs = _listed(root, split, "*.stem.mp4")
    tracks = open_songs(
        {name: lambda name=name: _stem_track(songs[name], name, split) for name in _of_split(songs, split)}, skipped
    )
    _check_count(folder, len(songs), (50,) if split == "test" else (100, 94))  # the sample has 144 songs
    return tracks


def _stem_track(path: Path, name: str, split: str) -> Track:
    try:
        import stempeg  # late: it runs ffmpeg when imported

        header = stempeg.Info(str(path))
        streams = header.nb_audio_streams
    except Exception as error:  # ffprobe's failures come as several types
        raise InputError(f"{path}: cannot be read ({_line(error)}); fetch it again") from error
    if streams != 1 + len(STEMS):
        raise InputError(f"{path}: has {streams} audio streams, not 5 (mixture and four stems); fetch it again")
    stems = {stem: Stem(path, stream, header) for stem, stream in sorted(_STREAMS)}
    rest = tuple(stem for stem in STEMS if stem != VOCALS)
    return Track(name, split, stems, Stem(path, 0, header), rest)


def hq_tracks(root: Path, split: str, skipped: dict[str, str] | None = None) -> list[Track]:
    """List one split of MUSDB18-HQ: ``<root>/{train,test}/<song>/{mixture,vocals,drums,bass,other}.wav``.

    Args and errors are those of :func:`stem_tracks`; ffmpeg is not needed.
    """
    folder, songs = _listed(root, split, "*/")
    tracks = open_songs(
        {name: lambda name=name: _hq_track(songs[name], split) for name in _of_split(songs, split)}, skipped
    )
    _check_count(folder, len(songs), (50,) if split == "test" else (100,))
    return tracks


def _hq_track(folder: Path, split: str) -> Track:
    if lacks := [f"{name}.wav" for name in ("mixture", *STEMS) if not (folder / f"{name}.wav").is_file()]:
        raise InputError(f"{folder}: incomplete, {', '.join(lacks)} missing; {FETCH}")
    return song_track(folder, split)


def _listed(root: Path, split: str, pattern: str) -> tuple[Path, dict[str, Path]]:
    """Return the folder that holds a split and the songs in it, by name."""
    folder = root / ("train" if split == "valid" else split)
    found = [path for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
    return folder, {path.name.removesuffix(".stem.mp4"): path for path in found}


def _of_split(songs: Iterable[str], split: str) -> list[str]:
    """Return the names that belong to a split, sorted; the folder of ``train`` holds those of ``valid``, too."""
    if split == "test":
        return sorted(songs)
    names = sorted(name for name in songs if (name in validation_songs()) == (split == "valid"))
    if not names:
        raise InputError(f"MUSDB18: no songs of split {split!r}; {FETCH}")
    return names


def _check_count(folder: Path, found: int, wanted: tuple[int, ...]) -> None:
    if found not in wanted:
        raise InputError(f"{folder}: {found} songs where MUSDB18 has {wanted[0]} for {folder.name}; {FETCH}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@cache
def validation_songs() -> frozenset[str]:
    """Return the names of the 14 validation songs, from musdb's own list.

    Raises:
        InputError: musdb is not installed.
    """
    spec = find_spec("musdb")  # without importing it, which needs ffmpeg
    if not spec or not spec.origin:
        raise InputError("MUSDB18's validation songs are named by the package musdb, which is missing; run `make env`")
    text = (Path(spec.origin).parent / "configs" / "mus.yaml").read_text(encoding="utf-8")
    return frozenset(yaml.safe_load(text)["validation_tracks"])


def is_known(song: str) -> bool:
    """Tell MUSDB18 from other songs in the same layout: one of its validation songs, or of 20 of its test songs."""
    return song in _TEST_SONGS or (find_spec("musdb") is not None and song in validation_songs())
