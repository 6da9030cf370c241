"""Confidence intervals of means over tracks, songs and trainings, and the verdicts that follow from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.stats

Values = Sequence[float | None] | np.ndarray
SAME = "no difference seen"
CONFIDENCE = 0.95  # of every interval
RESAMPLES = 10_000  # of every bootstrap
FEWEST = 5  # clusters that :func:`crossed_interval`, and rounds that :func:`of_rounds`, need for a bootstrap
FEW = 20  # with fewer values, a bootstrap interval of a mean is too narrow, and is widened to contain the t interval
NAN = float("nan")


class Interval(NamedTuple):
    """A statistic and its confidence interval."""

    estimate: float  # NaN without values
    low: float  # NaN with too few values
    high: float  # NaN with too few values
    n: int  # values used
    dropped: int  # values left out because they were NaN
    method: str  # BCa or percentile, with ", t" if widened to contain a t interval; range (smallest to largest); none
    # Effective number of clusters, (sum w)^2 / sum w^2 of their weights w (Kish, 1965); of the smaller side.
    clusters: float = NAN
    p: float = NAN  # two-sided p value of the hypothesis that the statistic is 0, for :func:`holm`

    @classmethod
    def of(cls, record: Self | Mapping[str, Any] | None) -> Self:
        """Read an interval from a record of a result file, where None stands for NaN. No record: no values."""
        if isinstance(record, cls):
            return record
        if record is None:
            return cls(NAN, NAN, NAN, 0, 0, "none")
        found = {name: record[name] for name in cls._fields if name in record}
        return cls(**{name: NAN if value is None else value for name, value in found.items()})

    def __neg__(self) -> Self:
        """Return the interval of the negative statistic."""
        return self._replace(estimate=-self.estimate, low=-self.high, high=-self.low)


def interval_words(interval: Interval, unit: str = "", digits: int | None = None) -> str:
    """Write an estimate and its interval, if it has one: ``20.9x [19.1, 23.3]``.

    ``unit`` follows the estimate, such as ``x`` or `` dB``. By default, an estimate from 10 on has one decimal, a
    smaller one two.
    """
    digits = (1 if abs(interval.estimate) >= 10 else 2) if digits is None else digits
    estimate, low, high = (round(value, digits) + 0.0 for value in interval[:3])  # no negative zero
    ends = "" if np.isnan([low, high]).any() else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{estimate:.{digits}f}{unit}{ends}"


def verdict(gain: Interval, *, more_is_better: bool = True) -> str:
    """Return what the interval of a difference shows: better, worse, or :data:`SAME` if it includes zero."""
    if np.isnan(gain.low):
        return "too few values to tell"
    if gain.low <= 0 <= gain.high:
        return SAME
    return "better" if (gain.low > 0) == more_is_better else "worse"


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust p values for the number of comparisons (Holm, 1979). A NaN stays NaN and counts as no comparison."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # NaN last
    counted = int((~np.isnan(p)).sum())
    adjusted = np.full(len(p), NAN)
    steps = np.maximum.accumulate(p[order[:counted]] * np.arange(counted, 0, -1))
    adjusted[order[:counted]] = np.minimum(steps, 1)
    return adjusted


def verdicts(gains: Sequence[Interval], *, more_is_better: bool = True) -> list[str]:
    """Return the :func:`verdict` on each comparison of one table, and which ones Holm's adjustment takes back."""
    words = [verdict(gain, more_is_better=more_is_better) for gain in gains]
    lost = holm([gain.p for gain in gains]) > 1 - CONFIDENCE
    return [
        f"{word}, not after Holm's adjustment" if word in ("better", "worse") and gone else word
        for word, gone in zip(words, lost, strict=True)
    ]


