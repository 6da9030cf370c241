"""Rehearse the paper's profile without its data, GPU or days: ``make rehearse``.

In a temporary copy of the checkout, `make reproduce PROFILE=paper` runs on a stand-in for MUSDB18-HQ: the same folders,
names, rate, channels and number of songs, each 2.5 s of made-up sound. The model is of the paper's design at a small
size, and learns for a few updates on the CPU. The first run is killed while it trains; the second goes on. Scores mean
nothing. What counts is that every rule ends, and that memory and open files do not grow over the songs.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from tqdm import tqdm

from bsm import audio
from bsm.config import ModelConfig
from bsm.data.tracks import Track, load_tracks
from bsm.evaluate import model_separator
from bsm.files import write_text
from bsm.model import BSMamba2
from bsm.study.records import ROOT, Mark, mark, write_result

PROFILE, DATA = "paper", "musdb18-hq"
SECONDS, RATE = 2.5, 44100  # of a song
SMALL = {
    "model": "tiny",
    "steps": 12,
    "batch_size": 1,
    "accumulate": 2,
    "segment_seconds": 1.0,
    "window_seconds": 1.0,
    "validate_every": 4,
    "checkpoint_every": 2,
    "workers": 2,
    "device": "cpu",
    "windows": [1.0, 2.0, "whole"],
    "overlap_windows": [1.0],
    "bench_preset": "tiny",
    "bench_seconds": [0.5],
    "bench_repeats": 1,
    "profile_seconds": [0.5],
}
"""What takes the place of the profile's values; all others stay."""
SETTLED, GROWTH = 10, 64e6
"""Songs after which memory has to stay the same, and the bytes by which it may still differ."""
FILES = ("bsm", "data_manifest", "notebooks")
SINGLE = ("Makefile", "Snakefile", "pyproject.toml")

log = logging.getLogger(__name__)


def prepare(copy: Path, songs: int | None = None) -> None:
    """Make a checkout with the small profile and the stand-in, of all songs or of so many ``songs`` a split."""
    for name in FILES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SINGLE:
        shutil.copy(ROOT / name, copy)
    (copy / "reports").mkdir()
    (copy / ".venv").symlink_to(sys.prefix)
    profile = copy / f"notebooks/profiles/{PROFILE}.yaml"
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    write_text(profile, yaml.safe_dump(values | SMALL))
    manifest = copy / f"data_manifest/{DATA}.yaml"
    listed = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    for split in listed["splits"].values():
        split["names"] = split["names"][:songs]
        split["songs"] = len(split["names"])
    write_text(manifest, yaml.safe_dump(listed, allow_unicode=True))
    places = [
        copy / "data" / DATA / split.get("folder", name) / song
        for name, split in listed["splits"].items()
        for song in split["names"]
    ]
    for seed, place in enumerate(tqdm(places, desc="making songs", unit="song")):
        make_song(place, seed)


def make_song(folder: Path, seed: int) -> None:
    """Write a song as MUSDB18-HQ has it, five stereo files: noise, a voice that comes and goes, and their sum."""
    random = np.random.default_rng(seed)
    sounds = {name: random.normal(0, 0.05, (2, round(SECONDS * RATE))) for name in ("bass", "drums", "other")}
    times = np.arange(round(SECONDS * RATE)) / RATE
    sung = (times % 1.0) < random.uniform(0.5, 0.9)
    # Softer than the rest: a network that learned next to nothing is then still better than the mixture, as 04 asserts.
    sounds["vocals"] = np.tile(0.05 * sung * np.sin(2 * np.pi * random.uniform(100, 400) * times), (2, 1))
    sounds["mixture"] = np.sum(list(sounds.values()), axis=0)
    parts = {folder / f"{name}.wav": sound.astype(np.float32) for name, sound in sounds.items()}
    audio.write_all(parts, RATE, subtype="PCM_16")


