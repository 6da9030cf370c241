"""The paper's training loss, and the variants that the ablations compare it with.

Loss = 10 x L1(waveform) + SUM over windows of L1 between complex spectrograms, the mean modulus of their difference
(author's code). A transform is linear, so the complex terms need the spectrogram of the difference alone.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.config import LossConfig


def bsmamba2_loss(estimate: Tensor, target: Tensor, config: LossConfig = LossConfig()) -> Tensor:  # noqa: B008 (frozen)
    """Compute the training loss of an estimate, a scalar.

    Args:
        estimate: ``(..., samples)`` waveforms.
        target: the same shape.
        config: the loss; the default is the paper's.

    Raises:
        ValueError: shapes that differ.
    """
    return sum(loss_terms(estimate, target, config).values())


def loss_terms(estimate: Tensor, target: Tensor, config: LossConfig = LossConfig()) -> dict[str, Tensor]:  # noqa: B008
    """Return the weighted terms of :func:`bsmamba2_loss`: ``waveform``, and ``stft_<window>`` for each window."""
    if estimate.shape != target.shape:
        raise ValueError(f"estimate and target must have one shape, got {tuple(estimate.shape)}, {tuple(target.shape)}")
    # Outside autocast: FFTs know no half precision, and sums over a spectrogram need more than its digits.
    with torch.autocast(estimate.device.type, enabled=False):
        estimate, target = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (estimate, target))
        terms = {"waveform": config.waveform_weight * F.l1_loss(estimate, target)}
        weight = 1 / len(config.windows) if config.mean else 1.0
        for window in config.windows:
            if config.magnitude:
                spectra = (_spectrum(v, window, config) for v in (estimate, target))
                term = F.l1_loss(*(s.abs() for s in spectra))
            else:
                term = _MeanModulus.apply(_frame_source(estimate - target, window, config), window, config)
            terms[f"stft_{window}"] = weight * term
    return terms


@cache
def _hann(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # kept, and so perhaps used in training after scoring has made it
        return torch.hann_window(length, device=device, dtype=dtype)


def _spectrum(wave: Tensor, window: int, config: LossConfig) -> Tensor:
    n_fft = max(window, config.min_fft)
    frames = _frame_source(wave, window, config).unfold(-1, window, config.hop_length)
    return torch.fft.rfft(frames * _hann(window, wave.device, wave.dtype), n=n_fft)


def _frame_source(wave: Tensor, window: int, config: LossConfig) -> Tensor:
    """Pad ``(..., samples)`` so that cutting it every hop gives the frames of ``torch.stft``, windows' zeros left off.

    ``torch.stft`` centres a short window inside its transform; a frame's modulus does not depend on where it lies.
    """
    wave = wave.reshape(-1, wave.shape[-1])
    n_fft = max(window, config.min_fft)
    half = n_fft // 2
    if config.center:
        wave = F.pad(wave, (0, max(0, half + 1 - wave.shape[-1])))
        wave = F.pad(wave[:, None], (half, half), mode="reflect")[:, 0]
    else:
        wave = F.pad(wave, (0, max(0, n_fft - wave.shape[-1])))
    margin = (n_fft - window) // 2
    return wave[:, margin : wave.shape[-1] - (n_fft - window - margin)]


def _overlap_add(frames: Tensor, hop: int, samples: int) -> Tensor:
    """Sum ``(n, frames, window)`` into ``(n, samples)``, a frame every ``hop``: many times faster than ``F.fold``."""
    n, count, window = frames.shape
    pieces = -(-window // hop)
    total = frames.new_zeros(n, count + pieces - 1, hop)
    for piece in range(pieces):
        part = frames[..., piece * hop : (piece + 1) * hop]
        total[:, piece : piece + count, : part.shape[-1]] += part
    total = total.flatten(1)
    return F.pad(total, (0, max(0, samples - total.shape[-1])))[:, :samples]


class _MeanModulus(torch.autograd.Function):
    """Mean modulus of the spectrogram of ``(n, samples)``; the gradient is formed in the forward pass.

    With ``X`` the frame's transform, the gradient of ``sum |X|`` is the transform's adjoint applied to ``X / |X|``:
    one inverse FFT, and no spectrogram kept for later.
    """

    @staticmethod
    def forward(ctx, wave: Tensor, window: int, config: LossConfig) -> Tensor:
        n_fft, hop = max(window, config.min_fft), config.hop_length
        hann = _hann(window, wave.device, wave.dtype)
        spectrum = torch.fft.rfft(wave.unfold(-1, window, hop) * hann, n=n_fft)
        loss = torch.hypot(spectrum.real, spectrum.imag).mean()  # abs() of complex values is several times slower
        if ctx.needs_input_grad[0]:
            direction = spectrum.sgn()  # X / |X|, and 0 where X is 0
            # irfft counts the bins between the first and the last twice: count those two twice as well, and halve.
            direction[..., 0] *= 2
            if n_fft % 2 == 0:
                direction[..., -1] *= 2
            frames = torch.fft.irfft(direction, n=n_fft)[..., :window] * (hann * (n_fft / 2 / spectrum.numel()))
            ctx.save_for_backward(_overlap_add(frames, hop, wave.shape[-1]))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        return ctx.saved_tensors[0] * dloss, None, None
