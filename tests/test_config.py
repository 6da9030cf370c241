import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm import bands
from bsm.baseline import RoformerConfig
from bsm.config import LossConfig, ModelConfig, StftConfig, TrainConfig
from bsm.errors import InputError

PRESETS = ("paper", "vram", "small", "tiny")
PRESETS_16K = ("small-16k", "tiny-16k")


@pytest.mark.parametrize("name", PRESETS_16K)
def test_presets_for_16_khz_keep_the_times_and_frequencies(name):
    config, original = ModelConfig.preset(name), ModelConfig.preset(name.removesuffix("-16k"))
    assert (config.sample_rate, config.channels) == (16000, 1)
    assert sum(config.bands) == config.stft.bins == 373
    for field in ("n_fft", "hop_length"):
        seconds = getattr(config.stft, field) / 16000
        assert seconds == pytest.approx(getattr(original.stft, field) / 44100, rel=0.002)
    sizes = ("dim", "depth", "d_state", "headdim", "expand", "d_conv", "mask_expansion")
    assert all(getattr(config, size) == getattr(original, size) for size in sizes)


def test_bands_for_16_khz_are_the_papers_up_to_8_khz():
    edges, bins = [], 0
    for width in bands.PAPER_16K:
        edges.append(bins * 16000 / 744)
        bins += width
    papers, bins = [], 0
    for width in bands.PAPER:
        papers.append(bins * 44100 / 2048)
        bins += width
    below = [edge for edge in papers if edge < 8000]
    assert len(edges) == len(below) == 52
    assert max(abs(a - b) for a, b in zip(edges, below, strict=True)) < 0.5 * 44100 / 2048


def test_the_loss_lasts_as_long_at_any_rate():
    assert LossConfig.at_rate(44100) == LossConfig()
    config, paper = LossConfig.at_rate(16000), LossConfig()
    assert config.windows == (1440, 720, 360, 192, 96)
    assert (config.hop_length, config.min_fft) == (53, 720)
    for ours, theirs in zip((*config.windows, config.hop_length), (*paper.windows, paper.hop_length), strict=True):
        assert ours / 16000 == pytest.approx(theirs / 44100, rel=0.035)
    assert config.replace(windows=paper.windows, hop_length=147, min_fft=2048) == paper  # and nothing else differs


