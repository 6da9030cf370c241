"""The described model beside the paper's: what the structural claims rest on."""

import json

import pytest
import torch

from bsm.config import ModelConfig
from bsm.model import BSMamba2
from bsm.study import structure, unofficial
from bsm.study.records import ROOT, plain


@pytest.fixture(scope="module")
def values():
    return plain(structure.values())


def test_both_described_sizes_are_met(values):
    assert values["parameters"] == {"paper": 48_098_188, "seed": 22_061_570, "seed, reduced": 9_533_698}


def test_the_result_file_says_the_same(values):
    kept = json.loads((ROOT / "reports/demo/results/structure.json").read_text())["values"]
    assert kept.keys() == values.keys()
    for name in ("parameters", "properties", "checkpoint", "stfts", "bands"):
        assert kept[name] == values[name], name
    for old, new in zip(kept["losses"], values["losses"], strict=True):
        assert old["case"] == new["case"]
        assert [old["paper"], old["seed"]] == pytest.approx([new["paper"], new["seed"]], rel=1e-4)


def test_what_differs(values):
    found = {p["property"]: (p["paper"], p["seed"]) for p in values["properties"]}
    assert found["layers"] == (6, 6)
    assert found["frames that a row of the time path sees, of 801"] == (801, 13)
    assert found["bands that a row of the time path sees"] == (1, 62)
    assert found["mask is a complex factor"] == (True, False)
    assert found["mask is bounded by 1"] == (False, True)
    assert found["both channels of the output are equal"] == (False, True)


def test_the_described_loss_is_blind_to_a_sign_flip(values):
    flipped = next(r for r in values["losses"] if "flipped" in r["case"])
    assert flipped["seed"] == pytest.approx(0, abs=1e-6)
    assert flipped["paper"] > 1


def test_what_is_out_of_phase_between_the_channels_is_lost():
    torch.manual_seed(0)
    wave = torch.randn(1, 1, 4096)
    opposed = torch.cat([wave, -wave], dim=1)
    with torch.no_grad():
        assert unofficial.UnofficialModel(structure.PROBE)(opposed).abs().max() == 0
        assert BSMamba2(structure.PROBE)(opposed).abs().max() > 1e-3


def test_the_described_model_can_be_trained():
    torch.manual_seed(0)
    model = unofficial.UnofficialModel(structure.PROBE)
    mixture = torch.randn(2, 2, 2048)
    estimate = model(mixture)
    assert estimate.shape == mixture.shape
    estimate.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_weights_from_before_the_change_are_refused(values):
    before, after = (unofficial.Mixer(structure.PROBE, low_rank=low) for low in (False, True))
    with pytest.raises(RuntimeError, match="x_proj"):
        after.load_state_dict(before.state_dict())
    after.load_state_dict(unofficial.Mixer(structure.PROBE, low_rank=True).state_dict())
    assert {m["key"] for m in values["checkpoint"]["mismatches"]} >= {"x_proj.weight", "dt_bias"}


def test_bands_fill_the_spectrum(values):
    bins = sum(ModelConfig.preset("paper").bands)
    assert {name: (sum(widths), len(widths)) for name, widths in values["bands"].items()} == dict.fromkeys(
        ("author", "equal", "mel"), (bins, 62)
    )
    assert min(values["bands"]["mel"]) >= 1
