"""Intervals: coverage, repeatability, the degenerate cases and several comparisons at once."""

import math
from functools import partial

import numpy as np
import pytest

from bsm import stats
from bsm.stats import (
    SAME,
    Interval,
    bootstrap_interval,
    crossed_interval,
    holm,
    interval_words,
    summary,
    verdicts,
)


def test_coverage_on_normal_data():
    """Of 300 intervals of 95 %, 285 should hold the true mean, with a standard error of 3.8.

    BCa is a little narrow at n = 40 (about 94 %); 0.90 to 0.98 leaves three standard errors on either side.
    """
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        interval = bootstrap_interval(rng.normal(3, 2, 40))
        held += interval.low <= 3 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_width_is_that_of_the_normal_interval():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap_interval(values)
    expected = 2 * 1.96 * values.std(ddof=1) / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)
    assert interval.method == "BCa"
    assert interval.estimate == pytest.approx(values.mean())
    assert bootstrap_interval(values) == interval


def test_nan_and_none_are_dropped_and_counted():
    interval = bootstrap_interval([1.0, None, 2.0, float("nan"), 3.0])
    assert (interval.n, interval.dropped, interval.estimate) == (3, 2, 2.0)
    assert interval.low < 2 < interval.high


@pytest.mark.parametrize(("values", "estimate"), [([], math.nan), ([None], math.nan), ([4.0], 4.0)])
def test_too_few_values_have_no_ends(values, estimate):
    interval = bootstrap_interval(values)
    assert interval[:3] == pytest.approx((estimate, math.nan, math.nan), nan_ok=True) and interval.method == "none"


def test_other_values_and_statistics():
    interval = bootstrap_interval([2.5] * 6)
    assert (interval.low, interval.high, interval.method) == (2.5, 2.5, "percentile, t")
    median = bootstrap_interval([1, 2, 3, 4, 100], np.median)
    assert median.low <= median.estimate == 3 <= median.high
    with pytest.raises(ValueError, match=r"one-dimensional, not of shape \(2, 2\)"):
        bootstrap_interval(np.ones((2, 2)))


def test_summary():
    result = summary([1.0, 2.0, 6.0, float("nan")])
    assert (result["n"], result["dropped"], result["mean"], result["median"]) == (3, 1, 3.0, 2.0)
    assert result["std"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert result["low"] < 3 < result["high"]
    assert all(np.isnan(value) for name, value in summary([]).items() if name not in ("n", "dropped"))


def covered(draw, interval=crossed_interval, studies=300):
    """The share of studies of a true mean of zero whose interval holds it; of 300, its standard error is 1.3 %."""
    rng = np.random.default_rng(0)
    found = [interval(draw(rng)) for _ in range(studies)]
    return np.mean([own.low <= 0 <= own.high for own in found])


def test_few_songs_and_values_are_covered():
    """The bootstrap alone covers 82 % of five songs, 89 % of eight."""
    for songs in (5, 8):
        assert covered(lambda rng, songs=songs: rng.normal(size=(songs, 1))) > 0.91
    assert covered(lambda rng: rng.normal(size=5), bootstrap_interval) > 0.91


def test_crossed_interval_covers_songs_and_seeds():
    table = np.add.outer(np.linspace(-1, 1, 40), [0.0, 0.0, 0.0]) + 2
    songs = crossed_interval(table)
    assert songs.estimate == pytest.approx(2) and songs.low < 2 < songs.high
    luck = crossed_interval(table + [-1.0, 0.0, 1.0])
    assert luck.high - luck.low > 2 * (songs.high - songs.low)  # seeds that disagree widen it
    one = crossed_interval(table[:, :1])
    assert one.high - one.low == pytest.approx(songs.high - songs.low, rel=0.1)
    theory = 2 * 1.96 * table[:, 0].std() / math.sqrt(40)
    assert one.high - one.low == pytest.approx(theory, rel=0.1)
    assert one == crossed_interval(table[:, :1])


@pytest.mark.parametrize(("song", "training", "rest"), [(0.0, 1.0, 0.1), (1.0, 1.0, 0.5), (1.0, 0.0, 0.5)])
def test_crossed_interval_covers_what_it_says_also_where_three_trainings_differ(song, training, rest):
    """The bootstrap alone covers the first case in three quarters of all studies."""

    def draw(rng):
        return song * rng.normal(size=(8, 1)) + training * rng.normal(size=3) + rest * rng.normal(size=(8, 3))

    assert covered(draw, studies=200) > 0.88  # 0.95 less what 200 studies of 8 songs may miss


def test_singers_of_one_training_share_its_luck():
    """Four trainings test three singers each. Over singers alone, half of these intervals would miss the true mean."""
    folds = np.repeat(np.arange(4), 3)

    def draw(rng):
        return (rng.normal(size=4)[folds] + 0.1 * rng.normal(size=12))[:, None]

    assert covered(draw, partial(crossed_interval, trainings=folds), studies=200) > 0.9
    assert covered(draw, studies=200) < 0.8
    one = crossed_interval(draw(np.random.default_rng(0)), trainings=np.zeros(12))
    assert one.low > -9  # one training has no luck to compare
    with pytest.raises(ValueError, match="trainings"):
        crossed_interval([[1.0], [2.0]], trainings=[0])


@pytest.mark.parametrize(
    "groups",
    [
        {"trainings": [0] * 19 + [1]},  # of two trainings, one has nearly all values
        {"trainings": [0, 1] * 5 + [2] * 10, "against": np.arange(20) >= 10},  # on one side, a training is alone
        {"clusters": [*range(4), *[4] * 16]},  # one of five songs has nearly all values
    ],
)
def test_groups_that_count_for_less_than_two_give_no_interval(groups):
    """Their t interval would be without use, with a fraction of a degree of freedom, or not exist, with none."""
    found = crossed_interval(np.random.default_rng(0).normal(size=(20, 1)), **groups)
    assert math.isnan(found.low) and math.isnan(found.high) and not math.isnan(found.estimate)


def test_crossed_interval_drops_songs_and_wants_some():
    found = crossed_interval([[1.0, 2.0], [3.0, None], [5.0, 6.0]])
    assert (found.n, found.dropped, found.estimate) == (4, 2, 3.5)
    assert math.isnan(found.low)  # of two songs
    assert crossed_interval([[1.0, 2.0]] * 5).low == pytest.approx(1.5 - 12.706 * 0.5, abs=1e-3)  # t of two seeds
    assert math.isnan(crossed_interval([[1.0, 2.0]]).low)
    assert math.isnan(crossed_interval(np.zeros((0, 2))).estimate)
    with pytest.raises(ValueError, match="must be \\(songs, seeds\\)"):
        crossed_interval([1.0, 2.0])


def test_clusters_widen_an_interval():
    """Values that are one per song in truth: the interval is that of the songs, not of ten times as many values."""
    songs = np.random.default_rng(0).normal(size=30)
    values, names = np.repeat(songs, 10)[:, None], np.repeat(np.arange(30), 10)
    interval = crossed_interval(values, names)
    assert interval.n == 300
    assert interval.estimate == pytest.approx(songs.mean())
    expected = 2 * 1.96 * songs.std(ddof=1) / math.sqrt(30)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.15)
    one = crossed_interval([[1.0], [2.0], [float("nan")]], ["a", "a", "b"])
    assert (one.n, one.dropped) == (2, 1)
    assert math.isnan(one.low)
    with pytest.raises(ValueError, match="3 rows of values need as many"):
        crossed_interval([[1.0], [2.0], [3.0]], ["a", "b"])


