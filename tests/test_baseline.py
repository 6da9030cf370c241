"""The yardstick speaks BSMamba2's language."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from bsm.baseline import BSRoformer, RoformerConfig
from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.model import BSMamba2
from bsm.networks import network_config
from bsm.weights.files import load_model, save_model

SMALL = RoformerConfig(dim=16, depth=1, heads=2, dim_head=8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BSRoformer(SMALL).eval()


@pytest.mark.parametrize("samples", [1, 441, 1024, 1025, 4410, 5001])
def test_any_length_comes_back(model, samples):
    mixture = torch.randn(2, 2, samples)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        estimate = model(mixture)
    assert estimate.shape == mixture.shape
    assert estimate.isfinite().all()


def test_mono():
    with torch.inference_mode():
        assert BSRoformer(SMALL.replace(channels=1))(torch.randn(1, 1, 3000)).shape == (1, 1, 3000)


def test_every_parameter_is_trained(model):
    model(torch.randn(1, 2, 5000)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    model.zero_grad()
    assert not without


def test_training_goes_on_after_inference(model):
    """The package keeps its rotations from call to call; they must not come from inference mode."""
    with torch.inference_mode():
        model(torch.randn(1, 2, 9000))
    model(torch.randn(1, 2, 5000)).sum().backward()
    model.zero_grad()


@pytest.mark.parametrize("shape", [(2, 100), (1, 1, 100), (1, 2, 0)])
def test_other_shapes_are_refused(model, shape):
    with pytest.raises(ValueError, match="mixture must be"):
        model(torch.zeros(shape))


def test_a_mask_of_one_gives_the_mixture_back(model):
    """Its transform, apart from the network, returns the mixture: no shift, no gain."""

    class One(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).repeat(sum(SMALL.bands) * 2).expand(*x.shape[:2], -1)

    estimators, model.network.mask_estimators = model.network.mask_estimators, torch.nn.ModuleList([One()])
    try:
        mixture = torch.randn(1, 2, 6000)
        with torch.inference_mode():
            torch.testing.assert_close(model(mixture), mixture, atol=1e-5, rtol=1e-4)
    finally:
        model.network.mask_estimators = estimators


def test_the_yardstick_of_the_paper_shares_its_sizes():
    config = RoformerConfig.like(ModelConfig.preset("paper"))
    assert config == RoformerConfig()
    assert (config.dim, config.depth, config.heads, config.dim_head, len(config.bands)) == (256, 6, 8, 48, 62)
    with torch.device("meta"):
        counts, ours = (m.parameter_counts() for m in (BSMamba2(ModelConfig()), BSRoformer(config)))
    assert counts.keys() == ours.keys()
    for part in ("band_split", "mask_estimator", "final_norm"):
        assert counts[part] == ours[part]
    assert ours["total"] == sum(n for part, n in ours.items() if part != "total")


@pytest.mark.parametrize("preset", ["tiny", "small", "vram", "paper"])
def test_a_matched_yardstick_has_as_many_parameters(preset):
    size = ModelConfig.preset(preset)
    config = RoformerConfig.matched(size)
    assert config.replace(dim_head=48) == RoformerConfig.like(size)  # all else is equal
    with torch.device("meta"):
        counts, ours = (m.parameter_counts() for m in (BSMamba2(size), BSRoformer(config)))
    assert ours["total"] == pytest.approx(counts["total"], rel=0.01)
    assert ours["dual_path"] == pytest.approx(counts["dual_path"], rel=0.1)
    assert ours["mask_estimator"] == counts["mask_estimator"]


def test_positions_are_told_apart_under_bfloat16():
    """bfloat16 has 8 bits of mantissa: counted in it, frames past 256 would share their angles."""
    model = BSRoformer(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(1, 2, 400 * SMALL.stft.hop_length))
    rotary = next(m for m in model.network.modules() if type(m).__name__ == "RotaryEmbedding")
    angles = rotary(torch.arange(401).bfloat16(), seq_len=401)
    assert angles.dtype == torch.float32
    torch.testing.assert_close(angles[:, 0], torch.arange(401.0))


def test_bfloat16_is_near_float32(model):
    mixture = torch.randn(1, 2, 9000)
    with torch.inference_mode():
        expected = model(mixture)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(mixture)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_trained_weights_come_back(model, tmp_path):
    path = save_model(model, tmp_path / "model.safetensors", {"seed": 0})
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["network"], card["seed"], RoformerConfig.from_dict(card["model"])) == ("bs-roformer", 0, SMALL)
    random = torch.get_rng_state()
    loaded = load_model(path)
    assert torch.equal(torch.get_rng_state(), random)
    assert type(loaded) is BSRoformer
    assert not loaded.training
    assert loaded.parameter_counts() == model.parameter_counts()
    mixture = torch.randn(1, 2, 9000)
    with torch.inference_mode():
        assert torch.equal(loaded(mixture), model(mixture))


def test_a_file_of_an_unknown_network(model, tmp_path):
    path = save_model(model, tmp_path / "model.safetensors", {})
    tensors = load_file(path)
    save_file(tensors, path, metadata={"model": json.dumps({"network": "abacus"} | SMALL.to_dict())})
    with pytest.raises(InputError, match="unknown network 'abacus'; choose one of bsmamba2, bs-roformer"):
        load_model(path)
    with pytest.raises(InputError, match="unknown network 'abacus'; choose one of bsmamba2, bs-roformer, mamba2, "):
        network_config("abacus", SMALL)
    config = {"network": "bs-roformer"} | ModelConfig().to_dict()
    save_file(tensors, path, metadata={"model": json.dumps(config)})
    with pytest.raises(InputError, match="RoformerConfig has no .*d_state"):
        load_model(path)
