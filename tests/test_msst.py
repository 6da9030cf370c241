"""Weights and YAML of Music-Source-Separation-Training, in both directions, against a transcription of its network."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bsm import bands
from bsm.config import LossConfig, ModelConfig, StftConfig, TrainConfig
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.model import BSMamba2
from bsm.weights.files import load_model, save_model
from bsm.weights.msst import FIXED, convert, export_msst, read_settings
from models import error, random_model, same

# --- The transcription: the network of MSST's model type bs_mamba2, with the mixer as one step at a time. -------------
# Source: Music-Source-Separation-Training, models/bs_mamba2_code/bs_mamba2.py (MIT licence); the parts that its module
# types other than mamba2 need are left out. Mixer: mamba_ssm/modules/mamba2.py with its defaults (Apache License 2.0).


class GammaNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale, self.gamma = dim**0.5, nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.scale * self.gamma


class Mixer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inner, self.state, self.heads = 4 * dim, 128, 4 * dim // 64
        convolved = self.inner + 2 * self.state
        self.in_proj = nn.Linear(dim, self.inner + convolved + self.heads, bias=False)
        self.conv1d = nn.Conv1d(convolved, convolved, 4, groups=convolved, padding=3)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.out_proj = nn.Linear(self.inner, dim, bias=False)

    def forward(self, u):
        rows, length, _ = u.shape
        z, xbc, dt = self.in_proj(u).split([self.inner, self.inner + 2 * self.state, self.heads], dim=-1)
        xbc = F.silu(self.conv1d(xbc.mT)[..., :length].mT)
        x, b, c = xbc.split([self.inner, self.state, self.state], dim=-1)
        x, dt = x.view(rows, length, self.heads, 64), F.softplus(dt + self.dt_bias)
        memory, y = u.new_zeros(rows, self.heads, 64, self.state), []
        for t in range(length):
            decay = torch.exp(-dt[:, t] * self.A_log.exp())[..., None, None]
            memory = decay * memory + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None]
            y.append((memory * c[:, t, None, None]).sum(-1) + self.D[:, None] * x[:, t])
        return self.out_proj(self.norm(torch.stack(y, dim=1).flatten(2) * F.silu(z)))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mixer, self.norm = Mixer(dim), nn.RMSNorm(dim, eps=1e-5)

    def forward(self, x):
        return self.mixer(self.norm(x)) + x


class MambaBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.forward_blocks, self.backward_blocks = nn.ModuleList([Block(dim)]), nn.ModuleList([Block(dim)])
        self.linear = nn.ConvTranspose1d(2 * dim, dim, kernel_size=1)

    def forward(self, x):
        both = torch.cat([self.forward_blocks[0](x), self.backward_blocks[0](x.flip(1)).flip(1)], dim=-1)
        return self.linear(both.mT).mT + x


class BandSplit(nn.Module):
    def __init__(self, dim, sizes):
        super().__init__()
        self.sizes = sizes
        self.to_features = nn.ModuleList(nn.Sequential(GammaNorm(n), nn.Linear(n, dim)) for n in sizes)

    def forward(self, x):
        parts = x.split(self.sizes, dim=-1)
        return torch.stack([part(x) for x, part in zip(parts, self.to_features, strict=True)], dim=-2)


class MaskEstimator(nn.Module):
    def __init__(self, dim, sizes):
        super().__init__()
        self.to_freqs = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Linear(dim, 4 * dim), nn.Tanh(), nn.Linear(4 * dim, 2 * n)), nn.GLU())
            for n in sizes
        )

    def forward(self, x):
        return torch.cat([part(x) for x, part in zip(x.unbind(dim=-2), self.to_freqs, strict=True)], dim=-1)


class BSMamba2Model(nn.Module):
    def __init__(
        self,
        dim,
        *,
        depth,
        stereo=False,
        num_stems=1,
        freqs_per_bands=bands.PAPER,
        stft_n_fft=2048,
        stft_hop_length=512,
        stft_win_length=2048,
        stft_normalized=False,
        mask_estimator_depth=2,
        multi_stft_resolution_loss_weight=1.0,
        multi_stft_resolutions_window_sizes=(4096, 2048, 1024, 512, 256),
        multi_stft_hop_size=147,
        multi_stft_normalized=False,
        module_type="transformer",
        mamba_gmlp=False,
    ):
        super().__init__()
        assert isinstance(multi_stft_resolutions_window_sizes, tuple)  # beartype checks it there
        assert (module_type, mamba_gmlp, mask_estimator_depth) == ("mamba2", False, 2)
        self.channels, self.stems = 2 if stereo else 1, num_stems
        self.stft = {"n_fft": stft_n_fft, "hop_length": stft_hop_length, "win_length": stft_win_length}
        self.stft |= {"normalized": stft_normalized, "center": True}
        self.loss = multi_stft_resolution_loss_weight, multi_stft_resolutions_window_sizes
        self.loss_stft = {"hop_length": multi_stft_hop_size, "normalized": multi_stft_normalized}
        self.layers = nn.ModuleList(nn.ModuleList([MambaBlock(dim), MambaBlock(dim)]) for _ in range(depth))
        self.final_norm = GammaNorm(dim)
        sizes = tuple(2 * f * self.channels for f in freqs_per_bands)
        self.band_split = BandSplit(dim, sizes)
        self.mask_estimators = nn.ModuleList(MaskEstimator(dim, sizes) for _ in range(num_stems))

    def forward(self, x, target=None):
        batch, channels, samples = x.shape
        window = torch.hann_window(2048, dtype=x.dtype)
        spec = torch.stft(x.flatten(0, 1), **self.stft, window=window, return_complex=True)
        spec = torch.view_as_real(spec.view(batch, channels, *spec.shape[1:]))
        spec = spec.permute(0, 2, 1, 3, 4).flatten(1, 2)  # b (f c) t 2
        x = self.band_split(spec.permute(0, 2, 1, 3).flatten(2))  # b t k d
        for time_module, freq_module in self.layers:
            x = x.transpose(1, 2)
            x = time_module(x.flatten(0, 1)).view(x.shape).transpose(1, 2)
            x = freq_module(x.flatten(0, 1)).view(x.shape)
        x = self.final_norm(x)
        masks = torch.stack([estimate(x) for estimate in self.mask_estimators], dim=1)  # b n t (f c 2)
        masks = masks.unflatten(-1, (-1, 2)).transpose(2, 3).contiguous()
        spec = torch.view_as_complex(spec.contiguous())[:, None] * torch.view_as_complex(masks)
        spec = spec.unflatten(2, (-1, self.channels)).transpose(2, 3).flatten(0, 2)  # (b n c) f t
        audio = torch.istft(spec, **self.stft, window=window, length=samples)
        audio = audio.view(batch, self.stems, self.channels, samples)
        if target is None:
            return audio
        weight, windows = self.loss
        loss = F.l1_loss(audio, target)
        for size in windows:
            window = torch.hann_window(size, dtype=audio.dtype)
            spectra = partial(
                torch.stft, n_fft=max(size, self.stft["n_fft"]), win_length=size, window=window, return_complex=True
            )
            made, wanted = (spectra(a.flatten(0, 2), **self.loss_stft) for a in (audio, target))
            loss = loss + weight * F.l1_loss(made, wanted)
        return loss


def theirs(checkpoint, config):
    """What MSST's inference does: read the YAML file, build the network, load the weights strictly."""
    sections = yaml.load(config.read_text(), yaml.FullLoader)
    model = BSMamba2Model(**sections["model"])
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return model.eval(), sections


