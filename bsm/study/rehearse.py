"""Rehearse a profile without its data, GPU or days: ``make rehearse``.

In a temporary copy of the checkout, `make reproduce` runs the profile on stand-ins for its songs
(:mod:`bsm.study.stand_ins`). The model is of the profile's design at a small size, and learns for a few updates on the
CPU. The first run is killed while it trains; the second goes on. Scores mean nothing. What counts is that every rule
ends, and that memory and open files do not grow over the songs.
"""

from __future__ import annotations

import argparse
import json
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

import psutil
import torch
import yaml
from tqdm import tqdm

from bsm.config import ModelConfig
from bsm.evaluate import model_separator
from bsm.files import write_text
from bsm.model import BSMamba2
from bsm.study.commands import process_group
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, mark, write_result
from bsm.study.stand_ins import SECONDS, make_songs

PROFILES = ("paper", "sample", "mir1k")
"""Profiles to rehearse: those whose songs have to be fetched."""
SMALL = {
    "steps": 6,
    "batch_size": 1,
    "accumulate": 2,
    "segment_seconds": 1.0,
    "window_seconds": 1.0,
    "validate_every": 3,
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
"""Overrides of a profile's own values."""
MODELS = {44100: "tiny", 16000: "tiny-16k"}
"""Presets of the small models, by sample rate."""
SETTLED, GROWTH = 10, 64e6
"""Number of songs after which memory must be stable, and by how many bytes it may still grow."""
COPIED = ("bsm", "data_manifest", "docs", "notebooks", "Makefile", "Snakefile", "pyproject.toml")

log = logging.getLogger(__name__)


def copy_of_checkout(folder: Path, *names: str, without: Sequence[str] = ()) -> Path:
    """Copy files and folders of this checkout, links as links, and none of what a run leaves; return the copy.

    Files of folders whose names fit a pattern of ``without`` are left out.
    """
    for name in names:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", *without)
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, target)
    return folder


def prepare(copy: Path, profile: str, songs: int | None = None) -> dict[str, Any]:
    """Make a copy of the checkout with the small profile and stand-in songs; return the profile's values.

    ``songs`` is the number of songs per split; by default all.
    """
    copy_of_checkout(copy, *COPIED)
    (copy / "reports").mkdir()
    (copy / ".venv").symlink_to(sys.prefix)
    path = copy / f"notebooks/profiles/{profile}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values |= {name: value for name, value in SMALL.items() if name in values}
    values["model"] = MODELS[ModelConfig.preset(values["model"]).sample_rate]
    write_text(path, yaml.safe_dump(values))
    make_songs(copy, values["data"], songs)
    return values


def walk(profile: str) -> list[dict[str, Any]]:
    """Read, separate and leave one song after the other; return this process's memory and open files after each."""
    settings = Profile.load(profile)
    separate = model_separator(BSMamba2(settings.model_config()).eval())
    process, records = psutil.Process(), []
    with torch.inference_mode():
        for track in tqdm([t for tracks in settings.tracks().values() for t in tracks], desc="walking", unit="song"):
            separate(track)
            for name in track.sources:
                track.read(name)
            size = process.memory_info().rss
            records.append({"track": track.name, "resident_bytes": size, "open_files": process.num_fds()})
    return records


def _environment(copy: Path) -> dict[str, str]:
    """Return the environment of a command in the copy, without the variables by which make passes on its options."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return own | {"PYTHONPATH": str(copy)}


def grown(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many bytes and open files the later songs add to those of song number :data:`SETTLED`."""
    settled = records[min(SETTLED, len(records)) - 1 :]
    return {key: max(r[key] for r in settled) - settled[0][key] for key in ("resident_bytes", "open_files")}


