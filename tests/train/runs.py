"""Small runs for the tests of the training: a model of a few thousand weights, songs of noise and tones."""

import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bsm import audio
from bsm.bands import equal
from bsm.baseline import RoformerConfig
from bsm.config import LossConfig, ModelConfig, StftConfig, TrainConfig
from bsm.train import read_log

RATE = 8000
MODEL = ModelConfig(
    sample_rate=RATE,
    channels=1,
    stft=StftConfig(n_fft=256, hop_length=64),
    bands=equal(129, 5),
    dim=8,
    depth=1,
    d_state=8,
    headdim=8,
    expand=2,
    mask_expansion=1,
)
ROFORMER = RoformerConfig.like(MODEL).replace(heads=2, dim_head=4)
CONFIG = TrainConfig(
    steps=7,
    batch_size=2,
    accumulate=2,
    segment_seconds=0.25,
    lr=2e-3,
    clip=0.5,
    ema_decay=0.9,
    validate_every=3,
    checkpoint_every=2,
    workers=0,
    precision="32-true",
    loss=LossConfig(windows=(256, 128), hop_length=64, min_fft=256),
)


def write_songs(root: Path, *, rate: int = RATE, channels: int = 1) -> Path:
    """Write two songs to learn from and one to validate on: a gliding tone over bursts of noise, 2 s each."""
    for index, (split, name) in enumerate([("train", "a"), ("train", "b"), ("valid", "c")]):
        rng = np.random.default_rng(index)
        time = np.arange(2 * rate) / rate
        sounds = {
            "vocals": 0.3 * np.sin(2 * np.pi * (300 + 100 * index + 50 * time) * time),
            "drums": 0.2 * rng.standard_normal(len(time)) * (np.sin(2 * np.pi * 3 * time) > -0.5),
        }
        folder = root / split / name
        folder.mkdir(parents=True)
        for source, sound in sounds.items():
            audio.write(folder / f"{source}.wav", np.tile(sound, (channels, 1)), rate)
    return root


def kill(*_):
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def without_times(run):
    return [{k: v for k, v in line.items() if k not in ("seconds", "waited", "memory_mb")} for line in read_log(run)]


def assert_same_weights(run, other):
    """Last, averaged and best weights, optimiser and random numbers are equal bit for bit."""
    first, second = (torch.load(folder / "state.ckpt", weights_only=True) for folder in (run, other))
    for part in ("model", "averaged"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    for mine, theirs in zip(*(s["optimizer"]["state"].values() for s in (first, second)), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(first["random"], second["random"])
    assert (first["step"], first["skipped"], first["ranking"]) == (second["step"], second["skipped"], second["ranking"])
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")) for folder in (run, other)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (run / name).read_bytes() == (other / name).read_bytes()


def assert_same_run(run, other):
    """Weights, training state and log of two runs are equal bit for bit, except for times and memory."""
    assert_same_weights(run, other)
    assert without_times(run) == without_times(other)


def forked(action, environment=()):
    """Run a function in a forked process; return its exit status."""
    return finished(fork(action, environment))


def fork(action, environment=()):
    """Start a function in a forked process; return the process's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(environment)
        action()
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finished(child):
    """Wait for a process; return its exit status, or its signal's number below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def scalars(run, name):
    """Return TensorBoard's values of a run: the files of a resumed run replace the later steps of earlier files.

    TensorBoard sorts files by name, so that it may put the tenth file of a second before the second. This sorts by
    number.
    """
    found = {}
    files = (run / "tensorboard").glob("events.*")
    for path in sorted(files, key=lambda p: [int(n) if n.isdecimal() else n for n in p.name.split(".")]):
        events = EventAccumulator(str(path))
        events.Reload()
        if name in events.Tags()["scalars"]:
            new = {event.step: np.float32(event.value) for event in events.Scalars(name)}
            found = {step: value for step, value in found.items() if step < min(new)} | new
    return list(found.items())


def copy_of(run, folder):
    return Path(shutil.copytree(run, folder / "run"))
