"""Separate recordings of any length, rate and channel count with a model of fixed rate and channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bsm.audio import resample
from bsm.errors import InputError
from bsm.model import BSMamba2


def separate(
    model: BSMamba2,
    mixture: Tensor,
    rate: int,
    *,
    window: float = 8.0,
    hop: float | None = None,
    whole: bool = False,
    batch_size: int = 1,
    progress: bool = False,
) -> Tensor:
    """Estimate the vocals of one recording.

    Args:
        model: on any device; its own rate and channels may differ from the recording's.
        mixture: ``(channels, samples)``.
        rate: of the mixture, Hz.
        window: seconds that the model sees at a time; the last window is filled up with zeros.
        hop: seconds from window to window; None for no overlap, the author's way. Overlapping windows are cross-faded.
        whole: one pass over the whole recording instead of windows.
        batch_size: windows per forward pass; no effect on the result beyond rounding.
        progress: show a progress bar.

    Returns:
        ``(channels, samples)`` on the CPU, shape and rate of the mixture.

    Raises:
        InputError: no samples, values that are not finite, more channels than the model can be given, no window, or a
            hop that would leave gaps.
    """
    mixture = torch.as_tensor(mixture, dtype=torch.float32)
    if mixture.ndim != 2 or 0 in mixture.shape:
        raise InputError(f"mixture must be (channels, samples), none of them 0, got {tuple(mixture.shape)}")
    if not mixture.isfinite().all():
        raise InputError("the mixture holds NaN or infinite samples; repair the recording first")
    config, samples = model.config, mixture.shape[1]
    if not 0 < window < math.inf:
        raise InputError(f"window must be above 0 s, got {window:g} s")
    if hop is not None and not whole and not 0 < hop <= window:
        raise InputError(f"hop must be above 0 and at most the window of {window:g} s, got {hop:g} s")
    wave = torch.from_numpy(resample(mixture.numpy(), rate, config.sample_rate))
    if wave.shape[-1] == 0:  # less than half a sample at the model's rate
        wave = wave.new_zeros(len(wave), 1)
    wave = _fit_channels(wave, config.channels)  # (b, model channels, samples)
    size = wave.shape[-1] if whole else max(1, round(window * config.sample_rate))
    step = size if hop is None or whole else max(1, round(hop * config.sample_rate))
    estimate = _windowed(model, wave, size, step, batch_size, progress)
    if estimate.shape[0] > 1:  # a mono model's channels
        estimate = estimate.squeeze(1)
    else:
        estimate = estimate[0].mean(0, keepdim=True) if mixture.shape[0] == 1 else estimate[0]
    estimate = torch.from_numpy(resample(estimate.numpy(), config.sample_rate, rate))
    # Resampling there and back may end a sample early or late.
    return torch.nn.functional.pad(estimate, (0, max(0, samples - estimate.shape[-1])))[:, :samples]


def _fit_channels(wave: Tensor, wanted: int) -> Tensor:
    channels = wave.shape[0]
    if channels == wanted:
        return wave[None]
    if wanted == 1:
        return wave[:, None]
    if channels == 1:
        return wave.expand(wanted, -1)[None]
    raise InputError(f"the recording has {channels} channels; the model takes {wanted}, or mono")


@torch.inference_mode()
def _windowed(model: BSMamba2, wave: Tensor, size: int, step: int, batch_size: int, progress: bool) -> Tensor:
    """Run the model over windows of ``size`` every ``step`` samples; ``(b, c, samples)`` in and out."""
    device = next(model.parameters(), wave).device
    batch, channels, samples = wave.shape
    count = 1 + max(0, -(-(samples - size) // step))
    padded = torch.nn.functional.pad(wave, (0, (count - 1) * step + size - samples))
    total = torch.zeros_like(padded)
    # Without overlap every weight is 1; with it, a triangle, divided by the sum of what overlaps.
    weight = torch.ones(size) if step == size else torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1))
    weights = torch.zeros(padded.shape[-1])
    starts = range(0, count * step, step)
    per_pass = max(1, batch_size // batch)
    for first in tqdm(range(0, count, per_pass), desc="separate", unit="pass", disable=not progress):
        group = starts[first : first + per_pass]
        windows = torch.stack([padded[..., s : s + size] for s in group])  # (windows, b, c, size)
        estimate = model(windows.flatten(0, 1).to(device)).float().cpu().view(windows.shape)
        for start, part in zip(group, estimate, strict=True):
            total[..., start : start + size] += part * weight
            weights[start : start + size] += weight
    return (total / weights)[..., :samples]