def test_two_parts_of_songs_are_set_against_each_other():
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(0, 5, 20), 2)  # of the song: cancels
    short = np.tile([True, False], 20)
    values = (level + np.where(short, 1.0, 0.0) + 0.1 * rng.normal(size=40))[:, None]
    found = crossed_interval(values, np.repeat(np.arange(20), 2), against=~short)
    assert found.estimate == pytest.approx(1, abs=0.1)
    assert 0.8 < found.low < found.estimate < found.high < 1.2
    assert math.isnan(crossed_interval(values, against=np.zeros(40, bool)).estimate)  # nothing to set it against


@pytest.mark.parametrize(("far", "given"), [(1, False), (4, False), (5, True), (9, False)])
def test_each_side_of_a_comparison_needs_clusters_of_its_own(far, given):
    """Of ten songs, an interval by one of them on the far side would cover 41 %."""
    values = np.random.default_rng(0).normal(size=(10, 1))
    found = crossed_interval(values, against=np.arange(10) < far)
    assert np.isfinite(found.estimate)
    assert np.isfinite([found.low, found.high]).all() == given
    assert found.clusters == min(far, 10 - far)


def test_resamples_that_miss_a_side_are_not_dropped(monkeypatch):
    """Of 5 songs against 5, one in 500 resamples misses a side: more than the tails of an interval of 99.9 %."""
    monkeypatch.setattr(stats, "CONFIDENCE", 0.999)
    values = np.random.default_rng(0).normal(size=(10, 1))
    found = crossed_interval(values, against=np.arange(10) < 5)
    assert np.isnan([found.low, found.high]).all() and found.method == "none"


def test_effective_clusters_are_fewer_where_one_has_most_values():
    values, clusters = np.random.default_rng(0).normal(size=(16, 1)), [0] * 11 + [1, 2, 3, 4, 5]
    found = crossed_interval(values, clusters)
    assert found.clusters == pytest.approx(16**2 / (11**2 + 5))
    assert crossed_interval(values).clusters == 16


def test_holm_is_as_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_one_lucky_comparison_of_many_does_not_survive():
    """Twenty comparisons of nothing: some interval excludes zero in most tables, none does after the adjustment."""
    rng = np.random.default_rng(0)
    gains = [crossed_interval(rng.normal(size=(12, 1))) for _ in range(60)]
    words = verdicts(gains)
    assert any(word.endswith("not after Holm's adjustment") for word in words)
    assert set(words) & {"better", "worse"} == set()
    real = crossed_interval(3 + rng.normal(size=(12, 1)))
    assert verdicts([*gains[:10], real])[-1] == "better" and SAME in words
    assert real.p < 1e-3


@pytest.mark.parametrize(
    ("interval", "unit", "words"),
    [
        ((20.912, 19.12, 23.3), "x", "20.9x [19.1, 23.3]"),
        ((0.0912, -0.17, 0.35), " dB", "0.09 dB [-0.17, 0.35]"),
        ((-0.001, np.nan, np.nan), " dB", "0.00 dB"),
    ],
)
def test_intervals_have_one_format(interval, unit, words):
    assert interval_words(Interval(*interval, 3, 0, ""), unit) == words


def test_an_interval_comes_back_from_a_result_file():
    found = Interval(1.0, 0.5, 1.5, 3, 0, "BCa", 3.0, 0.01)
    assert Interval.of(found._asdict() | {"verdict": "better"}) == found
    older = Interval.of({"estimate": 1.0, "low": None, "high": 1.5, "n": 3, "dropped": 0, "method": "BCa"})
    assert np.isnan([older.low, older.p]).all()
    assert (-found)[:3] == (-1.0, -1.5, -0.5)