def test_the_papers_model():
    config = ModelConfig.preset("paper")
    assert config == ModelConfig()
    assert (config.stft.n_fft, config.stft.hop_length) == (2048, 441)
    assert config.bands == (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
    assert len(config.bands) == 62
    assert (config.dim, config.depth, config.mask_expansion) == (256, 6, 4)
    assert (config.expand, config.d_inner, config.headdim, config.heads) == (4, 1024, 64, 16)
    assert (config.d_state, config.d_conv) == (128, 4)


def test_the_reduced_model():
    config = ModelConfig.preset("vram")
    assert (config.dim, config.depth, len(config.bands)) == (192, 4, 48)


@given(st.integers(1, 2000), st.data())
def test_equal_bands(bins, data):
    count = data.draw(st.integers(1, bins))
    widths = bands.equal(bins, count)
    assert len(widths) == count
    assert sum(widths) == bins
    assert max(widths) - min(widths) <= 1
    assert list(widths) == sorted(widths) or count < bins


@pytest.mark.parametrize("count", [0, -1, 11])
def test_equal_bands_must_fit(count):
    with pytest.raises(ValueError, match="1..10"):
        bands.equal(10, count)


@st.composite
def models(draw):
    n_fft = draw(st.integers(8, 4096))
    headdim = draw(st.sampled_from([8, 16, 64]))
    return ModelConfig(
        sample_rate=draw(st.integers(8000, 96000)),
        channels=draw(st.integers(1, 2)),
        stft=StftConfig(n_fft, draw(st.integers(1, n_fft // 2))),
        bands=bands.equal(n_fft // 2 + 1, draw(st.integers(1, n_fft // 2 + 1))),
        dim=headdim * draw(st.integers(1, 8)),
        depth=draw(st.integers(1, 12)),
        headdim=headdim,
        scan_backend=draw(st.sampled_from(["auto", "chunked"])),
    )


trainings = st.builds(
    TrainConfig,
    steps=st.integers(1),
    lr=st.floats(1e-6, 1),
    precision=st.sampled_from(["32-true", "bf16-mixed"]),
    gain=st.tuples(st.floats(0, 1), st.floats(1, 2)),
    loss=st.builds(
        LossConfig,
        windows=st.lists(st.integers(2, 9000), min_size=1, max_size=6).map(tuple),
        magnitude=st.booleans(),
    ),
)


@settings(deadline=None)  # the first model takes long
@given(models() | trainings)
def test_there_and_back_through_json(config):
    values = json.loads(json.dumps(config.to_dict()))
    back = type(config).from_dict(values)
    assert back == config
    assert hash(back) == hash(config)


def test_a_part_is_completed_with_defaults():
    assert TrainConfig.from_dict({"lr": 0.1, "loss": {"mean": True}}) == TrainConfig(lr=0.1, loss=LossConfig(mean=True))


def test_replace():
    config = TrainConfig()
    assert config.replace(steps=3) == TrainConfig(steps=3)
    assert config == TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (ModelConfig, {"dim": 0}, "dim must be at least 1, not 0"),
        (ModelConfig, {"bands": (-5, 1030)}, "bands must be at least 1, not"),
        (ModelConfig, {"bands": (1, 2)}, "bands sum to 3 bins, but the STFT has 1025"),
        (ModelConfig, {"dim": 10, "headdim": 64}, "headdim 64 does not divide"),
        (ModelConfig, {"headdim": True}, "headdim must be a whole number, not True"),
        (ModelConfig, {"time_block": "gru"}, "unknown time_block 'gru'; choose one of mamba2, attention"),
        (ModelConfig, {"time_block": "attention", "headdim": 1}, "even headdim, not 1"),
        (StftConfig, {"hop_length": 0}, "hop of 0 samples: choose 1 to n_fft / 2 = 1024"),
        (StftConfig, {"hop_length": 1025}, "hop of 1025 samples: choose 1 to n_fft / 2 = 1024"),
        (RoformerConfig, {"stft": StftConfig(n_fft=1024)}, "bands sum to 1025 bins, but the STFT has 513"),
        (RoformerConfig, {"channels": 6}, "BS-RoFormer takes 1 or 2 channels, not 6"),
        (RoformerConfig, {"dim_head": 2}, "even dim_head of at least 4, not 2"),
        (RoformerConfig, {"dim_head": 9}, "even dim_head of at least 4, not 9"),
        (LossConfig, {"windows": ()}, "windows of the loss: choose at least one"),
        (LossConfig, {"windows": (1.5,)}, "windows must be a list of whole numbers"),
        (TrainConfig, {"steps": 0}, "steps must be at least 1, not 0"),
        (TrainConfig, {"schedule": "zigzag"}, "unknown schedule 'zigzag'; choose one of constant, cosine"),
        (TrainConfig, {"optimizer": "sgd"}, "unknown optimizer 'sgd'; choose one of adamw, muon"),
        (TrainConfig, {"warmup": 7, "steps": 7}, "warmup of 7 updates: choose 0 to fewer than steps = 7"),
        (TrainConfig, {"lr": float("nan")}, "lr must be at least 0, not nan"),
        (TrainConfig, {"ema_decay": 2}, "ema_decay must be at least 0 and at most 1, not 2"),
        (TrainConfig, {"window_seconds": "a"}, "window_seconds must be a number or none, not 'a'"),
        (TrainConfig, {"gain": (1.5, 0.5)}, "gain must be two numbers, the smaller one first"),
        (TrainConfig, {"gain": (1.0,)}, "gain must be two numbers"),
        (TrainConfig, {"seed": -1}, "seed must be at least 0, not -1"),
        (TrainConfig, {"steps": "many"}, "steps must be a whole number, not 'many'"),
        (TrainConfig, {"lr": None}, "lr must be a number, not None"),
        (TrainConfig, {"seed": True}, "seed must be a whole number, not True"),
        (TrainConfig, {"checkpoint_gradients": "yes"}, "checkpoint_gradients must be true or false, not 'yes'"),
        (ModelConfig, {"dim": "64"}, "dim must be a whole number, not '64'"),
        (StftConfig, {"n_fft": None}, "n_fft must be a whole number, not None"),
        (LossConfig, {"waveform_weight": "10"}, "waveform_weight must be a number, not '10'"),
        (RoformerConfig, {"heads": 8.0}, "heads must be a whole number, not 8.0"),
    ],
)
def test_values_that_cannot_be_are_named(kind, values, told):
    with pytest.raises(InputError, match=told):
        kind(**values)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ModelConfig.preset("huge"), "unknown model preset 'huge'; choose one of paper, vram, small, tiny"),
        (lambda: TrainConfig.preset("big"), "unknown training preset 'big'; choose one of paper, study"),
        (lambda: ModelConfig.from_dict({"dims": 3}), "ModelConfig has no dims; it has: sample_rate"),
        (lambda: TrainConfig.from_dict({"loss": {"window": 3}}), "LossConfig has no window"),
    ],
)
def test_unknown_names_are_named(make, told):
    with pytest.raises(InputError, match=told):
        make()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_bands_that_cover_the_bins(name):
    config = ModelConfig.preset(name)
    assert sum(config.bands) == config.stft.bins == 1025
    assert config.heads * config.headdim == config.d_inner
    assert (config.sample_rate, config.channels) == (44100, 2)
