from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm.config import LossConfig
from bsm.loss import bsmamba2_loss, loss_terms

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOWS = (4096, 2048, 1024, 512, 256)


def signals(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    estimate, target = (torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return estimate.to(dtype).requires_grad_(), target.to(dtype)


def spectrum(wave, window, *, hop=147, min_fft=2048, center=True):
    """A short recording is filled up with zeros to what the transform needs."""
    n_fft = max(window, min_fft)
    wave = wave.reshape(-1, wave.shape[-1])
    wave = F.pad(wave, (0, max(0, (n_fft // 2 + 1 if center else n_fft) - wave.shape[-1])))
    hann = torch.hann_window(window, dtype=wave.dtype)
    return torch.stft(wave, n_fft, hop, window, hann, center=center, pad_mode="reflect", return_complex=True)


def literal(estimate, target, windows=WINDOWS, **options):
    """The paper's loss as the author's code writes it: both signals transformed, five terms added."""
    loss = 10 * (estimate - target).abs().mean()
    for window in windows:
        loss = loss + (spectrum(estimate, window, **options) - spectrum(target, window, **options)).abs().mean()
    return loss


def value_and_gradient(function, estimate, target, *arguments, **options):
    loss = function(estimate, target, *arguments, **options)
    return loss, torch.autograd.grad(loss, estimate)[0]


def assert_equals(definition, estimate, target, config=LossConfig()):  # noqa: B008 (frozen)
    """The loss and its gradient are those of a definition, in float64."""
    loss, gradient = value_and_gradient(bsmamba2_loss, estimate, target, config)
    expected, expected_gradient = value_and_gradient(definition, estimate, target)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12 * expected_gradient.abs().max().item())


@pytest.mark.parametrize(
    "shape",
    [(2, 1, 4097), (3, 2, 2049), (2, 2, 2048), (1, 1, 1), (4000,), (3, 2500)],
    ids=str,
)
def test_equals_the_literal_loss(shape):
    estimate, target = signals(*shape)
    assert_equals(literal, estimate, target)


@given(st.integers(1, 5000), st.integers(1, 2), st.integers(1, 2))
@settings(max_examples=6, deadline=None)
def test_equals_the_literal_loss_at_any_length(samples, channels, batch):
    estimate, target = signals(batch, channels, samples, seed=samples)
    assert_equals(literal, estimate, target)


@pytest.mark.parametrize(
    "options", [{"center": False}, {"min_fft": 256}, {"min_fft": 1000, "hop_length": 200}], ids=str
)
def test_other_transforms_equal_the_literal_ones(options):
    estimate, target = signals(2, 2, 6000)
    windows = (1024, 511, 256)  # an odd window, too
    literally = {"hop" if name == "hop_length" else name: value for name, value in options.items()}
    expected = partial(literal, windows=windows, **literally)
    assert_equals(expected, estimate, target, LossConfig(windows=windows, **options))


def test_an_upstream_factor_reaches_the_gradient():
    estimate, target = signals(1, 2, 3000)
    (gradient,) = torch.autograd.grad(bsmamba2_loss(estimate, target), estimate)
    (scaled,) = torch.autograd.grad(bsmamba2_loss(estimate, target) * 0.25, estimate)
    torch.testing.assert_close(scaled, gradient / 4, rtol=1e-13, atol=0)


def test_float32_gradient_against_float64():
    estimate, target = signals(2, 2, 22050)
    _, exact = value_and_gradient(bsmamba2_loss, estimate, target)
    single = estimate.detach().float().requires_grad_()
    loss, gradient = value_and_gradient(bsmamba2_loss, single, target.float())
    assert loss.dtype == gradient.dtype == torch.float32
    # Of the whole gradient: where a bin of the difference is next to zero, its direction is rounding.
    assert torch.linalg.vector_norm(gradient - exact) < 1e-5 * torch.linalg.vector_norm(exact)


def test_terms_are_a_sum_over_five_windows():
    estimate, target = signals(1, 2, 8000)
    terms = loss_terms(estimate, target)
    assert list(terms) == ["waveform", *(f"stft_{window}" for window in WINDOWS)]
    torch.testing.assert_close(bsmamba2_loss(estimate, target), sum(terms.values()), rtol=1e-14, atol=0)
    torch.testing.assert_close(terms["waveform"], 10 * F.l1_loss(estimate, target), rtol=1e-14, atol=0)
    for window in WINDOWS:
        difference = spectrum(estimate - target, window, hop=147, min_fft=2048)
        assert difference.shape[1:] == (max(window, 2048) // 2 + 1, 8000 // 147 + 1)
        torch.testing.assert_close(terms[f"stft_{window}"], difference.abs().mean(), rtol=1e-12, atol=0)


def test_variants():
    estimate, target = signals(1, 2, 8000)
    paper = loss_terms(estimate, target)
    mean = loss_terms(estimate, target, LossConfig(mean=True))
    three = loss_terms(estimate, target, LossConfig(windows=(2048, 1024, 512)))
    torch.testing.assert_close(mean["waveform"], paper["waveform"])
    for window in WINDOWS:
        torch.testing.assert_close(mean[f"stft_{window}"], paper[f"stft_{window}"] / 5, rtol=1e-14, atol=0)
    assert list(three) == ["waveform", "stft_2048", "stft_1024", "stft_512"]
    assert all(torch.equal(three[name], paper[name]) for name in three)
    weighted = loss_terms(estimate, target, LossConfig(waveform_weight=2.0))
    torch.testing.assert_close(weighted["waveform"], paper["waveform"] / 5)


def test_magnitude_equals_its_literal_form():
    estimate, target = signals(1, 2, 5000)
    config = LossConfig(magnitude=True, waveform_weight=0.0)

    def magnitudes(estimate, target):
        return sum((spectrum(estimate, w).abs() - spectrum(target, w).abs()).abs().mean() for w in WINDOWS)

    assert_equals(magnitudes, estimate, target, config)


def test_magnitude_is_blind_to_a_sign_flip_and_the_papers_loss_is_not():
    _, target = signals(1, 2, 5000)
    spectra = LossConfig(magnitude=True, waveform_weight=0.0)
    assert bsmamba2_loss(-target, target, spectra) < 1e-12
    flipped = bsmamba2_loss(-target, target, LossConfig(waveform_weight=0.0))
    silent = bsmamba2_loss(torch.zeros_like(target), target, LossConfig(waveform_weight=0.0))
    torch.testing.assert_close(flipped, 2 * silent)
    assert flipped > 100


@pytest.mark.parametrize("magnitude", [False, True])
def test_spectra_of_the_blind_loss_do_not_depend_on_the_target(magnitude):
    estimate, target = signals(2, 2, 5000)
    blind, usual = (LossConfig(magnitude=magnitude, blind=b, waveform_weight=0.0) for b in (True, False))
    spectral = bsmamba2_loss(estimate, target, blind)
    torch.testing.assert_close(spectral, bsmamba2_loss(estimate, torch.zeros_like(estimate), usual))
    assert bsmamba2_loss(estimate, 2 * target, blind) == spectral
    whole = loss_terms(estimate, target, LossConfig(magnitude=magnitude, blind=True))
    torch.testing.assert_close(whole["waveform"], 10 * (estimate - target).abs().mean())


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(magnitude=True), LossConfig(center=False)])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_no_difference_no_loss_and_no_gradient(config, level):
    _, target = signals(1, 2, 3000, dtype=torch.float32)
    estimate = (target * level).requires_grad_()
    loss, gradient = value_and_gradient(bsmamba2_loss, estimate, target * level, config)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_partly_equal_signals_have_a_finite_gradient():
    estimate, target = signals(1, 1, 20000, dtype=torch.float32)
    with torch.no_grad():
        estimate[..., 10000:] = target[..., 10000:]
        estimate[..., :10] = target[..., :10] + 1e-30
    for config in (LossConfig(), LossConfig(magnitude=True)):
        _, gradient = value_and_gradient(bsmamba2_loss, estimate, target, config)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_low_precision_input_is_computed_in_float32():
    estimate, target = signals(1, 2, 4000, dtype=torch.bfloat16)
    loss, gradient = value_and_gradient(bsmamba2_loss, estimate, target)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    single = estimate.detach().float().requires_grad_()
    expected, expected_gradient = value_and_gradient(bsmamba2_loss, single, target.float())
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient.bfloat16())


@pytest.mark.parametrize("magnitude", [False, True])
def test_autocast_changes_nothing(magnitude):
    config = LossConfig(magnitude=magnitude)
    estimate, target = signals(1, 2, 4000, dtype=torch.float32)
    expected, expected_gradient = value_and_gradient(bsmamba2_loss, estimate, target, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradient = value_and_gradient(bsmamba2_loss, estimate, target, config)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("magnitude", [False, True])
def test_training_after_scoring_in_inference_mode(magnitude):
    config = LossConfig(windows=(333,), magnitude=magnitude)  # a window that no other test has cached
    estimate, target = signals(1, 1, 3000)
    with torch.inference_mode():
        scored = bsmamba2_loss(estimate, target, config)
    loss, gradient = value_and_gradient(bsmamba2_loss, estimate, target, config)
    torch.testing.assert_close(loss, scored)
    assert gradient.isfinite().all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        bsmamba2_loss(torch.zeros(1, 2, 100), torch.zeros(1, 1, 100))