# --- Both directions -------------------------------------------------------------------------------------------------

SMALL = ModelConfig(bands=(25, 500, 500), dim=16, depth=1)


@st.composite
def configs(draw):
    """Any network that MSST can be, at a size that a test builds in no time."""
    edges = draw(st.lists(st.integers(1, 1024), min_size=1, max_size=6, unique=True).map(sorted))
    return ModelConfig(
        sample_rate=draw(st.sampled_from([16000, 32000, 44100, 48000])),
        channels=draw(st.sampled_from([1, 2])),
        stft=StftConfig(2048, draw(st.integers(1, 1024))),
        bands=tuple(b - a for a, b in zip([0, *edges], [*edges, 1025], strict=True)),
        dim=16 * draw(st.integers(1, 3)),
        depth=draw(st.integers(1, 3)),
    )


@settings(max_examples=8, deadline=None)
@given(config=configs(), seed=st.integers(0, 99))
def test_there_and_back_nothing_is_lost(config, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("msst")
    model = random_model(config, seed)
    checkpoint, written = export_msst(model, folder / "m.ckpt")
    convert(checkpoint, folder / "back.safetensors", written)
    back = load_model(folder / "back.safetensors")
    assert back.config == read_settings(written).model == config
    assert same(back, model)


@pytest.mark.parametrize(
    ("config", "samples"),
    [
        (SMALL, 5000),
        (SMALL.replace(channels=1, stft=StftConfig(2048, 512), sample_rate=16000), 4001),
        (SMALL.replace(dim=32, depth=2, bands=bands.PAPER, stft=StftConfig(2048, 800)), 6000),
    ],
)
def test_their_network_gives_our_output(config, samples, tmp_path):
    model = random_model(config)
    network, sections = theirs(*export_msst(model, tmp_path / "m.ckpt"))
    mixture = torch.randn(2, config.channels, samples, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = network.double()(mixture.double())[:, 0]
        assert error(model(mixture), want) < 1e-5
        assert error(model.double()(mixture.double()), want) < 1e-12
    # What their inference reads besides the network.
    audio = sections["audio"]
    assert (audio["sample_rate"], audio["num_channels"]) == (config.sample_rate, config.channels)
    assert audio["chunk_size"] == 8 * config.sample_rate and sections["inference"]["num_overlap"] == 2
    assert sections["training"]["target_instrument"] == "vocals" in sections["training"]["instruments"]
    assert sections["training"]["use_amp"] is False


# --- Training settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train", [TrainConfig.preset("paper"), TrainConfig(lr=1e-3, precision="16-mixed", gain=(0, 1))]
)
def test_training_settings_that_mean_the_same(train, tmp_path, caplog):
    caplog.set_level("INFO")
    _, path = export_msst(random_model(SMALL), tmp_path / "m.ckpt", train.to_dict())
    written = yaml.load(path.read_text(), yaml.FullLoader)["training"]
    assert (written["num_epochs"], written["num_steps"]) == (2000, 600)  # the author's epochs of 100 updates
    found = read_settings(path)
    assert found.train["clip"] == pytest.approx(train.clip)
    same_fields = {"batch_size", "accumulate", "lr", "ema_decay", "segment_seconds", "steps", "validate_every", "gain"}
    plain = json.loads(json.dumps(train.to_dict()))
    for name in same_fields | {"loss"} | ({"precision"} if train.precision == "16-mixed" else set()):
        assert found.train[name] == plain[name], name
    left = caplog.text.partition("not exported: ")[2]
    assert "silence_probability" in left and "seed" in left and "batch_size" not in left
    assert ("precision" in left) == (train.precision == "bf16-mixed")  # theirs is float16


def test_their_loss_is_ours_by_another_factor(tmp_path):
    train = TrainConfig(loss=LossConfig(windows=(2048, 512), hop_length=200, waveform_weight=4.0))
    model = random_model(SMALL.replace(channels=1))
    network, sections = theirs(*export_msst(model, tmp_path / "m.ckpt", train.to_dict()))
    mixture, target = torch.randn(2, 1, 1, 6000, generator=torch.Generator().manual_seed(0)).double().unbind()
    with torch.no_grad():
        ours = bsmamba2_loss(model.double()(mixture), target, train.loss)
        assert 4.0 * network.double()(mixture, target[:, None]) == pytest.approx(float(ours), rel=1e-6)
    assert sections["training"]["grad_clip"] == train.clip / 4.0


def test_training_settings_that_they_lack_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    train = TrainConfig.preset("study").replace(optimizer="muon")
    _, path = export_msst(random_model(SMALL), tmp_path / "m.ckpt", train.to_dict())
    left = caplog.text.partition("not exported: ")[2]
    assert all(name in left for name in ("loss", "clip", "schedule", "warmup", "optimizer", "lr"))
    written = yaml.load(path.read_text(), yaml.FullLoader)
    assert not {"grad_clip", "optimizer", "lr"} & written["training"].keys()
    assert "multi_stft_hop_size" not in written["model"]


# --- Their files -----------------------------------------------------------------------------------------------------

# A configuration in the form of the project's own, for the checkpoint of release v1.0.19.
PUBLISHED = """
audio:
  chunk_size: 352800 # 8 s
  dim_f: 1024
  hop_length: 441
  num_channels: 2
  sample_rate: 44100
  min_mean_abs: 0.000
model:
  dim: 256
  depth: 6
  stereo: true
  num_stems: 1
  time_module_depth: 1
  freq_module_depth: 1
  module_type: mamba2
  stft_hop_length: 441
  multi_stft_resolution_loss_weight: 1.0
  multi_stft_resolutions_window_sizes: !!python/tuple
  - 4096
  - 2048
training:
  batch_size: 4
  gradient_accumulation_steps: 8
  grad_clip: 0
  instruments: ['vocals', 'other']
  target_instrument: vocals
  num_epochs: 10
  num_steps: 1004
  optimizer: prodigy
  lr: 1.0
  q: 0.95
  ema_momentum: 0.999
  use_amp: true
inference:
  num_overlap: 2
"""


def changed(path, **changes):
    """Write that configuration with values changed, removed (None) or added, by section and name."""
    values = yaml.load(PUBLISHED, yaml.FullLoader)
    for name, value in changes.items():
        section, _, name = name.partition("__")
        values[section][name] = value
        if value is None:
            del values[section][name]
    path.write_text(yaml.dump(values))
    return path


def test_the_published_checkpoints_stand_in_loads(tmp_path, caplog, invoke):
    """A checkpoint of the published one's names and sizes: of its size in bytes, too, within what zip adds."""
    caplog.set_level("INFO")
    torch.manual_seed(0)
    model = BSMamba2(ModelConfig()).eval()
    checkpoint, _ = export_msst(model, tmp_path / "bs_mamba2_vocals.ckpt")
    assert abs(checkpoint.stat().st_size - 192_610_602) < 20_000
    (tmp_path / "config.yaml").write_text(PUBLISHED)
    target = tmp_path / "ours.safetensors"
    done = invoke("weights", "convert", checkpoint, target, "--config", tmp_path / "config.yaml")
    assert done.output.split() == [str(target), str(target.with_suffix(".json"))]
    loaded = load_model(target)
    assert loaded.config == ModelConfig() and same(loaded, model)
    card = json.loads(target.with_suffix(".json").read_text())["converted_from"]
    assert card["config"] == "config.yaml" and card["weights"] == checkpoint.name and len(card["sha256"]) == 64
    loss = LossConfig((4096, 2048), waveform_weight=1.0)
    assert card["train"] == {"batch_size": 4, "accumulate": 8, "ema_decay": 0.999, "segment_seconds": 8.0} | {
        "validate_every": 126,  # 1004 passes, 8 of them to an update
        "steps": 1260,
        "precision": "16-mixed",
        "loss": json.loads(json.dumps(loss.to_dict())),
    }
    left = caplog.text.partition("left out: ")[2].split("\n")[0].split(", ")
    prodigy = {"training.optimizer", "training.lr", "training.grad_clip"}  # its rate is no AdamW's, and 0 is no norm
    assert set(left) == prodigy | {"training.q", "audio.min_mean_abs", "inference.num_overlap"}


def test_rate_and_hop_come_of_the_yaml_file(tmp_path):
    checkpoint, _ = export_msst(random_model(SMALL), tmp_path / "m.ckpt")
    sizes = {"model__dim": 16, "model__depth": 1, "model__freqs_per_bands": [25, 500, 500]}
    path = changed(tmp_path / "c.yaml", audio__sample_rate=48000, model__stft_hop_length=None, **sizes)
    convert(checkpoint, tmp_path / "m.safetensors", path)
    found = load_model(tmp_path / "m.safetensors").config
    assert (found.sample_rate, found.stft.hop_length) == (48000, 512)  # their default hop
    with pytest.raises(InputError, match=r"m\.ckpt: its tensors do not fit the model: .*layers\.1"):
        convert(checkpoint, tmp_path / "n.safetensors", changed(path, **sizes | {"model__depth": 2}))
    with pytest.raises(InputError, match="holds its own configuration; load it without another one"):
        convert(tmp_path / "m.safetensors", tmp_path / "n.safetensors", path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model__module_type": None}, "model.module_type is 'transformer', not 'mamba2'"),
        ({"model__num_stems": 4}, "model.num_stems is 4, not 1"),
        ({"model__stft_n_fft": 4096}, "model.stft_n_fft is 4096, not 2048"),
        ({"model__mask_estimator_depth": 3}, "model.mask_estimator_depth is 3, not 2"),
        ({"model__mamba_gmlp": True}, "model.mamba_gmlp is True, not False"),
        ({"model__dim": 250}, "headdim 64 does not divide"),
        ({"model__dim": "big"}, "dim must be a whole number"),
        ({"model__freqs_per_bands": [25, 1001]}, "bands sum to 1026 bins"),
        ({"model__freqs_per_bands": 3}, "not iterable"),
        ({"training__optimizer": "adamw", "training__lr": None}, "has no training.lr"),
        ({"model__new": 1}, "MSST's bs_mamba2 has no model.new"),
        ({"model__multi_stft_resolution_loss_weight": 0.0}, "division by zero"),
        (
            {"training__target_instrument": "drums"},
            "training.target_instrument is 'drums' of \\['vocals', 'other'\\], not 'vocals'",
        ),
        ({"training__target_instrument": None}, "training.target_instrument is None of"),
        ({"training__model_type": "bs_roformer"}, "training.model_type is 'bs_roformer', not 'bs_mamba2'"),
    ],
)
def test_another_network_is_refused_by_name(change, match, tmp_path):
    with pytest.raises(InputError, match=rf"c\.yaml: .*{match}") as caught:
        read_settings(changed(tmp_path / "c.yaml", **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "model: 3",
        "a: [",
        "model: {sr: 44100, win: 2048, stride: 512, feature_dim: 128, num_repeat_mask: 8}",  # TS-BSMamba2
        "model: !!python/object/apply:os.mkdir [here]",
    ],
)
def test_what_is_no_such_file_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(
        InputError, match=r"c\.yaml: no (YAML file with sections|model\.dim and model\.depth)"
    ) as caught:
        read_settings(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"none\.yaml: no YAML file"):
        read_settings(tmp_path / "none.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


# --- Our files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (SMALL.replace(time_block="lstm"), "time_block is 'lstm', there 'mamba2'"),
        (SMALL.replace(mask="real", mono=True), "mono is True, there False; mask is 'real', there 'complex'"),
        (SMALL.replace(d_state=64, d_conv=3), "d_state is 64, there 128; d_conv is 3, there 4"),
        (SMALL.replace(mask_expansion=2), "mask_expansion is 2, there 4"),
        (ModelConfig.preset("study-16k"), r"expand is 2, there 4; .*stft.n_fft is 720, there 2048"),
        (SMALL.replace(channels=3), "channels is 3, there 1 or 2"),
        (SMALL.replace(bands=(1025,)), "bands has one band, there two or more"),
    ],
)
def test_what_they_cannot_have_is_named(config, match, tmp_path):
    with torch.device("meta"):
        model = BSMamba2(config)
    with pytest.raises(InputError, match=match):
        export_msst(model, tmp_path / "m.ckpt")
    assert not list(tmp_path.iterdir())