def bootstrap_interval(values: Values, statistic: Callable[..., Any] = np.mean) -> Interval:
    """Bootstrap a confidence interval of a statistic of one value per track. NaN and None are dropped and counted.

    The method is BCa, bias-corrected and accelerated (Efron, 1987). Its corrections do not exist if all values are
    equal, or if the median hardly changes between resamples; then the method is the percentile interval. The interval
    of a mean of fewer than :data:`FEW` values is widened to contain the t interval: with five normal values, a
    bootstrap alone covers the true mean in 82 % of cases. With fewer than two values, the ends are NaN.

    Raises:
        ValueError: the values are not one-dimensional.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1:
        raise ValueError(f"values must be one-dimensional, not of shape {sample.shape}")
    kept = sample[~np.isnan(sample)]
    n, dropped = kept.size, sample.size - kept.size
    estimate = float(statistic(kept)) if n else NAN
    if n < 2:
        return Interval(estimate, NAN, NAN, n, dropped, "none", n)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # where BCa fails, its ends are NaN
            low, high = scipy.stats.bootstrap(
                (kept,),
                statistic,
                confidence_level=CONFIDENCE,
                n_resamples=RESAMPLES,
                batch=max(1, 10_000_000 // n),  # limits the memory
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        if np.isfinite(low) and np.isfinite(high):
            break
    if statistic is not np.mean:
        return Interval(estimate, float(low), float(high), n, dropped, method, n)
    reach, p = _student(estimate, kept.std(ddof=1) / np.sqrt(n), n - 1)
    if n >= FEW:
        return Interval(estimate, float(low), float(high), n, dropped, method, n, p)
    low, high = min(low, estimate - reach), max(high, estimate + reach)
    return Interval(estimate, float(low), float(high), n, dropped, f"{method}, t", n, p)


def _student(estimate: float, error: float, freedom: float) -> tuple[float, float]:
    """Return half of the width of a t interval, and the p value of the hypothesis that the true value is 0."""
    reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error
    return reach, float(2 * scipy.stats.t.sf(abs(estimate) / error, freedom)) if error else float(estimate == 0)


def of_rounds(values: Values) -> Interval:
    """Return the mean of the rounds of a timing, with its bootstrap interval.

    With fewer than :data:`FEWEST` rounds, the ends are the smallest and the largest round: a bootstrap of three rounds
    would be much too narrow.
    """
    sample = np.asarray(values, dtype=float)
    if not 0 < sample.size < FEWEST:
        return bootstrap_interval(sample)
    ends = (float(sample.min()), float(sample.max())) if sample.size > 1 else (NAN, NAN)
    return Interval(float(sample.mean()), *ends, sample.size, 0, "range" if sample.size > 1 else "none")


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """Return how many times faster the second case was than the first: the :func:`of_rounds` of their ratios."""
    return of_rounds(np.divide(slow, fast))


def summary(values: Values) -> dict[str, float]:
    """Summarise one value per track; NaN and None are dropped.

    Returns:
        ``n``, ``dropped``, ``mean``, ``median``, ``std`` (with divisor n - 1), and the bootstrap interval of the mean,
        ``low`` and ``high``. A number that needs more values is NaN.
    """
    interval = bootstrap_interval(values)
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return {
        "n": interval.n,
        "dropped": interval.dropped,
        "mean": interval.estimate,
        "median": float(np.median(kept)) if kept.size else NAN,
        "std": float(np.std(kept, ddof=1)) if kept.size > 1 else NAN,
        "low": interval.low,
        "high": interval.high,
    }


def crossed_interval(
    values: Sequence[Values],
    clusters: Sequence[Any] | None = None,
    *,
    against: Sequence[bool] | None = None,
    trainings: Sequence[Any] | None = None,
) -> Interval:
    """Estimate a mean over songs and training seeds, or a difference of two such means, with its interval.

    The pigeonhole bootstrap (Owen, 2007) resamples songs and seeds independently, so its percentile interval covers the
    luck of the trainings and of the songs. With few of either, it is too narrow: it covers the true mean in 82 % of
    cases with 5 songs, and in 74 % with three trainings. So the interval is widened to contain two t intervals. One is
    that of the songs, from their contributions to the mean (linearised variance; the degrees of freedom are the
    effective clusters minus one). The other, with several seeds, is that of the seeds' means. In a cross-validation,
    singers who are tested by one training share its luck. So the interval also contains that of the trainings.

    Rows of one cluster, such as the regions of one song or the clips of one singer, are drawn together. Each value has
    the same weight.

    Args:
        values: (songs or parts of songs, seeds). Rows with a NaN or None are dropped, and all their values counted.
        clusters: the song or singer of each row; default: each row is a cluster of its own.
        against: marks the rows whose mean is subtracted from the mean of the other rows.
        trainings: the training that each row's values come from, such as the fold of a cross-validation.

    Returns:
        The mean, or difference of means, and its interval. ``n`` counts values. The ends are NaN with fewer than
        :data:`FEWEST` clusters on a side (with one song against nine, a bootstrap would cover 41 %), if too many
        resamples contain no song of a side, or if one cluster or training has so many of a side's values that fewer
        than two count effectively.

    Raises:
        ValueError: the values are not two-dimensional, or another argument has another number of rows.
    """
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"values must be (songs, seeds), not of shape {table.shape}")
    owners = np.arange(len(table)) if clusters is None else np.asarray([str(c) for c in clusters])
    other = np.zeros(len(table), bool) if against is None else np.asarray(against, dtype=bool)
    if not len(owners) == len(other) == len(table) == len(table if trainings is None else trainings):
        raise ValueError(f"{len(table)} rows of values need as many clusters, marks and trainings")
    whole = ~np.isnan(table).any(axis=1)
    kept, other = table[whole], other[whole]
    n, dropped, seeds = kept.size, table.size - kept.size, kept.shape[1]
    signs = {1: ~other} if against is None else {1: ~other, -1: other}
    if not all(side.any() for side in signs.values()):
        return Interval(NAN, NAN, NAN, n, dropped, "none")
    _, place = np.unique(owners[whole], return_inverse=True)
    songs = place.max() + 1
    song_draws, seed_draws = _draws(songs, seeds, RESAMPLES)
    seed_means, resampled, fewest = 0.0, 0.0, songs
    for sign, side in signs.items():
        counts = np.bincount(place[side], minlength=songs)
        sums = np.stack([np.bincount(place[side], kept[side, column], songs) for column in range(seeds)], 1)
        seed_means = seed_means + sign * kept[side].mean(0)
        fewest = min(fewest, np.count_nonzero(counts))
        with np.errstate(invalid="ignore"):  # a resample may miss all songs of a side
            total = np.einsum("rs,sj,rj->r", song_draws, sums, seed_draws / seeds, optimize=True)
            resampled = resampled + sign * (total / (song_draws @ counts))
    spreads = [_spread(kept.mean(1), place, signs)]
    effective = spreads[0][1] + 1
    estimate = float(seed_means.mean())
    if fewest < FEWEST:
        return Interval(estimate, NAN, NAN, n, dropped, "none", float(effective))
    missed = np.isnan(resampled)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    ends = [
        np.quantile(np.where(missed, end, resampled), tail, method="inverted_cdf")
        for end, tail in zip((-np.inf, np.inf), tails, strict=True)
    ]
    if not np.isfinite(ends).all():
        return Interval(estimate, NAN, NAN, n, dropped, "none", float(effective))
    p_values = [2 * max(1, min((missed | (resampled <= 0)).sum(), (missed | (resampled >= 0)).sum())) / RESAMPLES]
    if trainings is not None and len(set(models := np.asarray([str(t) for t in trainings])[whole])) > 1:
        spreads.append(_spread(kept.mean(1), np.unique(models, return_inverse=True)[1], signs))
    if seeds > 1:
        spreads.append((seed_means.std(ddof=1) / np.sqrt(seeds), seeds - 1))
    if min(freedom for _, freedom in spreads) < 1:  # one cluster or training has nearly all values, or is alone
        return Interval(estimate, NAN, NAN, n, dropped, "none", float(effective))
    for error, freedom in spreads:
        reach, p = _student(estimate, error, freedom)
        ends = [min(ends[0], estimate - reach), max(ends[1], estimate + reach)]
        p_values.append(p)
    low, high = map(float, ends)
    return Interval(estimate, low, high, n, dropped, "percentile, t", float(effective), min(1.0, max(p_values)))


@lru_cache(maxsize=8)
def _draws(songs: int, seeds: int, resamples: int) -> list[np.ndarray]:
    """Return how often each resample draws each song, ``(resamples, songs)``, and each seed; always the same.

    The mean of a resample follows from these counts by matrix products.
    """
    rng = np.random.default_rng(0)
    return [rng.multinomial(size, np.full(size, 1 / size), resamples) for size in (songs, seeds)]


def _spread(values: np.ndarray, groups: np.ndarray, signs: Mapping[int, np.ndarray]) -> tuple[float, float]:
    """Return the standard error of a mean, or of a difference of two, from groups of values, and degrees of freedom.

    Args:
        values: one per row.
        groups: number of the group of each row.
        signs: 1 or -1, and the rows whose mean is added or subtracted.
    """
    size, shares, effective = groups.max() + 1, 0.0, np.inf
    for sign, side in signs.items():
        counts = np.bincount(groups[side], minlength=size)
        sums = np.bincount(groups[side], values[side], size)
        shares = shares + sign * (sums - values[side].mean() * counts) / counts.sum()
        effective = min(effective, counts.sum() ** 2 / (counts**2).sum())
    return float(np.sqrt(size / max(size - 1, 1) * (shares**2).sum())), float(effective - 1)
