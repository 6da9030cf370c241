"""Several processes train one model: equal gradients, each segment once, one writer, one decision for all."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bsm.files
import bsm.train.loop
import bsm.train.trainer
from bsm.config import TrainConfig
from bsm.data.mixing import MixingDataset
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.train import Stopped, read_log, train
from bsm.train.distributed import passes_per_update, rank_segments
from calls import before_call
from runs import CONFIG, MODEL, ROFORMER, assert_same_weights, copy_of, finished, fork, kill, without_times

JOINED = CONFIG.replace(processes=2)  # 8 segments an update: 4 passes in one process, 2 in each of two


def in_two(action):
    """Run ``action(rank)`` in two processes as torchrun starts them; return their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    children = [
        fork(lambda rank=rank: action(rank), common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)
    ]
    return [finished(child) for child in children]


def both_train(run, tracks, *, config=JOINED):
    assert in_two(lambda rank: train(run, MODEL, config, tracks, device="cpu")) == [0, 0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tracks):
    """A run of one process on the joined batches."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(run, MODEL, JOINED, tracks, device="cpu")
    return run


@pytest.fixture(scope="module")
def together(tmp_path_factory, tracks):
    """A run of two processes. Each notes the segments that it reads in ``read <rank>``; the second must not write."""
    folder = tmp_path_factory.mktemp("together")

    def action(rank):
        def spy(self, index):
            with (folder / f"read {rank}").open("a") as file:
                file.write(f"{index}\n")
            return read(self, index)

        def refuse(*_, **__):
            raise AssertionError("the second process wrote")

        read, MixingDataset.__getitem__ = MixingDataset.__getitem__, spy
        if rank == 1:
            bsm.files.tempfile.mkstemp = bsm.train.loop.Journal = refuse
            os.unlink = Path.unlink = Path.replace = refuse
        train(folder / "run", MODEL, JOINED, tracks, device="cpu")

    assert in_two(action) == [0, 0]
    return folder / "run"


def assert_close_run(run, other):
    """Two runs differ only by the order in which gradients are summed."""
    first, second = (torch.load(folder / "state.ckpt", weights_only=True) for folder in (run, other))
    for part in ("model", "averaged"):
        for name, value in first[part].items():
            torch.testing.assert_close(value, second[part][name], rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(without_times(run), without_times(other), strict=True):
        assert mine.keys() == theirs.keys()
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("model", [MODEL, ROFORMER], ids=["bsmamba2", "bs-roformer"])
def test_two_processes_have_the_gradient_of_one_with_the_joined_batch(tracks, tmp_path, model):
    config = JOINED.replace(steps=1)

    def keep_gradients(name):
        def step(self, *arguments, **options):
            gradients = [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
            torch.save([g.clone() for g in gradients], tmp_path / name)
            return unspied(self, *arguments, **options)

        unspied, torch.optim.AdamW.step = torch.optim.AdamW.step, step

    def one():
        keep_gradients("alone.pt")
        train(tmp_path / "alone", model, config, tracks, device="cpu")

    def two(rank):
        keep_gradients(f"{rank}.pt")
        train(tmp_path / "run", model, config, tracks, device="cpu")

    assert finished(fork(one)) == 0
    assert in_two(two) == [0, 0]
    expected, *found = (torch.load(tmp_path / name) for name in ("alone.pt", "0.pt", "1.pt"))
    assert any(g.any() for g in expected)
    for gradient, mine, theirs in zip(expected, *found, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, gradient, rtol=1e-4, atol=1e-6)


def test_two_processes_train_as_one_and_read_each_segment_once(alone, together):
    assert_close_run(together, alone)
    first, second = ([int(line) for line in (together.parent / f"read {rank}").read_text().split()] for rank in (0, 1))
    assert sorted(first + second) == list(range(7 * 8))
    assert (first[:4], second[:4]) == ([0, 1, 4, 5], [2, 3, 6, 7])
    # And one of them wrote.
    assert len(list((together / "tensorboard").iterdir())) == 1
    assert len(read_log(together)) == 7


def test_resumed_in_two_processes_after_one(alone, tracks, tmp_path):
    run = tmp_path / "run"

    def action():
        bsm.train.trainer.bsmamba2_loss = before_call(bsmamba2_loss, 5 * 4 + 2, kill)  # in the sixth update
        train(run, MODEL, JOINED, tracks, device="cpu")

    assert finished(fork(action)) == -signal.SIGKILL
    both_train(run, tracks)
    assert_close_run(run, alone)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tracks):
    """A run of two processes that were killed in the sixth update."""
    run = tmp_path_factory.mktemp("killed") / "run"

    def action(rank):
        bsm.train.trainer.bsmamba2_loss = before_call(bsmamba2_loss, 5 * 2 + 2, kill)
        train(run, MODEL, JOINED, tracks, device="cpu")

    assert in_two(action) == [-signal.SIGKILL] * 2
    assert torch.load(run / "state.ckpt", weights_only=True)["step"] == 4
    return run


def test_resumed_in_one_process_after_two(alone, killed, tracks, tmp_path):
    run = copy_of(killed, tmp_path)
    train(run, MODEL, JOINED, tracks, device="cpu")
    assert_close_run(run, alone)


def test_resumed_in_two_is_exact(together, killed, tracks, tmp_path):
    run = copy_of(killed, tmp_path)
    both_train(run, tracks)
    assert_same_weights(run, together)


def test_all_skip_what_is_not_finite_in_one(tracks, tmp_path):
    run = tmp_path / "run"

    def action(rank):
        calls = 0

        def loss(estimate, target, config):
            nonlocal calls
            calls += torch.is_grad_enabled()
            value = bsmamba2_loss(estimate, target, config)
            return value * math.inf if calls == 4 and rank == 1 and torch.is_grad_enabled() else value

        bsm.train.trainer.bsmamba2_loss = loss
        train(run, MODEL, JOINED.replace(steps=3, validate_every=3), tracks, device="cpu")

    assert in_two(action) == [0, 0]
    records = read_log(run)
    assert [record.get("skipped") for record in records] == [None, [[14, 16]], None]  # the second pass of the second
    assert np.isfinite([records[0]["loss"], records[2]["loss"], records[2]["valid_usdr"]]).all()


def test_a_signal_to_one_stops_both(alone, tracks, tmp_path):
    run, config = tmp_path / "run", JOINED.replace(checkpoint_every=100)

    def action(rank):
        if rank == 1:
            stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            bsm.train.trainer.bsmamba2_loss = before_call(bsmamba2_loss, 4, stop)
        try:
            train(run, MODEL, config, tracks, device="cpu")
        except Stopped as stop:
            os._exit(stop.status)

    assert in_two(action) == [143, 143]
    assert torch.load(run / "state.ckpt", weights_only=True)["step"] == 2
    both_train(run, tracks, config=config)
    assert [record["step"] for record in read_log(run)] == list(range(1, 8))


def test_a_refusal_is_everybody_s(alone, tracks):
    def action(rank):
        try:
            train(alone, MODEL, JOINED.replace(lr=1.0), tracks, device="cpu")
        except InputError as error:
            assert "holds another run: lr was 0.002, is 1.0" in str(error)
            os._exit(2)

    assert in_two(action) == [2, 2]


# ---- sharing out


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6, 12])
def test_every_update_takes_the_same_segments(processes):
    config = TrainConfig(steps=4, batch_size=5, accumulate=6, processes=2)
    shares = [list(rank_segments(config, first_update=1, rank=r, processes=processes)) for r in range(processes)]
    part = 60 // processes
    for update in range(3):
        taken = [index for share in shares for index in share[update * part : (update + 1) * part]]
        assert sorted(taken) == list(range((update + 1) * 60, (update + 2) * 60))


@pytest.mark.parametrize("processes", [5, 24])
def test_a_number_that_cannot_share(processes):
    with pytest.raises(InputError, match=f"12 passes of 5 segments, which {processes} processes cannot share evenly"):
        passes_per_update(TrainConfig.preset("paper"), processes)


TORCHRUN = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/train"]
import torch
from runs import MODEL
from test_processes import JOINED
import bsm.train
from bsm.data.tracks import load_tracks

torch.set_num_threads(1)
tracks = {split: load_tracks(Path(sys.argv[2]), split) for split in ("train", "valid")}
bsm.train.train(Path(sys.argv[3]), MODEL, JOINED, tracks, device="cpu")
"""


@pytest.mark.slow
def test_torchrun(alone, songs, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    arguments = [Path(__file__).parents[1], songs, tmp_path / "run"]
    done = subprocess.run([*map(str, [*command, *arguments])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_close_run(tmp_path / "run", alone)
    assert json.loads((tmp_path / "run" / "model.json").read_text())["train"]["processes"] == 2
