"""Trivial separators: those that any trained model must beat, and oracles, which are given the target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.evaluate import BASELINES, Separator
from bsm.metrics import level, si_sdr, usdr

EQUALISER = "static equaliser"
"""The baseline that a training must beat before its scores say anything (:mod:`bsm.study.assay`)."""
CONSTANT = "mixture x best constant"
"""An oracle: the mixture, turned down by the best factor for each song."""
METRICS = (usdr, si_sdr, level)
N_FFT, HOP = 2048, 512


def best_constant(mixture: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Scale the mixture by the best factor for this song, by least squares: an oracle."""
    energy = float(np.square(mixture, dtype=np.float64).sum())
    return mixture * np.float32(np.multiply(mixture, target, dtype=np.float64).sum() / energy if energy else 0.0)


def equalise(mixture: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiply every bin of the mixture's spectrum by a real gain, the same in all frames and channels."""
    spectrum = _spectrum(mixture) * torch.from_numpy(gains)[:, None]
    return torch.istft(spectrum, N_FFT, HOP, window=_hann(), length=mixture.shape[-1]).float().numpy()


def fit_gains(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Find the gains of a static equaliser, one per bin, by least squares over pairs of mixture and target.

    Raises:
        InputError: there are no songs.
    """
    product, energy = 0.0, 0.0
    for mixed, target in pairs:
        spectrum = _spectrum(mixed)
        product = product + (spectrum.conj() * _spectrum(target)).real.sum((0, 2))
        energy = energy + spectrum.abs().square().sum((0, 2))
    if isinstance(energy, float):
        raise InputError("a static equaliser is fitted to training songs, and there are none; name some")
    return torch.where(energy > 0, product / energy, 0.0).numpy()


def own_equaliser(mixture: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Equalise the mixture with the best gains for this song: an oracle."""
    return equalise(mixture, fit_gains([(mixture, target)]))


def _hann() -> Tensor:
    return torch.hann_window(N_FFT, dtype=torch.float64)


def _spectrum(sound: np.ndarray) -> Tensor:
    return torch.stft(torch.from_numpy(sound).double(), N_FFT, HOP, window=_hann(), return_complex=True)


def separators(training: Sequence[Track]) -> dict[str, Separator]:
    """Return all baselines by name; the static equaliser is fitted to the training songs."""
    songs = tqdm(training, desc="fit the equaliser", unit="song")
    gains = fit_gains((track.mixture(), track.read(VOCALS)) for track in songs)
    return {
        **BASELINES,
        EQUALISER: lambda track: equalise(track.mixture(), gains),
        CONSTANT: lambda track: best_constant(track.mixture(), track.read(VOCALS)),
        f"{EQUALISER}, fitted on the song": lambda track: own_equaliser(track.mixture(), track.read(VOCALS)),
    }


def scored(
    tracks: Sequence[Track], separators: Mapping[Any, Separator], *metrics: Callable[..., float], doing: str
) -> Iterator[tuple[str, Any, dict[str, float]]]:
    """Separate tracks and score the estimates by fast metrics, in this process; a progress bar shows ``doing``.

    Yields:
        A track's name, a separator's key, and the scores by the metrics' names.
    """
    for track in tqdm(tracks, desc=doing, unit="song"):
        target = track.read(VOCALS)
        for key, separate in separators.items():
            estimate = separate(track)
            yield track.name, key, {metric.__name__: metric(target, estimate) for metric in metrics}


def scores(tracks: Sequence[Track], training: Sequence[Track]) -> list[dict[str, Any]]:
    """Score every baseline on a list of tracks.

    Returns:
        One record per track and baseline: ``track``, ``separator``, ``seed`` (None), ``usdr``, ``si_sdr`` and
        ``level``, the output's level relative to the target's; all three in dB.
    """
    found = scored(tracks, separators(training), *METRICS, doing="score baselines")
    return [{"track": track, "separator": name, "seed": None} | own for track, name, own in found]


def means(records: Iterable[Mapping[str, Any]], *names: str) -> dict[str, float]:
    """Return the mean uSDR over songs, dB, of separators by name, of the records of :func:`scores`."""
    found = pd.DataFrame(records).groupby("separator")["usdr"].mean()
    return {name: float(found[name]) for name in names}


def scores_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return a table of means over songs of the records of :func:`scores`, the best uSDR last."""
    means = pd.DataFrame(records).groupby("separator")[["usdr", "si_sdr", "level"]].mean().sort_values("usdr")
    names = {"usdr": "uSDR (dB)", "si_sdr": "SI-SDR (dB)", "level": "level re target (dB)"}
    return means.rename(columns=names).reset_index()
