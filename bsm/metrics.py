"""Separation metrics: uSDR, cSDR (museval), SI-SDR, level, bleedless, fullness; the ideal ratio mask as an oracle.

Each metric compares the true source (``reference``) with the separated source (``estimate``). Signals are arrays or
tensors of one shape, (channels, samples) or (samples,); other shapes raise a ValueError. Rates are in Hz.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
import torch

from bsm.errors import InputError

log = logging.getLogger(__name__)

Audio = np.ndarray | torch.Tensor

# Bleedless and fullness: the defaults of Music-Source-Separation-Training (ZFTurbo, ``metrics.py``).
MEL_FFT, MEL_HOP, MEL_BANDS = 4096, 1024, 512  # samples, samples, bands from 0 Hz to half the rate
MEL_AMIN, MEL_RANGE = 1e-10, 80.0  # smallest magnitude; dB below a signal's maximum at which its level is cut


def usdr(reference: Audio, estimate: Audio) -> float:
    """Compute the signal-to-distortion ratio of a whole track in dB, in float64.

    ``10 log10((sum s^2 + 1e-7) / (sum (s - s')^2 + 1e-7))`` over all samples and channels, as in the author's code and
    the Music Demixing Challenge. A silent reference gives a finite, very low value unless the estimate is silent too.
    """
    s, e = _arrays(reference, estimate)
    return _db(np.sum(s**2) + 1e-7, np.sum((s - e) ** 2) + 1e-7)


def si_sdr(reference: Audio, estimate: Audio) -> float:
    """Compute the scale-invariant signal-to-distortion ratio of a whole track in dB (Le Roux et al., 2019), in float64.

    One factor for all channels scales the reference to fit the estimate best. The mean is not removed. A perfect
    estimate gives a large finite value. It is NaN if reference or estimate is silent throughout, because then no scale
    fits.
    """
    s, e = _arrays(reference, estimate)
    if not s.any() or not e.any():
        return float("nan")
    tiny = np.finfo(np.float64).eps
    target = s * (np.sum(s * e) / (np.sum(s**2) + tiny))
    return _db(np.sum(target**2) + tiny, np.sum((e - target) ** 2) + tiny)


def level(reference: Audio, estimate: Audio) -> float:
    """Return the level of an estimate relative to its reference in dB, over all samples and channels.

    It shows an estimate that is too quiet. uSDR does not: there, silence scores 0 dB. The level is minus infinity for a
    silent estimate, and NaN for a silent reference.
    """
    s, e = _arrays(reference, estimate)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.square(e).sum() / np.square(s).sum())) if s.any() else float("nan")


def csdr(reference: Audio, estimate: Audio, rate: int) -> float:
    """Compute the chunk SDR of a track in dB: the median of :func:`csdr_frames` over the seconds with a value.

    It is NaN if no second has a value, and infinity if most are exact.
    """
    return median(csdr_frames(reference, estimate, rate))


def median(frames: np.ndarray) -> float:
    """Return the median of the values that are not NaN; NaN if there are none."""
    return float(np.nanmedian(frames)) if not np.isnan(frames).all() else float("nan")


def csdr_frames(reference: Audio, estimate: Audio, rate: int) -> np.ndarray:
    """Compute the SDR of each second by museval's BSS Eval v4 (Stöter, Liutkus and Ito, 2018), for a single source.

    museval gives NaN for a second in which the reference *or the estimate* is silent. It refuses a track in which
    either is silent throughout; here such a track has NaN in every second. So an estimate of exact zeros drops out:
    compare :func:`usdr` before trusting a model that gates its output. For museval, "silent" means that the channels
    sum to zero, as they do in antiphase. Samples after the last whole second are not scored, but those of a track
    shorter than a second are.

    Returns:
        SDR in dB, (seconds,); NaN for a second without a value.

    Raises:
        InputError: ffmpeg is missing, and museval cannot be imported without it.
    """
    s, e = _arrays(reference, estimate)
    silent = [name for name, x in (("reference", s), ("estimate", e)) if not x.sum(axis=0).any()]
    if silent:
        log.warning("cSDR is undefined: the %s is silent throughout", " and the ".join(silent))
        return np.full(max(1, s.shape[1] // rate), np.nan)
    sdr, *_ = _museval().metrics.bss_eval(
        s.T[None],
        e.T[None],
        window=rate,
        hop=rate,
        compute_permutation=False,
        filters_len=512,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    return sdr[0]


def bleedless_fullness(reference: Audio, estimate: Audio, rate: int) -> tuple[float, float]:
    """Measure how free of other sounds an estimate is, and how complete, each from 0 to 100.

    Names and definition are those of Music-Source-Separation-Training (``bleed_full`` in ``metrics.py``), in float32.
    The author logs both with a copy of that function, but swaps reference and estimate and uses another STFT. So the
    author's "bleedless" is a fullness and vice versa, and neither is comparable with these values.

    Both compare mel spectra in dB: STFT of 4096 samples, hop 1024, centred, zeros beyond the ends; 512 bands up to half
    the rate (the original assumes 44.1 kHz). A band's level is ``20 log10(max(x, 1e-10))``, cut 80 dB below the
    signal's own maximum. Of the differences ``estimate - reference``, ``bleed`` is the mean of those above 0, and
    ``loss`` the mean size of those below 0; either is 0 if it has none.

    Returns:
        Bleedless, ``100 / (1 + bleed)``, and fullness, ``100 / (1 + loss)``. Both are NaN if a signal is not finite.
    """
    pair = _arrays(reference, estimate)
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
    for channel in torch.from_numpy(x).float():  # one at a time, because a song's spectra are large
        spec = torch.stft(
            channel, MEL_FFT, MEL_HOP, window=window, center=True, pad_mode="constant", return_complex=True
        )
        levels.append(20 * torch.log10((bands @ spec.abs()).clamp_min(MEL_AMIN)))
    level = torch.stack(levels)
    return level.clamp_min(level.max() - MEL_RANGE)


@cache
def _mel_bands(rate: int) -> np.ndarray:
    """Return the weights of the mel bands, float32 (bands, bins): triangles of unit area over frequency.

    Slaney's scale (Auditory Toolbox, 1998), librosa's default, is linear below 1 kHz with 200/3 Hz per mel. Above, it
    is logarithmic with 27 mel per factor of 6.4.
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


def ideal_ratio_mask(mixture: Audio, vocals: Audio, accompaniment: Audio) -> np.ndarray:
    """Separate with the ideal ratio mask, an upper bound for magnitude masks that needs the true sources.

    In each channel, the mask ``|V| / (|V| + |A|)`` of the sources' spectra multiplies the mixture's. Frames of 2048
    samples every 512 are centred with zeros beyond the ends and have a Hann window.

    Returns:
        The estimated vocals, float64, in the shape of ``mixture``.
    """
    signals = torch.from_numpy(np.stack(_arrays(mixture, vocals, accompaniment)))  # (3, channels, samples)
    hann = torch.hann_window(2048, dtype=torch.float64)
    spectra = torch.stft(
        signals.flatten(0, 1), 2048, 512, window=hann, center=True, pad_mode="constant", return_complex=True
    )
    mix, v, a = spectra.unflatten(0, (3, -1))  # each (channels, bins, frames)
    mask = v.abs() / (v.abs() + a.abs()).clamp_min(torch.finfo(torch.float64).tiny)
    estimate = torch.istft(mask * mix, 2048, 512, window=hann, center=True, length=signals.shape[-1])
    return estimate.reshape(tuple(mixture.shape)).numpy()


def _arrays(*signals: Audio) -> list[np.ndarray]:
    """Return signals of one shape as float64 arrays (channels, samples)."""
    shapes = [tuple(x.shape) for x in signals]
    if len(set(shapes)) > 1 or len(shapes[0]) not in (1, 2):
        raise ValueError(f"signals must have one shape, (channels, samples) or (samples,), got {shapes}")
    signals = (x.detach().double().cpu() if isinstance(x, torch.Tensor) else x for x in signals)
    return [np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in signals]


def _db(signal: float, distortion: float) -> float:
    return float(10 * np.log10(signal / distortion))


def _museval() -> Any:
    try:
        import museval  # late: the import fails without ffmpeg
    except RuntimeError as error:  # stempeg raises it if ffmpeg or ffprobe is missing
        raise InputError(
            "cSDR needs museval, and museval needs ffmpeg and ffprobe on the PATH: install ffmpeg"
        ) from error
    return museval
