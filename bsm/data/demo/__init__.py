"""Synthesise demo songs: music with a sung vocal stem, for users without a data set.

:mod:`bsm.data.demo.score` composes a score from a seed. :mod:`bsm.data.demo.render` plays it with a General MIDI
synthesiser. :mod:`bsm.data.demo.voice` sings it with a synthetic voice. Results on these songs say nothing about real
music.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bsm import audio
from bsm.data.demo.render import RATE, SHORTEST_SONG, STEMS, render_song
from bsm.errors import InputError
from bsm.files import sha256, write_text
from bsm.versions import GENERATOR_VERSION

__all__ = ["FIRST_SEED", "GENERATOR_VERSION", "STEMS", "make_corpus", "render_song"]

#: Split -> its first seed. The splits share neither seeds nor words, instruments or voices.
FIRST_SEED = {"train": 1000, "valid": 2000, "test": 3000}

log = logging.getLogger(__name__)

_RECORD = "corpus.json"
_TEMPORARY = ".rendering-"
_NAME = re.compile(rf"({'|'.join(FIRST_SEED)})/demo-\d+")
_PACKAGES = ("numpy", "scipy", "pyworld-prebuilt", "espeakng-loader", "tinysoundfont", "pretty_midi")


def make_corpus(
    root: Path,
    *,
    songs: Mapping[str, int],
    seconds: float = 30.0,
    rate: int = RATE,
    channels: int = 2,
    processes: int | None = None,
) -> Path:
    """Render a data set of demo songs to ``<root>/<split>/demo-<seed>/{mixture,vocals,drums,bass,other}.wav``.

    ``<root>/corpus.json`` records the settings and checksums of each song. A repeated call renders only songs that are
    missing, damaged or made with other settings, and removes recorded songs that are no longer wanted. Two calls must
    not use one ``root`` at the same time.

    Args:
        root: the data set's folder, made if it is missing.
        songs: number of songs per split; seeds count up from 1000 (train), 2000 (valid), 3000 (test).
        seconds: length of each song.
        rate: samples per second.
        channels: 1 or 2.
        processes: number of rendering processes; by default one per processor core. With several processes, the calling
            script needs ``if __name__ == "__main__"``, because each process imports the script.

    Raises:
        InputError: a split is unknown or has more than 1000 songs, there are no songs, they are shorter than 2 s, a
            package for demo songs is missing, or ``root`` cannot be written.
    """
    root, wanted = Path(root), _seeds(songs)
    if seconds < SHORTEST_SONG:
        raise InputError(f"demo songs need at least {SHORTEST_SONG} s, not {seconds} s")
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write_record(root, record := _read_record(root))
    except OSError as error:
        raise InputError(f"{root}: cannot be written ({error}); give another folder for the demo songs") from error
    for leftover in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover)
    for name in sorted(set(record) - set(wanted)):
        log.info("%s: removing %s, which is no longer wanted", root, name)
        shutil.rmtree(root / name, ignore_errors=True)
        del record[name]
    checked = tqdm(wanted, desc="checking demo songs", disable=not record, leave=False)
    shared = {"seconds": seconds, "rate": rate, "channels": channels, "generator_version": GENERATOR_VERSION}
    settings = {name: {"seed": seed} | shared for name, seed in wanted.items()}
    missing = [name for name in checked if not _is_intact(root / name, record.get(name), settings[name])]
    if missing:
        log.info("%s: %d of %d songs to render", root, len(missing), len(wanted))
        jobs = [(root, name, settings[name]) for name in missing]
        for name, entry in tqdm(_run(jobs, processes), desc="rendering demo songs", total=len(jobs)):
            record[name] = entry
            _write_record(root, record)
    _write_record(root, record)
    return root


def _seeds(songs: Mapping[str, int]) -> dict[str, int]:
    """Return ``<split>/<song>`` -> seed."""
    for split, count in songs.items():
        if split not in FIRST_SEED or not 0 <= count <= 1000:
            raise InputError(
                f"demo songs: {split}={count}; the splits are {', '.join(FIRST_SEED)}, with 0 to 1000 songs each"
            )
    if not sum(songs.values()):
        raise InputError("demo songs: all splits are empty; ask for at least one song")
    firsts = {split: FIRST_SEED[split] for split in songs}
    return {f"{s}/demo-{seed}": seed for s, first in firsts.items() for seed in range(first, first + songs[s])}


def _run(jobs: list[tuple], processes: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Render jobs in parallel; yield each song's name and record entry, in order."""
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    if processes == 1:
        yield from (_render_to(*job) for job in jobs)
        return
    # Spawn: the state of espeak-ng and torch does not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_render_to, *zip(*jobs, strict=True))


def _render_to(root: Path, name: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Render one song into a temporary folder, give that its name, and return the record entry."""
    temporary, target = root / f"{_TEMPORARY}{settings['seed']}", root / name
    rate = settings["rate"]
    for stem, sound in render_song(settings["seed"], settings["seconds"], rate, settings["channels"]).items():
        audio.write(temporary / f"{stem}.wav", sound, rate, subtype="PCM_16")
    files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    temporary.replace(target)
    packages = {package: metadata.version(package) for package in _PACKAGES}
    return name, {**settings, "packages": packages, "files": files}


def _is_intact(folder: Path, entry: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Return whether a song's files equal its record, and the record has these settings."""
    if entry is None:
        return False
    if any(entry.get(key) != value for key, value in wanted.items()):
        log.info("%s: made with other settings, rendering it again", folder)
        return False
    files = entry.get("files", {})
    whole = set(files) == {f"{stem}.wav" for stem in (*STEMS, "mixture")} and all(
        (folder / name).is_file() and sha256(folder / name) == digest for name, digest in files.items()
    )
    if not whole:
        log.warning("%s: missing or damaged files, rendering it again", folder)
    return whole


def _read_record(root: Path) -> dict[str, dict[str, Any]]:
    path = root / _RECORD
    try:
        songs = json.loads(path.read_text())["songs"]
        # Names become paths that may be removed, so accept only names that this module gives.
        return {name: dict(entry) for name, entry in songs.items() if _NAME.fullmatch(name)}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: unreadable (%s), rendering all songs again", path, error)
        return {}


def _write_record(root: Path, record: dict[str, dict[str, Any]]) -> None:
    write_text(root / _RECORD, json.dumps({"songs": dict(sorted(record.items()))}, indent=1) + "\n")
