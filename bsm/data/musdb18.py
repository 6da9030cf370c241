"""Open MUSDB18 as published (HQ, stems, 7 s sample), and the excerpt of it in the package stempeg.

The manifest ``musdb18-hq`` names the songs of each split. The folder ``train`` also holds the 14 validation songs.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bsm import audio
from bsm.data import registry
from bsm.data.tracks import MIXTURE, VOCALS, AudioFile, Track, open_songs, song_track
from bsm.errors import InputError, one_line

#: Streams of a stem file, in order. The mixture was coded apart from the stems, and so is not exactly their sum.
STREAMS = (MIXTURE, "drums", "bass", "other", VOCALS)
STEMS = STREAMS[1:]
SUFFIX = ".stem.mp4"
FETCH = (
    "fetch MUSDB18-HQ (`bsm data fetch musdb18-hq`), MUSDB18 (`bsm data fetch musdb18`) or its 7 s sample "
    "(`bsm data fetch musdb18-sample`)"
)
_NAME = "musdb18-hq"
_SAMPLE = 94  # songs in the folder `train` of the 7 s sample
_SONG = "The Easton Ellises - Falcon 69"  # of the excerpt
_AAC_FRAME = 1024  # samples


def example_track(cache: Path) -> Track:
    """Open a real 6 s excerpt of a MUSDB18 test song, 44.1 kHz stereo.

    The first call decodes it from the package stempeg to ``<cache>/falcon69/*.wav``. The mixture is the sum of the
    stems. The file's own mixture was coded apart, and is 15.4 dB above its difference from that sum.

    Raises:
        InputError: ffmpeg or stempeg is missing, or the excerpt cannot be decoded or written.
    """
    files = {name: AudioFile(Path(cache) / "falcon69" / f"{name}.wav") for name in sorted(STREAMS)}
    if not all(file.path.is_file() for file in files.values()):
        stempeg = need_stempeg("the real excerpt needs")
        source = stempeg.example_stem_path()
        try:
            streams, rate = stempeg.read_stems(source, dtype=np.float32)  # (streams, samples, channels)
        except Exception as error:  # ffmpeg's failures come as several types
            raise InputError(
                f"{source}: cannot be decoded ({one_line(error)}); install stempeg and ffmpeg again"
            ) from error
        sounds = {name: np.ascontiguousarray(streams[STREAMS.index(name)].T, dtype=np.float32) for name in STEMS}
        sounds[MIXTURE] = np.sum(list(sounds.values()), axis=0, dtype=np.float32)
        audio.write_all({files[name].path: sound for name, sound in sounds.items()}, int(rate))
    mixture = files.pop(MIXTURE)
    return Track(_SONG, "test", files, mixture)


def need_ffmpeg(who: str = "decoding MUSDB18 needs") -> None:
    """Raise an InputError, which begins with ``who``, unless ffmpeg is installed."""
    missing = [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"{who} {' and '.join(missing)} on PATH; run `apt-get install ffmpeg`")


def need_stempeg(who: str = "stem files need") -> ModuleType:
    """Import stempeg; raise an InputError, which begins with ``who``, if it or ffmpeg is missing."""
    need_ffmpeg(who)
    try:
        import stempeg  # late: the import runs ffmpeg
    except ImportError as error:
        raise InputError(f"{who} the package stempeg ({error}); run `make env`") from error
    return stempeg


@dataclass(frozen=True)
class Stem:
    """One audio stream of a ``.stem.mp4`` file, a :class:`bsm.data.tracks.Source`.

    To read a part, the two AAC frames before it are decoded, too. So its samples equal those of the whole, decoded.
    """

    path: Path
    stream: int  # its number
    header: Any = field(repr=False, compare=False)  # the file's stempeg.Info

    @property
    def info(self) -> audio.AudioInfo:
        """Rate and channels of the stream, and the length of the mixture."""
        return audio.AudioInfo(self.header.rate(self.stream), self.header.channels(self.stream), self.header.samples(0))

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)``, float32 ``(channels, stop - start)``.

        Raises:
            InputError: the part is empty or begins outside the stream, or the file cannot be decoded.
        """
        import stempeg  # late: the import runs ffmpeg

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
            raise InputError(f"{self.path}: cannot be decoded ({one_line(error)}); fetch it again") from error
        sound = sound.reshape(-1, found.channels)[start - first : stop - first].T
        # A decoded stream may differ from the length in its header by one frame.
        if (missing := stop - start - sound.shape[1]) > _AAC_FRAME:
            raise InputError(
                f"{self.path}: damaged, {sound.shape[1]} of {stop - start} samples decoded; fetch it again"
            )
        return np.ascontiguousarray(np.pad(sound, ((0, 0), (0, max(0, missing)))))


def streams(path: Path) -> dict[str, Stem]:
    """Open the streams of a stem file, by name.

    Raises:
        InputError: ffmpeg or stempeg is missing, the file cannot be read, or it has not five audio streams.
    """
    stempeg = need_stempeg()
    try:
        header = stempeg.Info(str(path))
        count = header.nb_audio_streams
    except Exception as error:  # ffprobe's failures come as several types
        raise InputError(f"{path}: cannot be read ({one_line(error)}); fetch it again") from error
    if count != len(STREAMS):
        raise InputError(f"{path}: has {count} audio streams, not 5 (mixture and four stems); fetch it again")
    return {name: Stem(path, stream, header) for stream, name in enumerate(STREAMS)}


def split_tracks(root: Path, split: str, skipped: dict[str, str] | None = None, *, stems: bool) -> list[Track]:
    """Open one split of MUSDB18-HQ, a folder per song; or, with ``stems``, of MUSDB18 or its 7 s sample.

    The songs lie in ``<root>/{train,test}``. A stem file has a mixture of its own. It is used, as in every published
    score on MUSDB18. The accompaniment is then the sum of drums, bass and other, as in the package musdb.
    :func:`bsm.data.layouts.open_tracks` documents ``skipped``.

    Raises:
        InputError: songs are missing, a song cannot be read, or ffmpeg or stempeg is missing for stem files.
    """
    if stems:
        need_stempeg()
    held_out = registry.load(_NAME).splits["valid"]
    songs = {_song(path): path for path in _listed(root, split, f"*{SUFFIX}" if stems else "*/")}
    chosen = [name for name in sorted(songs) if split == "test" or held_out.holds(name) == (split == "valid")]
    if not chosen:
        raise InputError(f"MUSDB18: no songs of split {split!r}; {FETCH}")
    _check_count(root / _folder(split), len(songs), sample=stems)  # before songs are read to their end
    make = _stem_track if stems else _hq_track
    return open_songs({name: songs[name] for name in chosen}, make, split, skipped)


