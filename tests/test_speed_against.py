"""Steps of two revisions side by side: what each process is told, what a missing network and a wrong folder say."""

import json

import pytest
import torch

from bsm.config import LossConfig, ModelConfig, StftConfig
from bsm.errors import InputError
from bsm.study.records import read_result
from bsm.study.rehearse import copy_of_checkout
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
    """A checkout whose configuration knows no time block."""
    folder = copy_of_checkout(tmp_path / "older", "bsm", "data_manifest", without=["study"])
    for path in folder.rglob("*.py"):
        path.write_text(path.read_text().replace("config.time_block", "config.other_block"))
    config = folder / "bsm" / "config.py"
    config.write_text(config.read_text().replace("time_block", "other_block"))
    return folder


def test_both_revisions_take_turns_and_each_is_its_own(monkeypatch, tmp_path, older, invoke):
    monkeypatch.setattr(against, "SIZES", {"small": SMALL})
    path = tmp_path / "against.json"
    monkeypatch.setattr(against, "cases", lambda sizes: [("small", "mamba2"), ("small", "none")])
    done = invoke("bench", "step", "--against", older, "--repeats", "2", "--json", path)
    assert done.exit_code == 0, done.output
    both = read_result(path)["values"]
    assert [(r["network"], r["revision"]) for r in both] == [
        ("mamba2", "here"),
        ("mamba2", "there"),
        ("none", "here"),
        ("none", "there"),
    ]
    for record in both[:2]:
        parts = record["parts"]
        assert list(parts) == list(revision.PARTS) and all(len(own) == 2 for own in parts.values())
        assert sum(own[0] for own in parts.values()) == pytest.approx(record["processor_seconds"][0], abs=1e-4)
        assert record["peak_bytes"] is None or record["peak_bytes"] > record["base_bytes"] > 0
    assert "other_block" in both[3]["lacks"]
    table = against.table(both)
    assert table["times as fast, best"].notna().tolist() == [True, False, False, False]
    json.dumps(both, allow_nan=False)


def test_every_network_is_compared_at_one_size_and_the_papers_at_all():
    pairs = against.cases()
    assert {size for size, network in pairs if network == "mamba2"} == set(against.SIZES)
    assert {network for size, network in pairs if size == against.BLOCKS_AT} == set(against.NETWORKS)
    assert {size for size, network in pairs if network != "mamba2"} == {against.BLOCKS_AT}
    assert {network for _, network in against.cases(["tiny"])} == set(against.NETWORKS)
    with pytest.raises(InputError, match="no size huge"):
        against.cases(["huge"])


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(InputError, match="no checkout"):
        against.measure(tmp_path, [("tiny", "mamba2")])


def test_a_step_trains(monkeypatch):
    """Each step changes the network, by the gradient of the loss through the mixture's estimate."""
    made = []
    network = revision._network
    monkeypatch.setattr(revision, "_network", lambda case: made.append(network(case)) or made[-1])
    monkeypatch.setattr(revision, "_optional", lambda *_: None)  # the allocator is this process's
    config, loss = SMALL.config.to_dict(), SMALL.loss.to_dict()
    case = {"network": "BSMamba2", "config": config, "loss": loss, "batch": 1, "seconds": 0.1, "threads": 1}
    step = revision.train(case)
    before = [p.detach().clone() for p in made[0][0].parameters()]
    found = step()
    assert all(not torch.equal(a, b) for a, b in zip(before, made[0][0].parameters(), strict=True))
    assert found["seconds"][0] > 0 and set(found["parts"]) == set(revision.PARTS)