def test_every_field_is_either_theirs_or_checked():
    """A new field of ModelConfig must be mapped or refused; this names it."""
    mapped = {"sample_rate", "channels", "stft", "bands", "dim", "depth"}
    structure = {"time_block", "directions", "merge", "mono", "time_path", "mask"}  # ModelConfig.ablated
    assert set(ModelConfig().to_dict()) == mapped | structure | FIXED.keys() | {"scan_backend"}


def test_a_run_is_exported_with_its_training(tmp_path, caplog):
    train = TrainConfig(steps=1000, batch_size=3)
    model = random_model(SMALL)
    save_model(model, tmp_path / "run" / "model.safetensors", {"train": train.to_dict(), "seed": 0})
    checkpoint, config = convert(tmp_path / "run", tmp_path / "out" / "vocals.ckpt")
    assert (checkpoint.name, config.name) == ("vocals.ckpt", "vocals.yaml")
    assert read_settings(config).train["batch_size"] == 3
    assert "1 heads: MSST's CUDA kernels" in caplog.text
    assert same(load_model(checkpoint), model)
    checkpoint.rename(tmp_path / "m.ckpt")
    with pytest.raises(InputError, match="vocals.yaml: is there already"):
        convert(tmp_path / "run", checkpoint)
    for target, match in (
        (tmp_path / "m.ckpt", "m.ckpt: is there already"),
        (tmp_path / "vocals.pt", "name it .safetensors for this package, or .ckpt for MSST"),
    ):
        with pytest.raises(InputError, match=match):
            convert(tmp_path / "run", target)


def test_a_network_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="a Linear is no bs_mamba2"):
        export_msst(nn.Linear(1, 1), tmp_path / "m.ckpt")
