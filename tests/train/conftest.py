"""Songs and a finished run, for all tests of the training."""

from contextlib import contextmanager

import pytest
import torch

import bsm.train.run
from bsm.data.tracks import load_tracks
from bsm.train import train
from runs import CONFIG, MODEL, write_songs


@contextmanager
def steady():
    """One thread, for a model so small; and a fingerprint that an edit during the tests does not change."""
    threads, fingerprint = torch.get_num_threads(), bsm.train.run.code_fingerprint
    torch.set_num_threads(1)
    bsm.train.run.code_fingerprint = lambda: "0123456789abcdef"
    yield fingerprint
    torch.set_num_threads(threads)
    bsm.train.run.code_fingerprint = fingerprint


@pytest.fixture(scope="module", autouse=True)
def small_and_steady():
    """Yield the true fingerprint's function."""
    with steady() as fingerprint:
        yield fingerprint


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
    with steady():  # pytest makes what serves the session before what serves a module
        train(run, MODEL, CONFIG, tracks, device="cpu")
    return run
