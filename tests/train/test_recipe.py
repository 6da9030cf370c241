"""The losses of fixed trainings, compared with recorded ones: a change of results needs a new recipe version.

If the change is meant, raise ``RECIPE`` in ``bsm/versions.py``, and record the new losses::

    MKL_CBWR=COMPATIBLE python tests/train/test_recipe.py > tests/train/recipe.json
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from bsm.config import TIME_BLOCKS
from bsm.data.tracks import load_tracks
from bsm.train import read_log, train
from bsm.versions import RECIPE
from runs import CONFIG, MODEL, ROFORMER, write_songs

RECORDED = Path(__file__).with_name("recipe.json")
NETWORKS = {name: MODEL.replace(time_block=name) for name in TIME_BLOCKS} | {"bs-roformer": ROFORMER}


def losses(run):
    """The training and validation losses of a run, in order."""
    return [record[name] for record in read_log(run) for name in ("loss", "valid_loss") if name in record]


def trained(run, name, tracks):
    train(run, NETWORKS[name], CONFIG.replace(steps=4), tracks, device="cpu")
    return losses(run)


@pytest.fixture(scope="module")
def found():
    """Today's losses, by network.

    MKL has kernels for each kind of processor. Their rounding differs, and norms of silent bands amplify it to 1e-4 of
    a loss. So this process uses the kernels that every processor has. Other instructions of PyTorch change 1e-7.
    """
    environment = os.environ | {"MKL_CBWR": "COMPATIBLE"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)["losses"]


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_are_those_of_the_recipe(found, name):
    recorded = json.loads(RECORDED.read_text())
    assert recorded["recipe"] == RECIPE, "the recipe is new: record its losses"
    assert found[name] == pytest.approx(recorded["losses"][name], rel=1e-5), (
        "results changed: raise bsm.versions.RECIPE"
    )


def record():
    """Return the losses of today's code as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        songs = write_songs(Path(folder) / "songs")
        tracks = {split: load_tracks(songs, split) for split in ("train", "valid")}
        found = {name: trained(Path(folder) / name, name, tracks) for name in NETWORKS}
    return json.dumps({"recipe": RECIPE, "losses": found}, indent=1)


if __name__ == "__main__":
    print(record())
