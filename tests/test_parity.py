"""The model against what it reproduces: a literal float64 transcription, torchaudio, the official Mamba-2 module."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.stats import kstest

from bsm import bands
from bsm.config import ModelConfig, StftConfig
from bsm.mamba2 import Mamba2
from bsm.model import BSMamba2
from bsm.stft import STFT
from bsm.weights.author import exported
from bsm.weights.files import load_model
from models import error, random_model, small

# --- The transcription: numpy, float64, one step at a time, on the author's tensors under the author's names. ---------


def author_stft(wave, n_fft, hop):
    """(channels, samples) to (channels, bins, frames)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(wave, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    starts = range(0, wave.shape[1] // hop * hop + 1, hop)
    return np.stack([np.fft.rfft(padded[:, start : start + n_fft] * window) for start in starts], axis=-1)


def author_istft(spec, n_fft, hop, samples):
    """(channels, bins, frames) to (channels, samples)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    total = np.zeros((spec.shape[0], (spec.shape[2] - 1) * hop + n_fft + samples))
    weight = np.zeros(total.shape[1])
    for frame in range(spec.shape[2]):
        span = slice(frame * hop, frame * hop + n_fft)
        total[:, span] += np.fft.irfft(spec[:, :, frame], n_fft) * window
        weight[span] += window**2
    span = slice(n_fft // 2, n_fft // 2 + samples)
    return total[:, span] / weight[span]


def author_norm(x, gamma):
    length = np.sqrt((x**2).sum(-1, keepdims=True))
    return x / np.where(length == 0, 1, length) * math.sqrt(x.shape[-1]) * gamma


def rms_norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def author_mixer(u, w):
    """(rows, length, dim) to the same; ``w`` gives the mixer's tensors."""
    inner, heads = len(w("norm.weight")), len(w("D"))
    state = (len(w("conv1d.bias")) - inner) // 2
    projected = u @ w("in_proj.weight").T
    z, xbc, dt = np.split(projected, [inner, 2 * inner + 2 * state], axis=-1)
    taps = w("conv1d.weight")[:, 0]
    padded = np.pad(xbc, ((0, 0), (taps.shape[1] - 1, 0), (0, 0)))
    xbc = np.stack([(padded[:, t : t + taps.shape[1]] * taps.T).sum(1) for t in range(u.shape[1])], axis=1)
    x, b, c = np.split(silu(xbc + w("conv1d.bias")), [inner, inner + state], axis=-1)
    dt = np.log1p(np.exp(dt + w("dt_bias")))
    memory = np.zeros((len(u), heads, inner // heads, state))
    y = np.zeros_like(x)
    for t in range(u.shape[1]):
        x_t = x[:, t].reshape(len(u), heads, -1)
        decay = np.exp(dt[:, t] * -np.exp(w("A_log")))
        added = dt[:, t, :, None, None] * x_t[..., None] * b[:, t, None, None, :]
        memory = decay[..., None, None] * memory + added
        y_t = (memory * c[:, t, None, None, :]).sum(-1) + w("D")[:, None] * x_t
        y[:, t] = y_t.reshape(len(u), inner)
    return rms_norm(y * silu(z), w("norm.weight")) @ w("out_proj.weight").T


def author_block(x, w):
    def direction(name, x):
        normed = rms_norm(x, w(f"{name}.0.norm.weight"))
        return author_mixer(normed, lambda key: w(f"{name}.0.mixer.{key}")) + x

    forwards = direction("forward_blocks", x)
    backwards = direction("backward_blocks", x[:, ::-1])[:, ::-1]
    both = np.concatenate([forwards, backwards], axis=-1)
    # ConvTranspose1d of kernel 1: weight (in, out, 1).
    return np.einsum("rli,io->rlo", both, w("linear.weight")[:, :, 0]) + w("linear.bias") + x


def author_model(state_dict, wave, n_fft, hop):
    """(channels, samples) to the estimated vocals, same shape."""

    def w(key):
        return state_dict[f"model.{key}"].double().numpy()

    def count(key, position):
        return 1 + max(int(name.split(".")[position]) for name in state_dict if name.startswith(f"model.{key}."))

    spec = author_stft(wave, n_fft, hop)
    channels, bins, frames = spec.shape
    # Numbers of a frame: bin by bin, in a bin channel by channel, of each the real and the imaginary part.
    numbers = np.stack([spec.real, spec.imag], axis=-1).transpose(2, 1, 0, 3).reshape(frames, bins * channels * 2)
    features, first = [], 0
    for band in range(count("band_split.to_features", 3)):
        gamma = w(f"band_split.to_features.{band}.0.gamma")
        part = author_norm(numbers[:, first : first + len(gamma)], gamma)
        name = f"band_split.to_features.{band}.1"
        features.append(part @ w(f"{name}.weight").T + w(f"{name}.bias"))
        first += len(gamma)
    x = np.stack(features)  # (bands, frames, dim)
    for layer in range(count("layers", 2)):
        x = author_block(x, lambda key, layer=layer: w(f"layers.{layer}.0.{key}"))
        x = author_block(x.swapaxes(0, 1), lambda key, layer=layer: w(f"layers.{layer}.1.{key}")).swapaxes(0, 1)
    x = author_norm(x, w("final_norm.gamma"))
    masks = []
    for band, part in enumerate(x):
        name = f"mask_estimators.0.to_freqs.{band}.0"
        hidden = np.tanh(part @ w(f"{name}.0.weight").T + w(f"{name}.0.bias"))
        value, gate = np.split(hidden @ w(f"{name}.2.weight").T + w(f"{name}.2.bias"), 2, axis=-1)
        masks.append(value / (1 + np.exp(-gate)))
    mask = np.concatenate(masks, axis=-1).reshape(frames, bins, channels, 2).transpose(2, 1, 0, 3)
    return author_istft((mask[..., 0] + 1j * mask[..., 1]) * spec, n_fft, hop, wave.shape[1])


# --- The model -------------------------------------------------------------------------------------------------------


CASES = {
    "stereo": (small(), 200),
    "just long enough": (small(), 33),
    "wide": (small(dim=24, headdim=8, d_state=16, expand=4, mask_expansion=4), 301),
    "one head": (small(dim=12, headdim=36, expand=3, d_state=5, mask_expansion=1), 123),
    "heads of one channel, a multiple of the hop": (small(headdim=1, expand=1), 14 * 20),
    "two taps, deep": (small(d_conv=2, depth=3), 177),
    "mono, hop of half a window": (small(channels=1, stft=StftConfig(64, 32)), 500),
    "the paper's transform and bands": (small(stft=StftConfig(), bands=bands.PAPER, dim=16), 9000),
    "long": (small(channels=1), 3001),
}


@pytest.mark.parametrize("name", CASES)
def test_author_layout_gives_the_author_output(name, tmp_path):
    config, samples = CASES[name]
    state_dict = {f"model.{name}": value for name, value in exported(random_model(config)).items()}
    torch.save({"state_dict": state_dict}, tmp_path / "author.ckpt")
    wave = np.random.default_rng(1).standard_normal((config.channels, samples))
    want = author_model(state_dict, wave, config.stft.n_fft, config.stft.hop_length)
    model, mixture = load_model(tmp_path / "author.ckpt", config=config), torch.from_numpy(wave)[None]
    with torch.no_grad():
        single = error(model(mixture.float())[0], want)
        double = error(model.double()(mixture)[0], want)
    graph = error(model(mixture)[0].detach(), want)
    print(f"{name}: float32 {single:.1e}, float64 {double:.1e}, float64 with gradients {graph:.1e}")
    assert single < 1e-5
    assert double < 1e-10
    assert graph < 1e-10


# --- Transforms ------------------------------------------------------------------------------------------------------


def torchaudio_transforms():
    try:
        from torchaudio import transforms
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not import here ({error}); `make env` prepares it")
    return transforms


@pytest.mark.parametrize(("samples", "dtype"), [(1025, torch.float64), (4410, torch.float64), (9999, torch.float32)])
def test_stft_agrees_with_torchaudio(samples, dtype):
    transforms = torchaudio_transforms()
    config = StftConfig()
    settings_ = {"n_fft": config.n_fft, "win_length": config.n_fft, "hop_length": config.hop_length}
    forward = transforms.Spectrogram(**settings_, power=None).to(dtype)
    backward = transforms.InverseSpectrogram(**settings_).to(dtype)
    forward.window = backward.window = torch.hann_window(config.n_fft, dtype=dtype)
    wave = torch.randn(2, 2, samples, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = STFT(config)
    spec = ours(wave)
    torch.testing.assert_close(spec, forward(wave), rtol=0, atol=0)
    mask = torch.randn_like(spec)
    torch.testing.assert_close(ours.inverse(spec * mask, samples), backward(spec * mask, samples), rtol=0, atol=0)
    torch.testing.assert_close(
        ours.inverse(spec, samples), wave, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-13
    )


@pytest.mark.parametrize("samples", [1, 2, 440, 1024])
def test_stft_of_less_than_half_a_window(samples):
    wave = torch.randn(1, samples, dtype=torch.float64)
    stft = STFT(StftConfig())
    spec = stft(wave)
    torch.testing.assert_close(spec, stft(torch.nn.functional.pad(wave, (0, 1025 - samples))), rtol=0, atol=0)
    torch.testing.assert_close(stft.inverse(spec, samples), wave, rtol=0, atol=1e-13)


# --- The official Mamba-2 module -------------------------------------------------------------------------------------

# mamba-ssm without its compiled extensions, its Triton kernels on the CPU through Triton's interpreter.
INTERPRETED = """
import contextlib, importlib.machinery, json, sys, types

for name in ("selective_scan_cuda", "causal_conv1d_cuda"):
    sys.modules.setdefault(name, types.ModuleType(name))
try:
    import huggingface_hub
except ImportError:
    sys.modules["huggingface_hub"] = types.SimpleNamespace(PyTorchModelHubMixin=type("Mixin", (), {}))
spec = importlib.machinery.PathFinder.find_spec("mamba_ssm")
package = types.ModuleType("mamba_ssm")
package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
sys.modules["mamba_ssm"] = package
import torch, triton

class NoDevice(contextlib.nullcontext):
    def __init__(self, *args, **kwargs):
        super().__init__()

torch.cuda.device = NoDevice
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_properties = lambda *a, **k: types.SimpleNamespace(multi_processor_count=2)
autotune = triton.autotune
triton.autotune = lambda configs, key, **k: autotune(configs=configs[:1], key=key, **k)
"""
OFFICIAL = """
from mamba_ssm.modules.mamba2 import Mamba2
from safetensors.torch import save_file

path, dim, sizes, length = json.loads(sys.argv[1])
torch.manual_seed(0)
mixer = Mamba2(dim, **sizes, chunk_size=16, use_mem_eff_path=False)
with torch.no_grad():
    for parameter in mixer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    u = torch.randn(2, length, dim)
    y = mixer(u)
save_file({"u": u, "y": y} | {f"mixer.{k}": v for k, v in mixer.state_dict().items()}, path)
"""


def interpret(program, argument):
    """Run a program on mamba-ssm's modules, whose kernels Triton's interpreter runs; return what it prints."""
    run = [sys.executable, "-c"]
    found = subprocess.run([*run, "import importlib.util as u, sys; sys.exit(not u.find_spec('mamba_ssm'))"])
    if found.returncode:
        pytest.skip("mamba-ssm is not installed; `make oracles` installs it without CUDA")
    env = os.environ | {"TRITON_INTERPRET": "1"}
    command = [*run, INTERPRETED + program, json.dumps(argument)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if "ModuleNotFoundError: No module named 'triton'" in done.stderr:
        pytest.skip("mamba-ssm is here without triton; `make oracles` installs both")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("dim", "sizes", "length"),
    [
        (16, {"d_state": 8, "headdim": 8, "expand": 2, "d_conv": 4}, 37),
        (16, {"d_state": 16, "headdim": 16, "expand": 4, "d_conv": 3}, 16),
    ],
)
def test_mixer_agrees_with_the_official_module(dim, sizes, length, tmp_path):
    interpret(OFFICIAL, [str(tmp_path / "official.safetensors"), dim, sizes, length])
    values = load_file(tmp_path / "official.safetensors")
    ours = Mamba2(ModelConfig(dim=dim, **sizes))
    ours.load_state_dict({k.removeprefix("mixer."): v for k, v in values.items() if k.startswith("mixer.")})
    with torch.no_grad():
        assert error(ours(values["u"]), values["y"]) < 1e-6


DIRECTION = """
from bsm.config import ModelConfig
from bsm.mamba2 import Direction
from bsm.study.speed.official import OfficialDirection

torch.manual_seed(0)
errors = []
for reverse in (False, True):
    ours = Direction(ModelConfig(dim=16, d_state=8, headdim=8), reverse=reverse)
    official = OfficialDirection(ours)
    mixer = official.block.mixer
    mixer.use_mem_eff_path, mixer.chunk_size = False, 16  # that path needs the compiled causal-conv1d
    u = torch.randn(2, 37, 16)
    inputs = [u.clone().requires_grad_() for _ in range(2)]
    outputs = [module(x) for module, x in zip((ours, official), inputs)]
    for y in outputs:
        y.square().sum().backward()
    pairs = [outputs, [x.grad for x in inputs], [ours.norm.weight.grad, official.block.norm.weight.grad]]
    errors += [((b - a).norm() / a.norm()).item() for a, b in pairs]
print(json.dumps(errors))
"""


@pytest.mark.slow
def test_a_direction_of_the_authors_modules_computes_the_same():
    """Outputs and gradients of what `make gpu` compares our step with, with mamba-ssm's own `Block` and `RMSNorm`."""
    errors = json.loads(interpret(DIRECTION, []).splitlines()[-1])
    print("the author's modules:", ", ".join(f"{error:.1e}" for error in errors))
    assert len(errors) == 6 and max(errors) < 1e-5


# --- Counts ----------------------------------------------------------------------------------------------------------


def test_parameters_of_the_paper_model():
    with torch.device("meta"):
        model = BSMamba2(ModelConfig.preset("paper"))
    counts = model.parameter_counts()
    assert counts.pop("total") == sum(counts.values()) == 48_098_188
    dim, numbers = 256, [4 * width for width in bands.PAPER]
    mixer = 863_536
    assert sum(p.numel() for p in model.dual_path.layers[0][0].forward_direction.mixer.parameters()) == mixer
    assert counts == {
        "band_split": sum(n + n * dim + dim for n in numbers),
        "dual_path": 12 * (2 * (dim + mixer) + 2 * dim * dim + dim),
        "final_norm": dim,
        "mask_estimator": sum(dim * 1024 + 1024 + 1024 * 2 * n + 2 * n for n in numbers),
    }
    rounded = {name: round(n / 1e6, 2) for name, n in counts.items()}
    assert rounded | {"final_norm": 0} == {
        "band_split": 1.07,
        "dual_path": 22.31,
        "final_norm": 0,
        "mask_estimator": 24.72,
    }


@pytest.mark.parametrize(("dim", "depth", "millions"), [(64, 2, 3.99), (128, 4, 12.9), (192, 4, 24.9), (256, 4, 40.7)])
def test_parameters_of_smaller_models(dim, depth, millions):
    with torch.device("meta"):
        total = BSMamba2(ModelConfig(dim=dim, depth=depth)).parameter_counts()["total"]
    assert round(total / 1e6, 2 if millions < 10 else 1) == millions


# --- Initial weights -------------------------------------------------------------------------------------------------


def is_uniform(values, low, high):
    values = values.detach().double().flatten().numpy()
    values = values[:: max(1, len(values) // 20_000)]
    inside = low - 1e-6 * abs(low) <= values.min() and values.max() <= high + 1e-6 * abs(high)
    return inside and kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_initial_mixer_follows_the_official_scheme():
    torch.manual_seed(0)
    dim, inner = 256, 2048
    mixer = Mamba2(ModelConfig(dim=dim, d_state=16, headdim=1, expand=8))
    dt = torch.nn.functional.softplus(mixer.dt_bias.double())
    assert is_uniform(dt.log(), math.log(1e-3), math.log(1e-1))
    assert is_uniform(mixer.A_log.double().exp(), 1, 16)
    assert torch.equal(mixer.D, torch.ones(2048))
    assert torch.equal(mixer.norm.weight, torch.ones(inner))
    for values, fan_in in (
        (mixer.in_proj.weight, dim),
        (mixer.conv1d.weight, 4),
        (mixer.conv1d.bias, 4),
        (mixer.out_proj.weight, inner),
    ):
        assert is_uniform(values, -(fan_in**-0.5), fan_in**-0.5)
    assert mixer.in_proj.bias is None and mixer.out_proj.bias is None


@pytest.mark.parametrize("depth", [1, 4])
def test_initial_model_is_the_same_at_any_depth(depth):
    torch.manual_seed(0)
    model = BSMamba2(small(dim=64, depth=depth, headdim=64))
    for layer in model.dual_path.layers:
        for block in layer:
            for direction in (block.forward_direction, block.backward_direction):
                assert is_uniform(direction.mixer.out_proj.weight, -(128**-0.5), 128**-0.5)
                assert torch.equal(direction.norm.weight, torch.ones(64))
    assert torch.equal(model.final_norm.gamma, torch.ones(64))
    for norm, linear in model.band_split.groups:
        assert torch.equal(norm.gamma, torch.ones_like(norm.gamma))
        fan_in = norm.gamma.shape[-1]
        assert is_uniform(linear.weight, -(fan_in**-0.5), fan_in**-0.5)


# --- Any shape -------------------------------------------------------------------------------------------------------

TINY = {channels: random_model(small(channels=channels), seed=channels).double() for channels in (1, 2)}


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 400), channels=st.sampled_from([1, 2]), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_any_shape(length, channels, batch, seed):
    model = TINY[channels]
    mixture = torch.randn(
        batch, channels, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()
    with_graph = model(mixture)
    assert with_graph.shape == mixture.shape
    assert with_graph.isfinite().all()
    gradients = torch.autograd.grad(with_graph.square().sum(), [mixture, *model.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    alone = torch.cat([model(one[None]) for one in mixture])
    torch.testing.assert_close(alone, with_graph, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("length", "channels"), [(1, 2), (33, 1), (400, 2)])
def test_silence_stays_silent(length, channels):
    model = random_model(small(channels=channels, depth=2))
    mixture = torch.zeros(2, channels, length)
    estimate = model(mixture)
    assert torch.equal(estimate, mixture)
    (estimate - 1).abs().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_half_silent_input_is_finite():
    model = random_model(small())
    mixture = torch.randn(1, 2, 600)
    mixture[..., 200:] = 0
    mixture[:, 1] = 0
    estimate = model(mixture)
    estimate.abs().sum().backward()
    assert estimate.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("shape", [(2, 100), (1, 3, 100), (1, 2, 0), (1, 1, 2, 100)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="mixture must be"):
        BSMamba2(small())(torch.zeros(shape))