def walk(tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Read, separate and leave one song after the other; return this process's memory and open files after each."""
    separate = model_separator(BSMamba2(ModelConfig.preset(SMALL["model"])).eval())
    process, records = psutil.Process(), []
    with torch.inference_mode():
        for track in tqdm(tracks, desc="walking", unit="song"):
            separate(track)
            for name in track.sources:
                track.read(name)
            size = process.memory_info().rss
            records.append({"track": track.name, "resident_bytes": size, "open_files": process.num_fds()})
    return records


def grown(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return by how many bytes and open files the largest value exceeds that of the song at which all is settled."""
    settled = records[min(SETTLED, len(records)) - 1 :]
    return {key: max(r[key] for r in settled) - settled[0][key] for key in ("resident_bytes", "open_files")}


def reproduce(copy: Path, cores: int, *, kill: bool = False) -> dict[str, Any]:
    """Run `make reproduce` in the copy; with ``kill``, until the first checkpoint of a training is there.

    Returns:
        The ``seconds`` it took, whether it was ``killed``, the steps of ``done`` and ``planned`` rules at its end, and
        the ``resumed`` trainings' steps.

    Raises:
        RuntimeError: it failed, or it ended before it could be killed; the message has the end of its output.
    """
    command = ["make", "-o", ".venv/.installed", "reproduce", f"PROFILE={PROFILE}", f"CORES={cores}"]
    environment, started = os.environ | {"PYTHONPATH": str(copy)}, time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(command, cwd=copy, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            while run.poll() is None and not (kill and any(copy.glob(f"runs/{PROFILE}/*/state.ckpt"))):
                time.sleep(0.2)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        output.seek(0)
        text = output.read()
    if kill != (run.returncode == -signal.SIGKILL) or (run.returncode and not kill):
        raise RuntimeError(f"{' '.join(command)}: status {run.returncode}; its output ends:\n{text[-4000:]}")
    steps = re.findall(r"^(\d+) of (\d+) steps \(\d+%\) done", text, re.MULTILINE)
    done, planned = map(int, steps[-1]) if steps else (0, 0)
    found = {"command": " ".join(command), "seconds": round(time.monotonic() - started, 1), "killed": kill}
    resumed = [int(step) for step in re.findall(r"resuming at step (\d+) of", text)]
    return found | {"done": done, "planned": planned, "resumed": resumed}


def rehearse(output: Path, *, songs: int | None = None, cores: int = 2) -> dict[str, Any]:
    """Rehearse the profile, and write what was seen to a result file.

    Raises:
        RuntimeError: a rule failed, no training went on where it was killed, or memory or open files grew.
    """
    started: Mark = mark()
    with tempfile.TemporaryDirectory(prefix="bsm-rehearsal-") as folder:
        copy = Path(folder)
        prepare(copy, songs)
        root = copy / "data" / DATA
        runs = [reproduce(copy, cores, kill=True), reproduce(copy, cores)]
        report = copy / f"reports/{PROFILE}/report.md"
        walked = walk([*load_tracks(root, "train"), *load_tracks(root, "test")])
        values = {"runs": runs, "walk": walked, "grown": grown(walked)}
        faults = {
            "not every rule ended": runs[1]["done"] != runs[1]["planned"] or not report.is_file(),
            "no training went on": not runs[1]["resumed"],
            f"memory grew by {values['grown']['resident_bytes']:,} bytes": values["grown"]["resident_bytes"] > GROWTH,
            f"{values['grown']['open_files']} more open files": values["grown"]["open_files"] > 0,
        }
    write_result(
        output,
        measured="the paper's profile rehearsed: seconds and rules of each run; memory (bytes), open files by song",
        parameters={"profile": PROFILE, "cores": cores, "seconds": SECONDS} | SMALL,
        values=values,
        started=started,
        data=f"a stand-in for {DATA}: {len(walked)} songs of {SECONDS:g} s",
        inputs=(),
    )
    if found := [fault for fault, here in faults.items() if here]:
        raise RuntimeError(f"{output}: {'; '.join(found)}")
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bsm.study.rehearse", description="Rehearse the paper's profile.")
    parser.add_argument("output", type=Path, help="result file (JSON)")
    parser.add_argument("--songs", type=int, help="songs a split; by default all")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seen = rehearse(given.output, songs=given.songs, cores=given.cores)
    for record in seen["runs"]:
        log.info("%s", record)
    log.info("after %d songs grown by %s; written to %s", len(seen["walk"]), seen["grown"], given.output)
