"""MUSDB18 in its published forms (HQ, stems, 7 s sample), and the one excerpt that the package stempeg carries."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from bsm import audio
from bsm.data.tracks import Track, folder_tracks, load_tracks
from bsm.errors import InputError

_SONG = "The Easton Ellises - Falcon 69"
# Streams of a MUSDB18 stem file, in order; stream 0 is the mixture as AAC made it, which is not the sum of its stems.
_STREAMS = (("drums", 1), ("bass", 2), ("other", 3), ("vocals", 4))
_STEMS = tuple(name for name, _ in _STREAMS)
_AAC_FRAME = 1024  # samples: by so much a decoded stream may be off the length that its header names
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
_FETCH = (
    "give a folder of songs (<song>/vocals.wav and the rest), or fetch MUSDB18-HQ (zenodo.org/records/3338373), "
    "MUSDB18 (zenodo.org/records/1117372), or its 7 s sample: "
    "python -c \"import musdb; musdb.DB(root='DIR', download=True)\""
)


def example_track(cache: Path) -> Track:
    """Return a real 6 s excerpt of a MUSDB18 test song, decoded once.

    The mixture is the sum of the stems: the file's own mixture stream was coded apart and differs from it (15.4 dB).

    Args:
        cache: folder that keeps the decoded files, as ``<cache>/falcon69/*.wav``, float.

    Returns:
        "The Easton Ellises - Falcon 69", 44.1 kHz stereo, split ``test``.

    Raises:
        InputError: ffmpeg or stempeg is missing, or the excerpt cannot be decoded.
    """
    folder = Path(cache) / "falcon69"
    if not folder.is_dir():
        _decode(folder)
    sources = {name: folder / f"{name}.wav" for name, _ in sorted(_STREAMS)}
    rate = audio.info(sources["vocals"]).rate
    return Track(_SONG, "test", rate, sources, folder / "mixture.wav")


def _decode(folder: Path) -> None:
    """Decode into a temporary folder beside ``folder``, which then takes its place."""
    _need_ffmpeg()
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
    temporary.mkdir(parents=True)
    try:
        for name, sound in sounds.items():
            audio.write(temporary / f"{name}.wav", sound, int(rate))
        temporary.replace(folder)
    except OSError:
        # Another process may have been first: its files are the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _need_ffmpeg() -> None:
    missing = [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"decoding MUSDB18 needs {' and '.join(missing)} on PATH; run `apt-get install ffmpeg`")


@dataclass(frozen=True)
class StemTrack:
    """A song of MUSDB18 as a ``.stem.mp4`` file; it answers as :class:`bsm.data.tracks.Track` does.

    Every read decodes a whole stream, through the package musdb, and cuts the wanted part out of it: AAC cannot be
    entered at an exact sample. The mixture is the file's own, as in every published figure for MUSDB18; the stems' sum
    differs from it a little, for each stream was coded apart.

    Attributes:
        name: the song's name.
        split: ``train``, ``valid`` or ``test``.
        rate: samples per second.
        channels: number of audio channels.
        samples: length in samples per channel, that of the mixture.
        mixture_path: the file.
        multitrack: musdb's own object.
    """

    name: str
    split: str
    rate: int
    channels: int
    samples: int
    mixture_path: Path
    multitrack: Any = field(repr=False, compare=False)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate

    @property
    def sources(self) -> dict[str, Path]:
        """Source name -> file, which is the same for all."""
        return dict.fromkeys(sorted(self.multitrack.sources), self.mixture_path)

    def read(self, source: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of one source, float32 ``(channels, stop - start)``.

        Raises:
            InputError: a source that the song does not have, or a file that cannot be decoded.
        """
        if source not in self.multitrack.sources:
            raise InputError(f"song {self.name!r} has no source {source!r}; it has: {', '.join(self.sources)}")
        return self._decoded(self.multitrack.sources[source], start, stop)

    def mixture(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples ``[start, stop)`` of the mixture, float32 ``(channels, stop - start)``."""
        return self._decoded(self.multitrack, start, stop)

    def accompaniment(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the sum of drums, bass and other (musdb's target), float32 ``(channels, stop - start)``."""
        return self._decoded(self.multitrack.targets["accompaniment"], start, stop)

    def _decoded(self, part: Any, start: int, stop: int | None) -> np.ndarray:
        stop = self.samples if stop is None else min(stop, self.samples)
        if not 0 <= start < stop:
            raise InputError(f"{self.mixture_path}: has samples 0 to {self.samples}, asked for {start} to {stop}")
        try:
            sound = np.asarray(part.audio, dtype=np.float32).reshape(-1, self.channels).T
        except Exception as error:  # ffmpeg's failures come as several types
            raise InputError(f"{self.mixture_path}: cannot be decoded ({error}); fetch it again") from error
        if abs(sound.shape[1] - self.samples) > _AAC_FRAME:
            raise InputError(
                f"{self.mixture_path}: damaged, {sound.shape[1]} of {self.samples} samples decoded; fetch it again"
            )
        out = np.zeros((self.channels, stop - start), np.float32)
        part_read = sound[:, start:stop]
        out[:, : part_read.shape[1]] = part_read
        return out


def open_tracks(root: str | Path, split: str) -> tuple[str, list[Track]]:
    """Open one split of a data set, whichever of the known layouts it has.

    - MUSDB18 or its 7 s sample: ``<root>/{train,test}/<song>.stem.mp4``;
    - MUSDB18-HQ: ``<root>/{train,test}/<song>/{mixture,vocals,drums,bass,other}.wav``, known by its songs' names;
    - songs: ``<root>/<split>/<song>/<source>.wav``, or ``<root>/<song>/<source>.wav`` whatever the split.

    The first two are listed by the package musdb, with its 14 validation songs (split ``valid``) out of ``train``.

    Args:
        root: the data set's folder.
        split: ``train``, ``valid`` or ``test``.

    Returns:
        The layout, ``MUSDB18-HQ``, ``MUSDB18`` (the sample too) or ``songs``, and the tracks, sorted by name.

    Raises:
        InputError: no such folder, no songs, a data set that is there in part only, or a missing package or ffmpeg;
            it says what to fetch.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_FETCH}")
    subset = "train" if split == "valid" else split
    folder = root / subset
    if any(root.glob("*/*.stem.mp4")):
        return "MUSDB18", _stem_tracks(root, subset, split)
    if folder.is_dir() and any(path.name in _known_songs() for path in folder.iterdir() if path.is_dir()):
        return "MUSDB18-HQ", _wav_tracks(root, subset, split)
    if not any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir()):
        raise InputError(f"{root}: no songs in it, neither <song>/vocals.wav nor MUSDB18; {_FETCH}")
    return "songs", load_tracks(root, split) if (root / split).is_dir() else folder_tracks(root, split)


