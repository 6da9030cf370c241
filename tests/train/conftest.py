"""Songs and a finished run, for all tests of the training."""

import pytest
import torch

from bsm.data.tracks import load_tracks
from bsm.train import train
from runs import CONFIG, MODEL, write_songs


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
