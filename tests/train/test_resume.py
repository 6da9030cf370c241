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
from bsm.loss import bsmamba2_loss
from bsm.study.profiles import Profile
from bsm.train import Stopped, read_log, train
from bsm.train.journal import Journal
from bsm.train.trainer import AveragedWeights
from calls import before_call
from runs import CONFIG, MODEL, assert_same_run, assert_same_weights, forked, kill, scalars


@pytest.mark.parametrize(("steps", "workers"), [(0, 0), (2, 2)])
def test_an_interrupted_run_ends_as_the_whole_one(whole, tracks, tmp_path, steps, workers, train_interrupted):
    run, config = tmp_path / "run", CONFIG.replace(workers=workers)
    train_interrupted(run, MODEL, config, after=steps)
    assert not (run / "model.safetensors").exists()
    torch.manual_seed(99)  # the state of this process must not matter
    train(run, MODEL, config, tracks, device="cpu")
    assert_same_run(run, whole)
    assert [step for step, _ in scalars(run, "loss")] == list(range(1, 8))


def half_a_line(journal, _):
    journal._file.write('{"step": 5, "lo')
    journal._file.flush()
    kill()


def half_a_file(_, file):
    file.write(b"half")
    file.flush()
    kill()


def renames_to(name):
    return lambda _, target: Path(target).name == name


KILLS = {
    "before the average": (AveragedWeights, "update", 5, kill),
    "in a line of the log": (Journal, "write", 5, half_a_line),
    "while writing a checkpoint": (torch, "save", 2, half_a_file),
    "before a checkpoint's name": (Path, "replace", 3, kill, renames_to("state.ckpt")),
    "after a checkpoint's name": (bsm.train.loop, "prune", 4, kill),
    "at the end of training": (Path, "replace", 1, kill, renames_to("model.safetensors")),
    "while writing the best weights": (Path, "replace", 1, kill, renames_to("step-0000006.safetensors")),
    "before the first file": (Path, "replace", 1, kill, renames_to("run.json")),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_process_goes_on_where_it_stopped(whole, tracks, tmp_path, moment):
    run = tmp_path / "run"

    def action():
        owner, name, *when = KILLS[moment]
        setattr(owner, name, before_call(getattr(owner, name), *when))
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
        bsm.train.trainer.bsmamba2_loss = before_call(bsmamba2_loss, 6, kill)
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
        bsm.train.trainer.bsmamba2_loss = before_call(
            bsmamba2_loss, 6, lambda *_: os.killpg(0, number)
        )  # in the third update
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
    loss = before_call(bsmamba2_loss, 1, lambda *_: [os.kill(os.getpid(), number) for number in numbers])
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