def _stem_track(path: Path, split: str) -> Track:
    found = streams(path)
    mixture = found.pop(MIXTURE)
    rest = tuple(stem for stem in STEMS if stem != VOCALS)
    return Track(_song(path), split, dict(sorted(found.items())), mixture, rest)


def is_hq(root: Path, split: str) -> bool:
    """Return whether the folder of a split has a validation or test song of MUSDB18-HQ.

    Training songs do not count: users train on selections of them, and such a selection is not MUSDB18-HQ.
    """
    held_out = [part for name, part in registry.splits(_NAME).items() if name != "train"]
    return any(part.holds(path.name) for path in _listed(root, split, "*/") for part in held_out)


def _hq_track(folder: Path, split: str) -> Track:
    if lacks := [f"{name}.wav" for name in STREAMS if not (folder / f"{name}.wav").is_file()]:
        raise InputError(f"{folder}: incomplete, {', '.join(lacks)} missing; {FETCH}")
    return song_track(folder, split)


def _check_count(folder: Path, found: int, *, sample: bool) -> None:
    parts = registry.load(_NAME).splits.values()
    wanted = sum(part.songs or 0 for part in parts if part.folder == folder.name)
    if found != wanted and not (sample and folder.name == "train" and found == _SAMPLE):
        raise InputError(f"{folder}: {found} songs where MUSDB18 has {wanted} for {folder.name}; {FETCH}")


def _listed(root: Path, split: str, pattern: str) -> list[Path]:
    found = sorted((root / _folder(split)).glob(pattern))
    return [path for path in found if path.is_dir() == pattern.endswith("/") and not path.name.startswith(".")]


def _folder(split: str) -> str:
    return "train" if split == "valid" else split


def _song(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)
