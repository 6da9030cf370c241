"""The ablations' variants: each makes a network that trains, keeps what it should, and falls back to the paper's."""

import pytest
import torch

from bsm import bands
from bsm.config import LossConfig, ModelConfig, StftConfig, TrainConfig
from bsm.errors import InputError
from bsm.inference import separate
from bsm.loss import bsmamba2_loss
from bsm.mamba2 import BiMamba2Block
from bsm.model import BSMamba2
from bsm.study import unofficial, variants
from bsm.study.profiles import Profile
from bsm.weights.files import load_model, save_model

TINY = ModelConfig(
    stft=StftConfig(n_fft=256, hop_length=128),
    bands=(1,) * 10 + (2,) * 30 + (6,) * 9 + (5,),
    dim=8,
    depth=1,
    d_state=8,
    headdim=4,
    expand=2,
    mask_expansion=2,
)
CHANGED = [name for name in variants.VARIANTS if variants.changed(name, TINY, TrainConfig())[0] != TINY]


def block(**options):
    torch.manual_seed(0)
    return BiMamba2Block(TINY.replace(d_state=4, **options)).eval()


def test_every_variant_but_the_base_changes_one_side():
    base = TINY, TrainConfig()
    assert variants.changed(variants.BASE, *base) == base
    for name, variant in variants.VARIANTS.items():
        if name == variants.BASE:
            continue
        model, train = variants.changed(name, *base)
        assert (model != base[0]) + (train != base[1]) == 1, name
        assert variant.notebook in (variants.STFT, variants.SIZE)
        assert train.replace(loss=LossConfig()) == base[1]  # all see the same segments


@pytest.mark.parametrize("preset", ["paper", "tiny", "tiny-16k"])
def test_variants_fit_every_size(preset):
    config = ModelConfig.preset(preset)
    for name in variants.VARIANTS:
        model, _ = variants.changed(name, config, TrainConfig(loss=LossConfig.at_rate(config.sample_rate)))
        assert sum(model.bands) == model.stft.bins, name
        assert (model.sample_rate, model.channels, model.dim) == (config.sample_rate, config.channels, config.dim), name


def test_half_the_expansion_of_a_small_size_is_one():
    assert variants.changed("half-expand", ModelConfig.preset("tiny-16k"), TrainConfig())[0].expand == 1


def test_losses_are_as_they_are_called():
    def windows(name):
        return variants.changed(name, TINY, TrainConfig())[1].loss.windows

    assert windows("base") == (4096, 2048, 1024, 512, 256)
    assert windows("loss-3-windows") == windows("loss-reduced") == (2048, 1024, 512)
    assert windows("loss-1-window") == (2048,)
    reduced = variants.changed("loss-reduced", TINY, TrainConfig())[1].loss
    assert (reduced.magnitude, reduced.mean, reduced.center) == (True, True, False)


def test_unknown_variants_are_refused():
    for call in (
        lambda: variants.changed("nope", TINY, TrainConfig()),
        lambda: variants.of_notebook(variants.STFT, ["nope"]),
    ):
        with pytest.raises(InputError, match="unknown variant 'nope'; choose one of base, "):
            call()


def test_a_notebook_scores_its_own_and_the_base():
    assert variants.of_notebook(variants.STFT, ["mono", "bands-48"]) == ["base", "mono"]
    assert variants.of_notebook(variants.SIZE, ["loss-mean", "bands-48"]) == ["base", "bands-48"]
    assert set(variants.of_notebook(variants.STFT, variants.VARIANTS)) >= {"loss-reduced", "mono"}
    described = {name for name, variant in variants.VARIANTS.items() if variant.described}
    assert described >= {"time-reshaped", "mask-real", "mono", "loss-reduced"}
    assert set(variants.of_notebook(variants.SIZE, variants.VARIANTS)) >= described  # compared in one run


@pytest.mark.parametrize("name", CHANGED)
def test_variants_train_and_load(name, tmp_path):
    config, _ = variants.changed(name, TINY, TrainConfig())
    torch.manual_seed(0)
    network = BSMamba2(config)
    wave, target = torch.randn(2, 2, 2, 700)
    bsmamba2_loss(network(wave), target, LossConfig(windows=(256,), min_fft=256)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad.abs().max() > 0 for n, p in network.named_parameters() if "mixer.in_proj" in n)
    loaded = load_model(save_model(network, tmp_path / "model.safetensors", {}))
    assert loaded.config == config
    network.eval()
    with torch.no_grad():
        assert torch.equal(loaded(wave), network(wave))
        whole = separate(loaded, wave[0], 44100, window=0.01)
    assert whole.shape == (2, 700)


