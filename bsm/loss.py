"""The paper's training loss, and the variants that the ablations compare it with.

``10 L1(waveform) + the sum over windows of L1(complex spectrogram)``, as in the author's code. The L1 distance of two
complex spectrograms is the mean modulus of their difference. The transform is linear, so one transform of the
waveforms' difference gives it.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.compiled import ONE, applies, compiled, compiled_sum, over_rows
from bsm.config import LossConfig
from bsm.devices import full_precision

TINY = np.float32(np.finfo(np.float32).tiny)
BLOCK_SAMPLES = 1 << 18  # samples of the frames that are transformed together on a CPU, so that they stay in the cache


def bsmamba2_loss(estimate: Tensor, target: Tensor, config: LossConfig = LossConfig()) -> Tensor:  # noqa: B008 (frozen)
    """Return the training loss of estimated waveforms ``(..., samples)``, a scalar. The default is the paper's loss.

    A target of another shape is a ValueError.
    """
    together: dict[int, tuple[int, ...]] = {}  # windows by transform length
    for window in config.windows:
        n_fft = max(window, config.min_fft)
        together[n_fft] = (*together.get(n_fft, ()), window)
    return sum(_terms(estimate, target, config, list(together.values())))


def loss_terms(estimate: Tensor, target: Tensor, config: LossConfig = LossConfig()) -> dict[str, Tensor]:  # noqa: B008
    """Return the weighted terms of :func:`bsmamba2_loss`: ``waveform``, and ``stft_<window>`` for each window."""
    names = ["waveform", *(f"stft_{window}" for window in config.windows)]
    terms = _terms(estimate, target, config, [(window,) for window in config.windows])
    return dict(zip(names, terms, strict=True))


def _terms(estimate: Tensor, target: Tensor, config: LossConfig, groups: list[tuple[int, ...]]) -> list[Tensor]:
    """Return the waveform's term, and a term for each group of windows; a group has one transform length."""
    if estimate.shape != target.shape:
        raise ValueError(f"estimate and target must have one shape, got {tuple(estimate.shape)}, {tuple(target.shape)}")
    # Autocast is off: there is no FFT in half precision, and sums over a spectrogram need more digits.
    with full_precision(estimate.device.type):
        estimate, target = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (estimate, target))
        weight = 1 / len(config.windows) if config.mean else 1.0
        terms = [config.waveform_weight * F.l1_loss(estimate, target)]
        target = torch.zeros_like(target) if config.blind else target
        for windows in groups:
            if config.magnitude:
                spectra = (_spectra(v, windows, config).abs() for v in (estimate, target))
                term = F.l1_loss(*spectra) * len(windows)
            else:
                term = _MeanModulus.apply(_padded(estimate - target, windows, config), windows, config)
            terms.append(weight * term)
    return terms


def _padded(wave: Tensor, windows: tuple[int, ...], config: LossConfig) -> Tensor:
    """Pad ``(..., samples)`` to ``(signals, padded samples)``, as ``torch.stft`` does before it cuts frames."""
    wave = wave.reshape(-1, wave.shape[-1])
    n_fft = max(windows[0], config.min_fft)
    if not config.center:
        return F.pad(wave, (0, max(0, n_fft - wave.shape[-1])))
    half = n_fft // 2
    wave = F.pad(wave, (0, max(0, half + 1 - wave.shape[-1])))  # reflection needs more samples than it adds
    return F.pad(wave[:, None], (half, half), mode="reflect")[:, 0]


def _spectra(wave: Tensor, windows: tuple[int, ...], config: LossConfig) -> Tensor:
    """Transform ``(..., samples)`` with each window, ``(windows, signals, frames, bins)``."""
    hann = _hann(windows, config.min_fft, wave.device, wave.dtype)
    frames = _padded(wave, windows, config).unfold(-1, hann.shape[-1], config.hop_length)
    return torch.fft.rfft(frames * hann[:, None])


