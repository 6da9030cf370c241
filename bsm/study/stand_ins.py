"""Stand-ins for data sets that have to be fetched: short made-up songs, with the layout, names, rate and channels.

They rehearse what is done with the real ones. Scores on them mean nothing.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from bsm import audio
from bsm.data.musdb18 import STEMS, STREAMS, need_ffmpeg
from bsm.data.tracks import ACCOMPANIMENT, MIXTURE, VOCALS
from bsm.files import write_text

SECONDS = 2.5  # of a song
MUSDB = "musdb18-hq"  # its manifest names the songs of every form of MUSDB18
MISSING = 6  # songs of MUSDB18 that its 7 s sample lacks in the folder train; which ones is not known
CLIPS, SINGERS = 1000, 19  # of MIR-1K


def make_songs(checkout: Path, name: str, songs: int | None = None) -> int:
    """Make a stand-in for a data set in the folder ``data`` of a checkout; return its number of songs.

    The names come from the data set's manifest, which lists songs or singers. With ``songs``, each split has that many,
    and the checkout's manifests are changed to list those alone. By default all songs of the data set are made.

    Raises:
        InputError: it has stem files, and ffmpeg is not installed.
    """
    listed = _read(checkout, name)
    if listed["layout"] == "stems":
        need_ffmpeg("a stand-in for stem files needs")
    made = 0
    for split, own in _names(checkout, name, songs).items():
        folder = checkout / "data" / name / listed["splits"][split].get("folder", split)
        for song in tqdm(own, desc=f"making songs of {split}", unit="song"):
            sounds = make_sounds(made, listed["rate"], listed["channels"])
            _WRITERS[listed["layout"]](folder / song, sounds, listed["rate"])
            made += 1
    return made


def make_sounds(seed: int, rate: int, channels: int) -> dict[str, np.ndarray]:
    """Make a song of :data:`SECONDS`: noise as bass, drums and rest, a voice that comes and goes, and their sum.

    Each sound is float32 ``(channels, samples)``.
    """
    random = np.random.default_rng(seed)
    samples = round(SECONDS * rate)
    sounds = {name: random.normal(0, 0.05, (channels, samples)) for name in STEMS if name != VOCALS}
    times = np.arange(samples) / rate
    sung = (times % 1.0) < random.uniform(0.5, 0.9)
    # Softer than the rest: a network that learned next to nothing is then still better than the mixture, as 04 asserts.
    voice = 0.05 * sung * np.sin(2 * np.pi * random.uniform(100, 400) * times)
    sounds[VOCALS] = np.tile(voice, (channels, 1))
    sounds[MIXTURE] = np.sum(list(sounds.values()), axis=0)
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


def write_stems(path: Path, sounds: Mapping[str, np.ndarray], rate: int) -> Path:
    """Write the five sounds of a song as the streams of a stem file, ``<path>.stem.mp4``, coded as MUSDB18's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.with_name(f"{path.name}.stem.mp4")
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.wav" for name in STREAMS}
        audio.write_all({file: sounds[name] for name, file in files.items()}, rate, subtype="PCM_16")
        inputs = [word for file in files.values() for word in ("-i", str(file))]
        maps = [word for stream in range(len(files)) for word in ("-map", str(stream))]
        command = ["ffmpeg", "-nostdin", "-v", "error", *inputs, *maps, "-c:a", "aac", "-b:a", "256k", str(target)]
        subprocess.run(command, check=True)
    return target


def _write_folder(path: Path, sounds: Mapping[str, np.ndarray], rate: int) -> None:
    """Write a song as MUSDB18-HQ has it: a folder with a file for each sound."""
    audio.write_all({path / f"{name}.wav": sound for name, sound in sounds.items()}, rate, subtype="PCM_16")


def _write_clip(path: Path, sounds: Mapping[str, np.ndarray], rate: int) -> None:
    """Write a song as MIR-1K has it: accompaniment left, voice right."""
    both = {ACCOMPANIMENT: sounds[MIXTURE] - sounds[VOCALS], VOCALS: sounds[VOCALS]}
    audio.write(path.with_name(f"{path.name}.wav"), np.concatenate(list(both.values())), rate, subtype="PCM_16")


_WRITERS = {"folders": _write_folder, "stems": write_stems, "clips": _write_clip}


def _names(checkout: Path, name: str, songs: int | None) -> dict[str, list[str]]:
    """Return the names of the songs to make, by split. Where they are fewer, the checkout's manifests list these."""
    listed = _read(checkout, name)
    if listed["layout"] == "clips":
        return {split: _clips(part["singers"], songs) for split, part in listed["splits"].items()}
    names = {split: part["names"][:songs] for split, part in _read(checkout, MUSDB)["splits"].items()}
    if songs is not None:
        for manifest in dict.fromkeys((MUSDB, name)):
            _shorten(checkout, manifest, names)
    elif listed["layout"] == "stems":
        names["train"] = names["train"][:-MISSING]
    return names


def _clips(singers: Sequence[str], clips: int | None) -> list[str]:
    """Name clips of MIR-1K, ``<singer>_<song>_<clip>``, the singers in turn; by default the split's share of all."""
    turns = [divmod(number, len(singers)) for number in range(clips or round(CLIPS * len(singers) / SINGERS))]
    return [f"{singers[singer]}_{1 + turn // 10}_{1 + turn % 10:02d}" for turn, singer in turns]


def _shorten(checkout: Path, name: str, names: Mapping[str, list[str]]) -> None:
    """Let a checkout's manifest list these songs alone."""
    listed = _read(checkout, name)
    for split, part in listed["splits"].items():
        part |= {"songs": len(names[split])} if part["songs"] else {}
        part |= {"names": names[split]} if "names" in part else {}
    write_text(checkout / "data_manifest" / f"{name}.yaml", yaml.safe_dump(listed, allow_unicode=True))


def _read(checkout: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((checkout / "data_manifest" / f"{name}.yaml").read_text(encoding="utf-8"))
