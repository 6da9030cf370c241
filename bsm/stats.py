"""Bootstrap intervals and summaries of per-track values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

Values = Sequence[float | None] | np.ndarray
SAME = "no difference seen"
FEWEST = 5
"""Songs below which :func:`crossed_interval` gives none, and rounds below which :func:`of_rounds` gives the range."""


class Interval(NamedTuple):
    """A statistic and its confidence interval.

    Attributes:
        estimate: the statistic of the values; NaN without values.
        low: lower end; NaN with fewer than two values.
        high: upper end; NaN with fewer than two values.
        n: values used.
        dropped: values left out because they were NaN.
        method: ``BCa``, ``percentile``, ``percentile, t`` (both held), ``range`` (least and largest value) or ``none``.
    """

    estimate: float
    low: float
    high: float
    n: int
    dropped: int
    method: str


def interval_text(low: float, high: float, digits: int = 2) -> str:
    """Write an interval for a table; a dash where there were too few values for one."""
    return "–" if np.isnan(low) or np.isnan(high) else f"{low:.{digits}f} to {high:.{digits}f}"


def interval_words(interval: Interval, unit: str = "", digits: int = 2) -> str:
    """Write an estimate with its interval and n: ``1.77x (1.75 to 1.81; n = 8)``, or ``all of n = 3`` for a range."""
    ends = interval_text(interval.low, interval.high, digits)
    n = f"all of n = {interval.n}" if interval.method == "range" else f"n = {interval.n}"
    return f"{interval.estimate:.{digits}f}{unit} ({ends}; {n})"


def gain_words(gain: Interval) -> str:
    """Write a difference in uSDR with its sign: ``+0.10 (0.02 to 0.19; n = 24) dB uSDR (better)``."""
    sign = "+" if gain.estimate > 0 else ""
    went = "better" if gain.low > 0 else "worse" if gain.high < 0 else "no difference seen"
    return f"{sign}{interval_words(gain)} dB uSDR" + f" ({went})" * bool(np.isfinite(gain.low))


def verdict(gain: Interval, *, more_is_better: bool = True) -> str:
    """Say what the interval of a difference shows: better, worse, or, where it includes zero, :data:`SAME`."""
    if np.isnan(gain.low):
        return "too few values to tell"
    if gain.low <= 0 <= gain.high:
        return SAME
    return "better" if (gain.low > 0) == more_is_better else "worse"


def bootstrap_interval(
    values: Values,
    statistic: Callable[..., Any] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap a confidence interval of a statistic.

    Bias-corrected and accelerated (BCa; Efron, 1987). Where its corrections do not exist, as when all values are equal
    or the median hardly moves between resamples, the percentile interval is given instead.

    Args:
        values: one value per track; NaN and None are dropped and counted.
        statistic: of one sample, such as :func:`numpy.mean` or :func:`numpy.median`.
        confidence: probability that the interval aims to cover.
        resamples: resamples drawn.
        seed: makes the interval repeatable.

    Returns:
        The statistic and its interval; the ends are NaN with fewer than two values.

    Raises:
        ValueError: values that are not one-dimensional.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1:
        raise ValueError(f"values must be one-dimensional, not of shape {sample.shape}")
    kept = sample[~np.isnan(sample)]
    n, dropped = kept.size, sample.size - kept.size
    estimate = float(statistic(kept)) if n else float("nan")
    if n < 2:
        return Interval(estimate, float("nan"), float("nan"), n, dropped, "none")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the degenerate case is seen by its NaN ends
            low, high = scipy.stats.bootstrap(
                (kept,),
                statistic,
                confidence_level=confidence,
                n_resamples=resamples,
                batch=max(1, 10_000_000 // n),  # bounds the memory of many tracks
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(low) and np.isfinite(high):
            break
    return Interval(estimate, float(low), float(high), n, dropped, method)


def of_rounds(values: Values) -> Interval:
    """Return the mean of a timing's rounds with a bootstrap 95 % interval; of a few, the least and the largest.

    Of three rounds a bootstrap would cover about three quarters of what it says.
    """
    sample = np.asarray(values, dtype=float)
    if not 0 < sample.size < FEWEST:
        return bootstrap_interval(sample)
    nothing = float("nan")
    ends = (float(sample.min()), float(sample.max())) if sample.size > 1 else (nothing, nothing)
    return Interval(float(sample.mean()), *ends, sample.size, 0, "range" if sample.size > 1 else "none")


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """Return how many times faster the second case was, round by round of one run; see :func:`of_rounds`."""
    return of_rounds(np.divide(slow, fast))


def summary(values: Values, *, confidence: float = 0.95, seed: int = 0) -> dict[str, float]:
    """Summarise one value per track.

    Returns:
        ``n`` and ``dropped`` (NaN or None), ``mean``, ``median``, ``std`` (of the sample, n - 1), and the bootstrap
        interval of the mean, ``low`` and ``high``; NaN where too few values are left.
    """
    interval = bootstrap_interval(values, confidence=confidence, seed=seed)
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return {
        "n": interval.n,
        "dropped": interval.dropped,
        "mean": interval.estimate,
        "median": float(np.median(kept)) if kept.size else float("nan"),
        "std": float(np.std(kept, ddof=1)) if kept.size > 1 else float("nan"),
        "low": interval.low,
        "high": interval.high,
    }


def paired_difference(
    a: Values, b: Values, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Bootstrap the mean of ``a - b`` over pairs, such as two models' scores on the same tracks.

    A pair with a NaN or None on either side is dropped and counted.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal lengths, not {first.shape} and {second.shape}")
    return bootstrap_interval(first - second, confidence=confidence, resamples=resamples, seed=seed)


def crossed_interval(
    values: Sequence[Values],
    clusters: Sequence[Any] | None = None,
    *,
    against: Sequence[bool] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap a mean over songs under training seeds, both drawn independently; or over parts of songs.

    The pigeonhole bootstrap (Owen, 2007), percentile interval: it covers the luck of a training beside that of the
    songs. With one seed it covers the songs alone. Of two or three it draws too little variety: trainings that differ
    more than songs do are covered by three in 74 % of cases and not in 95. With several seeds the interval is widened,
    therefore, to hold the t interval of the seeds' own means. Values that belong together, such as the regions of one
    song or its excerpts, are drawn together, for they are more alike than independent ones would be; each value weighs
    the same.

    Args:
        values: (songs or their parts, seeds). Rows with a NaN or None are dropped, all their values counted.
        clusters: the song of each row; by default every row is one of its own.
        against: marks rows whose mean is taken from that of the others.
        confidence: probability that the interval aims to cover.
        resamples: resamples drawn.
        seed: makes the interval repeatable.

    Returns:
        The mean, or difference of means, and its interval. ``n`` counts values. The ends are NaN with fewer than
        :data:`FEWEST` songs, of which a bootstrap would cover far less than it says.

    Raises:
        ValueError: values that are not two-dimensional, or another number of rows in ``clusters`` or ``against``.
    """
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"values must be (songs, seeds), not of shape {table.shape}")
    owners = np.arange(len(table)) if clusters is None else np.asarray([str(c) for c in clusters])
    other = np.zeros(len(table), bool) if against is None else np.asarray(against, dtype=bool)
    if not len(owners) == len(other) == len(table):
        raise ValueError(f"{len(table)} rows of values need as many clusters and marks")
    whole = ~np.isnan(table).any(axis=1)
    kept, other = table[whole], other[whole]
    n, dropped = kept.size, table.size - kept.size
    sides = [~other, other] if against is not None else [~other]
    if not all(side.any() for side in sides):
        return Interval(float("nan"), float("nan"), float("nan"), n, dropped, "none")
    estimate = float(np.subtract(*(kept[side].mean() for side in sides)) if len(sides) == 2 else kept.mean())
    _, place = np.unique(owners[whole], return_inverse=True)
    songs, seeds = place.max() + 1, kept.shape[1]
    if songs < FEWEST:
        return Interval(estimate, float("nan"), float("nan"), n, dropped, "none")
    rng = np.random.default_rng(seed)
    # How often each song and seed is drawn: sums and counts of a resample are linear in the one, its mean in the other.
    drawn, lucky = (rng.multinomial(size, np.full(size, 1 / size), resamples) for size in (songs, seeds))
    means, own = [], []
    for side in sides:
        sums = np.stack([np.bincount(place[side], kept[side, column], songs) for column in range(seeds)], 1)
        counts = np.bincount(place[side], minlength=songs)
        own.append(kept[side].mean(0))
        with np.errstate(invalid="ignore"):  # a resample may miss all songs of a side
            means.append(np.einsum("rs,sj,rj->r", drawn, sums, lucky / seeds, optimize=True) / (drawn @ counts))
    found, own = (np.subtract(*parts) if len(parts) == 2 else parts[0] for parts in (means, own))
    low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    if seeds == 1:
        return Interval(estimate, float(low), float(high), n, dropped, "percentile")
    reach = scipy.stats.t.ppf((1 + confidence) / 2, seeds - 1) * own.std(ddof=1) / np.sqrt(seeds)
    low, high = min(low, estimate - reach), max(high, estimate + reach)
    return Interval(estimate, float(low), float(high), n, dropped, "percentile, t")
