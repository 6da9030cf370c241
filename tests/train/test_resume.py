"""An interrupted, killed or stopped training resumes, and ends like an uninterrupted one."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

import bsm.train
import bsm.train.distributed
import bsm.train.loop
import bsm.train.trainer
from bsm.cli import main
from bsm.study.profiles import Profile
from bsm.train import Stopped, read_log, train
from bsm.train.journal import Journal
from bsm.train.trainer import AveragedWeights
from runs import (
    CONFIG,
    MODEL,
    assert_same_run,
    assert_same_weights,
    forked,
    kill,
    loss_with,
    scalars,
    train_interrupted,
)


@pytest.mark.parametrize(("steps", "workers"), [(0, 0), (2, 2)])
def test_an_interrupted_run_ends_as_the_whole_one(whole, tracks, tmp_path, steps, workers):
    run, config = tmp_path / "run", CONFIG.replace(workers=workers)
    train_interrupted(run, MODEL, config, tracks, after=steps)
    assert not (run / "model.safetensors").exists()
    torch.manual_seed(99)  # the state of this process must not matter
    train(run, MODEL, config, tracks, device="cpu")
    assert_same_run(run, whole)
    assert [step for step, _ in scalars(run, "loss")] == list(range(1, 8))


KILLS = {
    "before the average": ("average", 5),
    "in a line of the log": ("write", 5),
    "while writing a checkpoint": ("torch.save", 2),
    "before a checkpoint's name": ("state.ckpt", 3),
    "after a checkpoint's name": ("prune", 4),
    "at the end of training": ("model.safetensors", 1),
    "while writing the best weights": ("step-0000006.safetensors", 1),
    "before the first file": ("run.json", 1),
}


def kill_at(where, number):
    """Make this process kill itself at the ``number``-th of certain moments."""
    calls = 0

    def counted():
        nonlocal calls
        calls += 1
        return calls == number

    def before(function):
        def wrapped(*arguments, **options):
            if counted():
                kill()
            return function(*arguments, **options)

        return wrapped

    def half_line(journal, record):
        if counted():
            journal._file.write('{"step": 5, "lo')
            journal._file.flush()
            kill()
        write(journal, record)

    def half_file(state, file):
        if counted():
            file.write(b"half")
            file.flush()
            kill()
        save(state, file)

    def rename(path, target):
        if Path(target).name == where and counted():
            kill()
        return replace(path, target)

    write, save, replace = Journal.write, torch.save, Path.replace
    if where == "average":
        AveragedWeights.update = before(AveragedWeights.update)
    elif where == "prune":
        bsm.train.loop.prune = before(bsm.train.loop.prune)
    elif where == "write":
        Journal.write = half_line
    elif where == "torch.save":
        torch.save = half_file
    else:
        Path.replace = rename


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_process_goes_on_where_it_stopped(whole, tracks, tmp_path, moment):
    run = tmp_path / "run"

    def action():
        kill_at(*KILLS[moment])
        train(run, MODEL, CONFIG, tracks, device="cpu")

    assert forked(action) == -signal.SIGKILL
    assert not (run / "model.safetensors").exists()
    if (run / "log.jsonl").is_file():
        steps = [record["step"] for record in read_log(run)]  # half a line at the end does no harm
        assert steps == [*range(1, len(steps) + 1)]
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert_same_run(run, whole)
    assert not list(run.rglob(".*"))  # half-written files are gone


def test_killed_at_every_step(whole, tracks, tmp_path):
    run = tmp_path / "run"

    def action():
        # Between the passes of the third update, with a checkpoint after the second.
        bsm.train.trainer.bsmamba2_loss = loss_with(kill, 6)
        train(run, MODEL, CONFIG.replace(workers=1), tracks, device="cpu")

    assert [forked(action) for _ in range(3)] == [-signal.SIGKILL] * 3
    train(run, MODEL, CONFIG.replace(workers=1), tracks, device="cpu")
    assert_same_run(run, whole)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_saves_and_stops(whole, tracks, tmp_path, number, workers):
    """Sent to the whole group, as terminals and clusters do; the data loader's workers must survive it."""
    run, config = tmp_path / "run", CONFIG.replace(checkpoint_every=100, workers=workers)

    def action():
        os.setpgid(0, 0)
        bsm.train.trainer.bsmamba2_loss = loss_with(lambda: os.killpg(0, number), 6)  # in the third update
        try:
            train(run, MODEL, config, tracks, device="cpu")
        except Stopped as stop:
            assert f"stopped by {number.name} at step 3 of 7; the same command goes on" in str(stop)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was
            os._exit(stop.status)

    assert forked(action) == 128 + number
    assert torch.load(run / "state.ckpt", weights_only=True)["step"] == 3
    train(run, MODEL, config, tracks, device="cpu")
    assert [record["step"] for record in read_log(run)] == list(range(1, 8))
    assert_same_weights(run, whole)


def repeat_signals(monkeypatch, patience, numbers):
    """Make the first loss send signals to this process."""
    monkeypatch.setattr(bsm.train.distributed, "PATIENCE", patience)
    loss = loss_with(lambda: [os.kill(os.getpid(), number) for number in numbers], 1)
    monkeypatch.setattr(bsm.train.trainer, "bsmamba2_loss", loss)


def test_ctrl_c_once_more_stops_at_once(tracks, tmp_path, monkeypatch):
    repeat_signals(monkeypatch, 0.0, [signal.SIGTERM, signal.SIGINT])
    with pytest.raises(KeyboardInterrupt) as stop:
        train(tmp_path / "run", MODEL, CONFIG, tracks, device="cpu")
    assert stop.type is KeyboardInterrupt  # not Stopped: nothing was saved
    assert not (tmp_path / "run" / "state.ckpt").exists()


@pytest.mark.parametrize(
    ("patience", "numbers"), [(60.0, [signal.SIGINT] * 3), (0.0, [signal.SIGTERM] * 3)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_s_echo_does_not_keep_from_saving(tracks, tmp_path, monkeypatch, patience, numbers):
    repeat_signals(monkeypatch, patience, numbers)
    with pytest.raises(Stopped) as stop:
        train(tmp_path / "run", MODEL, CONFIG, tracks, device="cpu")
    assert stop.value.status == 128 + numbers[0]
    assert torch.load(tmp_path / "run" / "state.ckpt", weights_only=True)["step"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_s_status(tmp_path, number):
    def action():
        def stopped(*_, **__):
            raise Stopped("stopped, saved", number)

        sys.argv = ["bsm", "train", "smoke"]
        bsm.train.train = stopped
        Profile.tracks = lambda self: {}
        with (tmp_path / "err").open("w") as file:
            os.dup2(file.fileno(), 2)
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115 (pytest had replaced it)
        main()

    assert forked(action) == 128 + number
    assert (tmp_path / "err").read_text() == "bsm: stopped, saved\n"


def test_a_finished_run_is_found(whole, tracks, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    monkeypatch.setattr(bsm.train.trainer, "bsmamba2_loss", None)  # nothing is computed
    assert train(whole, MODEL, CONFIG, tracks, device="cpu") == whole / "model.safetensors"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
