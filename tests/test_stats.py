"""Bootstrap intervals: coverage, repeatability and the degenerate cases."""

import numpy as np
import pytest

from bsm.stats import bootstrap_interval, paired_difference, summary


def test_coverage_on_normal_data():
    """Of 300 intervals of 95 %, 285 should hold the true mean, with a standard error of 3.8.

    BCa is a little narrow at n = 40 (about 94 %); 0.90 to 0.98 leaves three standard errors on either side.
    """
    rng = np.random.default_rng(0)
    held = 0
    for repeat in range(300):
        interval = bootstrap_interval(rng.normal(3, 2, 40), resamples=1000, seed=repeat)
        held += interval.low <= 3 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_width_is_that_of_the_normal_interval():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap_interval(values)
    expected = 2 * 1.96 * values.std(ddof=1) / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)
    assert interval.method == "BCa"
    assert interval.estimate == pytest.approx(values.mean())


def test_seed_makes_it_repeatable_and_confidence_narrows():
    values = np.random.default_rng(2).exponential(size=30)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_nan_and_none_are_dropped_and_counted():
    interval = bootstrap_interval([1.0, None, 2.0, float("nan"), 3.0])
    assert (interval.n, interval.dropped, interval.estimate) == (3, 2, 2.0)
    assert 1 <= interval.low < 2 < interval.high <= 3


@pytest.mark.parametrize("values", [[], [None], [4.0]])
def test_too_few_values_have_no_ends(values):
    interval = bootstrap_interval(values)
    assert interval.method == "none"
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.estimate == 4.0 if values == [4.0] else np.isnan(interval.estimate)


def test_degenerate_values_fall_back_to_percentiles():
    interval = bootstrap_interval([2.5] * 6)
    assert (interval.low, interval.high, interval.method) == (2.5, 2.5, "percentile")


def test_median_works_too():
    interval = bootstrap_interval([1, 2, 3, 4, 100], np.median)
    assert interval.estimate == 3
    assert interval.low <= 3 <= interval.high


def test_one_dimension_only():
    with pytest.raises(ValueError, match=r"one-dimensional, not of shape \(2, 2\)"):
        bootstrap_interval(np.ones((2, 2)))


def test_summary():
    result = summary([1.0, 2.0, 6.0, float("nan")])
    assert (result["n"], result["dropped"], result["mean"], result["median"]) == (3, 1, 3.0, 2.0)
    assert result["std"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert result["low"] < 3 < result["high"]
    assert all(np.isnan(value) for name, value in summary([]).items() if name not in ("n", "dropped"))


def test_paired_difference_sees_what_the_spread_of_tracks_hides():
    rng = np.random.default_rng(3)
    tracks = rng.normal(5, 4, 30)
    better = tracks + 0.3 + rng.normal(0, 0.2, 30)
    interval = paired_difference(better, tracks)
    assert 0 < interval.low < 0.3 < interval.high < 0.5
    assert summary(better)["low"] < summary(tracks)["high"]
    assert paired_difference([1, None, 3], [0, 0, None])[:1] == (1.0,)
    with pytest.raises(ValueError, match="equal lengths"):
        paired_difference([1, 2], [1])
