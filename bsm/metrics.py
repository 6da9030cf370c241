"""Separation metrics: uSDR, cSDR (museval), SI-SDR, bleedless and fullness, and the ideal ratio mask as an oracle."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from bsm.errors import InputError

log = logging.getLogger(__name__)

Audio = np.ndarray | torch.Tensor
A = TypeVar("A", np.ndarray, torch.Tensor)

# Bleedless and fullness, by the defaults of Music-Source-Separation-Training (ZFTurbo, ``metrics.py``).
MEL_FFT, MEL_HOP, MEL_BANDS = 4096, 1024, 512  # samples, samples, bands from 0 Hz to half the rate
MEL_AMIN, MEL_RANGE = 1e-10, 80.0  # smallest magnitude, and dB below a signal's maximum at which it is cut


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
        The ratio in dB; NaN where the reference or the estimate is silent throughout: no scale fits one to the other.

    Raises:
        ValueError: the shapes differ.
    """
    s, e = _pair(reference, estimate)
    if not s.any() or not e.any():
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


def bleedless_fullness(reference: Audio, estimate: Audio, rate: int) -> tuple[float, float]:
    """How free of foreign sound an estimate is, and how complete: mean differences of mel spectra in dB, as 0 to 100.

    The definition is that of Music-Source-Separation-Training (``bleed_full`` in its ``metrics.py``), where these names
    come from. The author logs both by a copy of that function, but called with reference and estimate swapped and with
    the model's STFT (2048 samples, hop 441): what is called bleedless there is a fullness, and the other way round, and
    neither can be set beside these values.

    Magnitudes of an STFT (4096 samples, hop 1024, periodic Hann window, centred, zeros beyond the ends), per channel;
    512 mel bands from 0 Hz to half the rate (Slaney's scale, each triangle of unit area); ``20 log10(max(x, 1e-10))``,
    cut 80 dB below the signal's own maximum over bands, frames and channels. No level is taken out: the reference of
    the decibels is 1. Of the differences ``estimate - reference`` the mean of those above 0 is ``bleed``, of those
    below 0 ``loss`` (0 where there are none); equal values count for neither.

    Computed in float32, as there. The mel bands follow the rate, where the published function takes 44.1 kHz always.

    Args:
        reference: the true source, (channels, samples) or (samples,).
        estimate: the separated source, same shape.
        rate: Hz.

    Returns:
        ``100 / (1 + bleed)`` and ``100 / (1 + loss)``: 100 is perfect; NaN where a signal is not finite.

    Raises:
        ValueError: the shapes differ.
    """
    pair = _pair(reference, estimate)
    if not all(np.isfinite(x).all() for x in pair):
        return float("nan"), float("nan")
    s, e = (_mel_db(x, rate) for x in pair)
    difference = e - s
    bleed, loss = (
        float(part.mean()) if part.numel() else 0.0
        for part in (difference[difference > 0], -difference[difference < 0])
    )
    return 100 / (1 + bleed), 100 / (1 + loss)


def _mel_db(x: np.ndarray, rate: int) -> torch.Tensor:
    """Return the mel spectrum of ``(channels, samples)`` in dB, (channels, bands, frames)."""
    window, bands = torch.hann_window(MEL_FFT), torch.from_numpy(_mel_bands(rate))
    levels = []
    for channel in torch.from_numpy(x).float():  # one at a time: a song's spectra are large
        spec = torch.stft(
            channel, MEL_FFT, MEL_HOP, window=window, center=True, pad_mode="constant", return_complex=True
        )
        levels.append(20 * torch.log10((bands @ spec.abs()).clamp_min(MEL_AMIN)))
    level = torch.stack(levels)
    return level.clamp_min(level.max() - MEL_RANGE)


@cache
def _mel_bands(rate: int) -> np.ndarray:
    """Weights of the mel bands, float32 (bands, bins): Slaney's scale, triangles of unit area over frequency.

    Linear below 1 kHz with 200/3 Hz per mel, logarithmic above with 27 mel per factor 6.4 (Slaney, Auditory Toolbox,
    1998): the default of librosa. At the bottom a triangle holds one or two bins.
    """
    hertz_per_mel, corner, step = 200 / 3, 1000.0, np.log(6.4) / 27
    knee = corner / hertz_per_mel
    top = knee + np.log(rate / 2 / corner) / step if rate / 2 > corner else rate / 2 / hertz_per_mel
    mel = np.linspace(0, top, MEL_BANDS + 2)
    edges = np.where(mel > knee, corner * np.exp(step * (mel - knee)), hertz_per_mel * mel)  # Hz
    bins = np.linspace(0, rate / 2, MEL_FFT // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(0)
    return (weights * 2 / (high - low)).astype(np.float32)


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