def _stem_tracks(root: Path, subset: str, split: str) -> list[Track]:
    names = [path for path in (root / subset).glob("*.stem.mp4") if not path.name.startswith(".")]
    _check_count(
        root / subset, len(names), subset, (50,) if subset == "test" else (100, 94)
    )  # the sample has 144 songs
    tracks = []
    for song in _musdb_list(root, subset, split, is_wav=False):
        info = song.info
        if (streams := info.nb_audio_streams) != 5:
            raise InputError(
                f"{song.path}: has {streams} audio streams, not 5 (mixture and four stems); fetch it again"
            )
        made = StemTrack(song.name, split, info.rate(0), info.channels(0), info.samples(0), Path(song.path), song)
        tracks.append(cast(Track, made))
    return tracks


def _wav_tracks(root: Path, subset: str, split: str) -> list[Track]:
    folders = [path for path in (root / subset).iterdir() if path.is_dir() and not path.name.startswith(".")]
    for folder in sorted(folders):
        lacks = [f"{name}.wav" for name in ("mixture", *_STEMS) if not (folder / f"{name}.wav").is_file()]
        if lacks:
            raise InputError(f"{folder}: incomplete, {', '.join(lacks)} missing; {_FETCH}")
    _check_count(root / subset, len(folders), subset, (50,) if subset == "test" else (100,))
    tracks = []
    for song in _musdb_list(root, subset, split, is_wav=True):
        sources = {name: Path(source.path) for name, source in sorted(song.sources.items())}
        infos = {name: audio.info(path) for name, path in (sources | {"mixture": Path(song.path)}).items()}
        if len(set(infos.values())) > 1:
            raise InputError(f"{Path(song.path).parent}: its files differ in length, rate or channels; {_FETCH}")
        tracks.append(Track(song.name, split, infos["mixture"].rate, sources, Path(song.path)))
    return tracks


def _check_count(folder: Path, found: int, subset: str, wanted: tuple[int, ...]) -> None:
    if found not in wanted:
        raise InputError(f"{folder}: {found} songs where MUSDB18 has {wanted[0]} for {subset}; {_FETCH}")


def _musdb_list(root: Path, subset: str, split: str, *, is_wav: bool) -> list[Any]:
    """List songs with musdb, sorted by name.

    Raises:
        InputError: musdb or ffmpeg is missing, a file that ffprobe cannot read, or a split without songs.
    """
    _need_ffmpeg()
    try:
        import musdb  # late: it imports stempeg, which runs ffmpeg at once
    except (ImportError, RuntimeError) as error:
        raise InputError(f"MUSDB18 needs the package musdb ({error}); run `make env`") from error
    part = {"train": "train", "valid": "valid"}.get(split) if subset == "train" else None
    try:
        songs = list(musdb.DB(root=str(root), is_wav=is_wav, subsets=[subset], split=part))
    except Exception as error:  # ffprobe's failures come as several types
        raise InputError(f"{root}: a song cannot be read ({' '.join(str(error).split())}); {_FETCH}") from error
    if not songs:
        raise InputError(f"{root}: no songs of split {split!r}; {_FETCH}")
    return sorted(songs, key=lambda song: song.name)


@cache
def _known_songs() -> frozenset[str]:
    """Names that tell MUSDB18 from other songs in the same layout: musdb's validation songs and some test songs."""
    spec = find_spec("musdb")  # without importing it, which needs ffmpeg
    validation: list[str] = []
    if spec and spec.origin:
        text = (Path(spec.origin).parent / "configs" / "mus.yaml").read_text(encoding="utf-8")
        validation = yaml.safe_load(text)["validation_tracks"]
    return frozenset([*validation, *_TEST_SONGS])