def test_one_direction_hears_nothing_of_what_follows():
    x = torch.randn(1, 9, 8)
    later = x.clone()
    later[:, 5:] += 1
    for directions, heard in (("forward", False), ("shared", True), ("separate", True)):
        made = block(directions=directions)
        with torch.no_grad():
            assert torch.equal(made(x)[:, :5], made(later)[:, :5]) != heard


def test_a_shared_mixer_is_one_with_both_directions_alike():
    """As separate mixers that happen to have the same weights, with fewer parameters."""
    shared, separate_ones = block(directions="shared"), block()
    own = shared.state_dict()
    both = own | {n.replace("forward_", "backward_"): v for n, v in own.items() if n.startswith("forward_")}
    separate_ones.load_state_dict(both)
    x = torch.randn(2, 11, 8)
    with torch.no_grad():
        torch.testing.assert_close(shared(x), separate_ones(x))
    assert len(own) < len(both)


def test_the_mean_is_concatenation_with_the_projection_twice():
    mean, concat = block(merge="mean"), block()
    weights = mean.state_dict()
    weights["proj.weight"] = torch.cat([weights["proj.weight"]] * 2, dim=1) / 2
    concat.load_state_dict(weights)
    x = torch.randn(2, 11, 8)
    with torch.no_grad():
        torch.testing.assert_close(mean(x), concat(x))


def test_mono_gives_every_channel_the_average_s_estimate():
    config = TINY.replace(mono=True)
    torch.manual_seed(0)
    network = BSMamba2(config).eval()
    wave = torch.randn(1, 2, 700)
    with torch.no_grad():
        estimate = network(wave)
        turned = network(wave.flip(1))
    assert torch.equal(estimate[:, 0], estimate[:, 1])
    torch.testing.assert_close(estimate, turned)
    single = BSMamba2(TINY.replace(channels=1)).eval()
    single.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(single(wave.mean(1, keepdim=True)), estimate[:, :1])


def test_reshaped_time_path_is_the_described_one():
    """The literal dual path around this package's blocks gives the same."""
    config = TINY.replace(time_path="reshaped", depth=2)
    torch.manual_seed(0)
    ours = BSMamba2(config).dual_path.double()
    described = unofficial.UnofficialDualPath(config)
    described.layers = ours.layers
    x = torch.randn(2, 5, 11, config.dim, dtype=torch.double)  # (b, bands, t, dim)
    made = ours(x)
    torch.testing.assert_close(made, described(x.transpose(1, 2)).transpose(1, 2))
    paper = BSMamba2(config.replace(time_path="transposed")).dual_path.double()
    paper.load_state_dict(ours.state_dict())
    assert (paper(x) - made).abs().max() > 1e-3


def test_real_mask_is_the_described_one():
    torch.manual_seed(0)
    network = BSMamba2(TINY.replace(mask="real"))
    with torch.no_grad():
        for p in network.mask_estimator.parameters():
            p.mul_(30)  # so that the bound shows
    wave = torch.randn(1, 2, 1700)
    spec = network.stft(wave)
    factors = torch.view_as_real(network.mask(spec))
    assert 0.9 < factors.abs().max() <= 1
    expected = unofficial.UnofficialModel.apply_mask(factors, spec)
    torch.testing.assert_close(network(wave), network.stft.inverse(expected, wave.shape[-1]))


def test_structures_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="unknown directions 'both'; choose one of separate, shared, forward"):
        ModelConfig(directions="both")
    with pytest.raises(InputError, match="unknown merge 'sum'; choose one of concat, mean"):
        ModelConfig(merge="sum")
    with pytest.raises(InputError, match="unknown time_path 'flat'; choose one of transposed, reshaped"):
        ModelConfig(time_path="flat")
    with pytest.raises(InputError, match="unknown mask 'ratio'; choose one of complex, real"):
        ModelConfig(mask="ratio")


def test_mel_bands():
    widths = bands.mel(1025, 62)
    assert (len(widths), sum(widths), min(widths)) == (62, 1025, 2)
    assert widths[-1] > 20 * widths[0]
    assert sum(bands.mel(373, 52, 16000)) == 373
    assert bands.mel(5, 5) == (1,) * 5
    for count in (0, 6):
        with pytest.raises(ValueError, match="bands must lie in"):
            bands.mel(5, count)


def test_a_profile_trains_variants_its_own_way():
    settings = Profile.load("smoke", steps=9, ablation_steps=4, ablation_lr=0.5)
    model, train = settings.variant_config("mono")
    assert (train.steps, train.lr, train.seed) == (4, 0.5, settings.seed)
    assert model == settings.model_config().replace(mono=True)
    assert settings.train_config().steps == 9
    assert settings.run_folder(3, "mono").name == f"mono-{settings.model}-seed3"
    with pytest.raises(InputError, match="TrainConfig has no stepps"):
        Profile.load("smoke", ablation_stepps=4).variant_config("mono")
