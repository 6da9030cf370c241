"""Songs and a finished run, for all tests of the training."""

from contextlib import contextmanager

import pytest
import torch

from bsm.data.tracks import load_tracks
from bsm.train import train
from runs import CONFIG, MODEL, write_songs


@contextmanager
def one_thread():
    """More threads only slow down a model so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def small():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="session")
def tracks(songs):
    return {split: load_tracks(songs, split) for split in ("train", "valid")}


@pytest.fixture(scope="session")
def whole(tmp_path_factory, tracks):
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with one_thread():  # pytest makes session fixtures before module fixtures
        train(run, MODEL, CONFIG, tracks, device="cpu")
    return run
