"""Steps of two revisions side by side: what each process is told, what a wrong folder and a wrong size say."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from bsm.cli import cli
from bsm.config import LossConfig, ModelConfig, StftConfig
from bsm.errors import InputError
from bsm.study.records import ROOT, read_result
from bsm.study.speed import against, revision

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = against.Size(
    ModelConfig(
        8000, 1, StftConfig(64, 32), (11, 11, 11), dim=8, depth=1, d_state=4, headdim=4, expand=1, mask_expansion=1
    ),
    LossConfig(windows=(64,), hop_length=32, min_fft=64),
    batch=1,
    seconds=0.1,
)


@pytest.fixture
def older(tmp_path):
    """A checkout without the study, as one that knows nothing of this comparison."""
    folder = tmp_path / "older"
    shutil.copytree(ROOT / "bsm", folder / "bsm", ignore=shutil.ignore_patterns("study", "__pycache__"))
    return folder


def test_both_revisions_take_turns_and_each_is_its_own(monkeypatch, tmp_path, older):
    monkeypatch.setattr(against, "SIZES", {"small": SMALL})
    path = tmp_path / "against.json"
    done = CliRunner().invoke(cli, ["bench", "step", "--against", str(older), "--repeats", "2", "--json", str(path)])
    assert done.exit_code == 0, done.output
    both = read_result(path)["values"]
    assert [(r["size"], r["revision"]) for r in both] == [("small", "here"), ("small", "there")]
    for record in both:
        assert len(record["seconds"]) == len(record["processor_seconds"]) == 2
        assert record["peak_bytes"] > 2**20
    assert against.table(both)["times as fast, best"].notna().tolist() == [True, False]
    json.dumps(both, allow_nan=False)


def test_a_folder_without_the_package_and_an_unknown_size_are_refused(tmp_path, older):
    with pytest.raises(InputError, match="no checkout"):
        against.measure(tmp_path)
    with pytest.raises(InputError, match="unknown size 'huge'"):
        against.measure(older, ["huge"])


def test_a_step_trains():
    """Each step changes the network, by the gradient of the loss through the mixture's estimate."""
    case = {"config": SMALL.config.to_dict(), "loss": SMALL.loss.to_dict(), "batch": 1, "seconds": 0.1, "threads": 1}
    network, step = revision.training(case)
    before = [p.detach().clone() for p in network.parameters()]
    step()
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