@cache
def _hann(windows: tuple[int, ...], min_fft: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return Hann windows, ``(windows, 1, n_fft)``, each centred and padded with zeros."""
    n_fft = max(windows[0], min_fft)
    with torch.inference_mode(False):  # training cannot use tensors of the inference mode, and scoring may come first
        hann = torch.zeros(len(windows), 1, n_fft, device=device, dtype=dtype)
        for row, window in zip(hann, windows, strict=True):
            start = (n_fft - window) // 2
            row[:, start : start + window] = torch.hann_window(window, device=device, dtype=dtype)
    return hann


class _MeanModulus(torch.autograd.Function):
    """Compute the mean modulus of the spectrogram of ``(signals, samples)``, summed over the windows.

    The forward pass also computes the gradient, so that no spectrogram is kept. With ``X`` the transform of a frame,
    the gradient of ``sum |X|`` is the adjoint transform of ``X / |X|``.
    """

    @staticmethod
    def forward(ctx, wave: Tensor, windows: tuple[int, ...], config: LossConfig) -> Tensor:
        hann = _hann(windows, config.min_fft, wave.device, wave.dtype)
        n_fft = hann.shape[-1]
        frames = wave.unfold(-1, n_fft, config.hop_length)
        signals, count, _ = frames.shape
        bins = n_fft // 2 + 1
        wanted = ctx.needs_input_grad[0]
        # irfft divides by n_fft and counts the inner bins twice; the mean divides by the number of values. The windows
        # of the inverse are scaled accordingly, and the first and last bin are doubled below.
        adjoint = hann[:, 0] * (n_fft / 2 / (signals * count * bins))
        gradient = torch.zeros_like(wave) if wanted else None
        total = 0.0
        block = max(1, BLOCK_SAMPLES // (len(windows) * n_fft)) if wave.device.type == "cpu" else count
        for signal in range(signals):
            for first in range(0, count, block):
                spectrum = torch.fft.rfft(frames[signal, first : first + block] * hann)  # (windows, block, bins)
                total = total + _to_directions_(spectrum)
                if wanted:
                    spectrum[..., 0] *= 2
                    if n_fft % 2 == 0:
                        spectrum[..., -1] *= 2
                    adjoints = torch.fft.irfft(spectrum, n=n_fft)
                    _overlap_add_(gradient[signal, first * config.hop_length :], adjoints, adjoint, config.hop_length)
        if wanted:
            ctx.save_for_backward(gradient)
        return torch.as_tensor(total / (signals * count * bins), dtype=wave.dtype, device=wave.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        return ctx.saved_tensors[0] * dloss, None, None


def _to_directions_(spectrum: Tensor) -> Tensor | float:
    """Replace ``X`` by ``X / |X|``, and by 0 where it is 0; return the sum of ``|X|``."""
    numbers = torch.view_as_real(spectrum)
    if applies(numbers):
        return sum(over_rows(_directions, [numbers.view(-1, 2 * spectrum.shape[-1])]))
    power = numbers.square().sum(-1)
    inverse = power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt_()  # 1 / |X|
    spectrum.mul_(inverse)
    return power.mul_(inverse).sum()


@compiled_sum
def _directions(rows):
    """Do the same for rows of float32 numbers, real and imaginary parts in turn."""
    total = 0.0
    for i in range(len(rows)):
        moduli = np.float32(0)
        for c in range(rows.shape[1] // 2):
            power = rows[i, 2 * c] * rows[i, 2 * c] + rows[i, 2 * c + 1] * rows[i, 2 * c + 1]
            inverse = ONE / math.sqrt(max(power, TINY))
            moduli += power * inverse
            rows[i, 2 * c] *= inverse
            rows[i, 2 * c + 1] *= inverse
        total += moduli
    return total


def _overlap_add_(total: Tensor, frames: Tensor, weights: Tensor, hop: int) -> None:
    """Add ``(windows, frames, n_fft)``, each window times its weights, to ``(samples,)``; a frame every ``hop``."""
    if applies(total, frames, weights):
        _add_frames(total.numpy(), frames.numpy(), weights.numpy(), hop)
        return
    frames = torch.einsum("wfn,wn->fn", frames, weights)
    for start in range(0, frames.shape[1], hop):  # the frames' samples start to start + hop do not overlap
        part = frames[:, start : start + hop]
        total[start:].as_strided(part.shape, (hop, 1)).add_(part)


@compiled
def _add_frames(total, frames, weights, hop):
    for i in range(frames.shape[1]):
        to = total[i * hop :]
        for w in range(len(weights)):
            for c in range(frames.shape[2]):
                to[c] += frames[w, i, c] * weights[w, c]
