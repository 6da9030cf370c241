"""Separation metrics: uSDR, cSDR (museval), SI-SDR, and the ideal ratio mask as an oracle."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import numpy as np
import torch

from bsm.errors import InputError

log = logging.getLogger(__name__)

Audio = np.ndarray | torch.Tensor
A = TypeVar("A", np.ndarray, torch.Tensor)


def usdr(reference: Audio, estimate: Audio) -> float:
    """Signal-to-distortion ratio of a whole track, computed in float64.

    ``10 log10((sum s^2 + 1e-7) / (sum (s - s')^2 + 1e-7))`` over all samples and channels (author's code; the Music
    Demixing Challenge's SDR). A silent reference gives a finite, very low value unless the estimate is silent too.

    Args:
        reference: the true source, (channels, samples) or (samples,).
        estimate: the separated source, same shape.

    Returns:
        The ratio in dB.

    Raises:
        ValueError: the shapes differ.
    """
    s, e = _pair(reference, estimate)
    return _db(np.sum(s**2) + 1e-7, np.sum((s - e) ** 2) + 1e-7)


def si_sdr(reference: Audio, estimate: Audio) -> float:
    """Scale-invariant signal-to-distortion ratio of a whole track (Le Roux et al., 2019), computed in float64.

    The reference is scaled by one factor for all channels to fit the estimate best; the mean is not removed. A perfect
    estimate gives a large finite value instead of infinity.

    Args:
        reference: the true source, (channels, samples) or (samples,).
        estimate: the separated source, same shape.

    Returns:
        The ratio in dB; NaN for an estimate that is silent throughout, which no scale can fit.

    Raises:
        ValueError: the shapes differ.
    """
    s, e = _pair(reference, estimate)
    if not e.any():
        return float("nan")
    tiny = np.finfo(np.float64).eps
    target = s * (np.sum(s * e) / (np.sum(s**2) + tiny))
    return _db(np.sum(target**2) + tiny, np.sum((e - target) ** 2) + tiny)


def csdr(reference: Audio, estimate: Audio, rate: int, *, window: float = 1.0, hop: float = 1.0) -> float:
    """Chunk SDR of a track: the median of :func:`csdr_frames` over the windows that have a value.

    Returns:
        The median in dB; NaN when no window has a value; infinity when most windows are exact.

    Raises:
        ValueError: the shapes differ, or the window or hop is shorter than one sample.
        InputError: ffmpeg is missing, without which museval cannot be imported.
    """
    frames = csdr_frames(reference, estimate, rate, window=window, hop=hop)
    return float(np.nanmedian(frames)) if not np.isnan(frames).all() else float("nan")


def csdr_frames(reference: Audio, estimate: Audio, rate: int, *, window: float = 1.0, hop: float = 1.0) -> np.ndarray:
    """SDR of each window by museval's BSS Eval v4 (Stoeter, Liutkus and Ito, 2018), for one source on its own.

    museval gives NaN to a window in which the reference *or the estimate* is silent, and refuses a track in which
    either is silent throughout; here such a track has NaN in every window. So an estimate of exact zeros, which a plain
    ratio would score 0 dB, drops out: compare :func:`usdr` before trusting a model that gates its output. "Silent"
    means to museval that the channels' sum is zero, which a signal in antiphase is too. A rest at the end that is
    shorter than a window is not scored; a track shorter than a window is one window.

    Args:
        reference: the true source, (channels, samples) or (samples,).
        estimate: the separated source, same shape.
        rate: Hz.
        window: length of a window, s.
        hop: distance between windows, s.

    Returns:
        SDR in dB, (windows,), NaN where a window has none.

    Raises:
        ValueError: the shapes differ, or the window or hop is shorter than one sample.
        InputError: ffmpeg is missing, without which museval cannot be imported.
    """
    s, e = _pair(reference, estimate)
    window_samples, hop_samples = round(window * rate), round(hop * rate)
    if window_samples < 1 or hop_samples < 1:
        raise ValueError(f"window {window} s and hop {hop} s must be at least one sample at {rate} Hz")
    silent = [name for name, x in (("reference", s), ("estimate", e)) if not x.sum(axis=0).any()]
    if silent:
        log.warning("cSDR is undefined: the %s is silent throughout", " and the ".join(silent))
        return np.full(max(0, s.shape[1] - window_samples) // hop_samples + 1, np.nan)
    sdr, *_ = _museval().metrics.bss_eval(
        s.T[None],
        e.T[None],
        window=window_samples,
        hop=hop_samples,
        compute_permutation=False,
        filters_len=512,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    return sdr[0]


def ideal_ratio_mask(mixture: A, vocals: A, accompaniment: A, n_fft: int = 2048, hop: int = 512) -> A:
    """Separate with the ideal ratio mask: an upper bound for magnitude masks, given the true sources.

    The mask ``|V| / (|V| + |A|)``, from the magnitudes of the sources' spectra, multiplies the mixture's complex
    spectrum, per channel. Centred frames with zeros beyond the ends, Hann window.

    Args:
        mixture: what is separated, (channels, samples) or (samples,).
        vocals: the true vocals, same shape.
        accompaniment: the true rest, same shape.
        n_fft: window length in samples.
        hop: samples between frames.

    Returns:
        The estimated vocals: same shape and kind (array or tensor) as ``mixture``, float64.

    Raises:
        ValueError: the shapes differ.
    """
    if not mixture.shape == vocals.shape == accompaniment.shape:
        raise ValueError(
            f"mixture {tuple(mixture.shape)}, vocals {tuple(vocals.shape)} and accompaniment "
            f"{tuple(accompaniment.shape)} must have one shape"
        )
    signals = torch.stack([torch.as_tensor(x).detach().double() for x in (mixture, vocals, accompaniment)])
    hann = torch.hann_window(n_fft, dtype=torch.float64, device=signals.device)
    flat = signals.reshape(-1, signals.shape[-1])  # (signals * channels, samples)
    spectra = torch.stft(flat, n_fft, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    mix, v, a = spectra.unflatten(0, (3, -1))  # each (channels, bins, frames)
    mask = v.abs() / (v.abs() + a.abs()).clamp_min(torch.finfo(torch.float64).tiny)
    estimate = torch.istft(mask * mix, n_fft, hop, window=hann, center=True, length=signals.shape[-1])
    estimate = estimate.reshape(mixture.shape)
    return estimate if isinstance(mixture, torch.Tensor) else estimate.numpy()


def _pair(reference: Audio, estimate: Audio) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 arrays (channels, samples)."""
    if tuple(reference.shape) != tuple(estimate.shape) or len(reference.shape) not in (1, 2):
        raise ValueError(
            f"reference {tuple(reference.shape)} and estimate {tuple(estimate.shape)} must have one shape, "
            "(channels, samples) or (samples,)"
        )
    return _array(reference), _array(estimate)


def _array(x: Audio) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().double().cpu().numpy()
    return np.atleast_2d(np.asarray(x, dtype=np.float64))


def _db(signal: float, distortion: float) -> float:
    return float(10 * np.log10(signal / distortion))


def _museval() -> Any:
    """Import museval when it is needed: it imports musdb and stempeg, which look for ffmpeg at once."""
    try:
        import museval
    except RuntimeError as error:  # stempeg's, when ffmpeg or ffprobe is missing
        raise InputError(
            "cSDR needs museval, and museval needs ffmpeg and ffprobe on the PATH: install ffmpeg"
        ) from error
    return museval
