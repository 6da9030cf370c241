"""Songs and a finished run, for all tests of the training."""

import pytest
import torch

from bsm.data.tracks import load_tracks
from bsm.loss import bsmamba2_loss
from bsm.train import train
from calls import before_call, failing
from runs import CONFIG, MODEL, write_songs


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def small(one_thread):
    """More threads only slow down a model of this size."""


@pytest.fixture(scope="session")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="session")
def tracks(songs):
    return {split: load_tracks(songs, split) for split in ("train", "valid")}


@pytest.fixture(scope="session")
def whole(tmp_path_factory, tracks):
    """An uninterrupted run, on one thread: pytest makes this fixture before a module's."""
    run, threads = tmp_path_factory.mktemp("whole") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    train(run, MODEL, CONFIG, tracks, device="cpu")
    torch.set_num_threads(threads)
    return run


@pytest.fixture
def train_interrupted(monkeypatch, tracks):
    """Return the function that trains, and fails in the middle of the update after some others."""

    def interrupted(run, model, config, *, after):
        loss = before_call(bsmamba2_loss, after * CONFIG.accumulate + 2, failing(Interrupted))
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr("bsm.train.trainer.bsmamba2_loss", loss)
            train(run, model, config, tracks, device="cpu")

    return interrupted