def reproduce(copy: Path, profile: str, cores: int, log_file: Path, *, kill: bool = False) -> dict[str, Any]:
    """Run `make reproduce` in a copy of the checkout; with ``kill``, until the first checkpoint of a training is there.

    Returns:
        The ``seconds`` it took, whether it was ``killed``, the steps of ``done`` and ``planned`` rules at its end, and
        the ``resumed`` trainings' steps.

    Raises:
        RuntimeError: it failed, or it ended before it could be killed; the message names the log.
    """
    command = ["make", "-o", ".venv/.installed", "reproduce", f"PROFILE={profile}", f"CORES={cores}"]
    started = time.monotonic()
    with process_group(command, log_file, cwd=copy, env=_environment(copy)) as run:
        while run.poll() is None and not (kill and any(copy.glob(f"runs/{profile}/*/state.ckpt"))):
            time.sleep(0.2)
    text = log_file.read_text(errors="replace")
    if kill != (run.returncode == -signal.SIGKILL) or (run.returncode and not kill):
        said = "\n".join(re.findall(r"^(?:bsm|make|error): .*", text, re.MULTILINE)) or "nothing about it"
        raise RuntimeError(f"{' '.join(command)}: status {run.returncode}; its log is {log_file}. It said:\n{said}")
    steps = re.findall(r"^(\d+) of (\d+) steps \(\d+%\) done", text, re.MULTILINE)
    done, planned = map(int, steps[-1]) if steps else (0, 0)
    found = {"command": " ".join(command), "seconds": round(time.monotonic() - started, 1), "killed": kill}
    resumed = [int(step) for step in re.findall(r"resuming at step (\d+) of", text)]
    return found | {"done": done, "planned": planned, "resumed": resumed}


def rehearse(output: Path, profile: str, *, songs: int | None = None, cores: int = 2) -> dict[str, Any]:
    """Rehearse a profile, and write what was seen to a result file; logs of the two runs lie next to it.

    Raises:
        RuntimeError: a rule failed, no training went on where it was killed, or memory or open files grew.
    """
    started = mark()
    logs = [output.with_name(f"{output.stem}-{run}.log") for run in ("killed", "resumed")]
    with tempfile.TemporaryDirectory(prefix="bsm-rehearsal-") as folder:
        copy = Path(folder)
        small = prepare(copy, profile, songs)
        runs = [reproduce(copy, profile, cores, path, kill=path == logs[0]) for path in logs]
        report = copy / f"reports/{profile}/report.md"
        # In a process of its own that runs in the copy, with the copy's songs.
        call = f"import json; from bsm.study.rehearse import walk; print(json.dumps(walk({profile!r})))"
        command = [sys.executable, "-c", call]
        done = subprocess.run(command, cwd=copy, env=_environment(copy), check=True, stdout=subprocess.PIPE)
        songs_walked = json.loads(done.stdout)
        values = {"runs": runs, "walk": songs_walked, "grown": grown(songs_walked)}
        faults = {
            "not every rule ended": runs[1]["done"] != runs[1]["planned"] or not report.is_file(),
            "no training went on": not runs[1]["resumed"],
            f"memory grew by {values['grown']['resident_bytes']:,} bytes": values["grown"]["resident_bytes"] > GROWTH,
            f"{values['grown']['open_files']} more open files": values["grown"]["open_files"] > 0,
        }
    write_result(
        output,
        measured="a profile rehearsed: seconds and rules of each run; memory (bytes) and open files by song",
        parameters={"cores": cores, "seconds": SECONDS} | small,
        values=values,
        started=started,
        data=f"a stand-in for {small['data']}: {len(songs_walked)} songs of {SECONDS:g} s",
        inputs=(),
    )
    if found := [fault for fault, here in faults.items() if here]:
        raise RuntimeError(f"{output}: {'; '.join(found)}; the second run's log is {logs[1]}")
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bsm.study.rehearse", description="Rehearse a profile.")
    parser.add_argument("--profile", choices=PROFILES, default=PROFILES[0])
    parser.add_argument("--songs", type=int, help="songs a split; by default all")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", type=Path, help="result file; by default build/rehearsal-PROFILE.json")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = given.json or ROOT / "build" / f"rehearsal-{given.profile}.json"
    seen = rehearse(path, given.profile, songs=given.songs, cores=given.cores)
    for record in seen["runs"]:
        log.info("%s", record)
    log.info("after %d songs grown by %s; written to %s", len(seen["walk"]), seen["grown"], path)
