"""Vocal occurrence: exact measures of made-up signals, silence included, and paired comparisons."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from bsm.activity import Region
from bsm.errors import InputError
from bsm.study import occurrence as study
from bsm.study import occurrence_figures as plots
from bsm.study.compare import tidy
from made import scored

RATE = 1000
REGIONS = [Region(1.0, 3.0), Region(3.4, 3.8)]


def signals(seconds=5.0):
    """A mixture of constant size 1, in which vocals of size 1 sound in the two regions alone."""
    mixture = np.ones((2, round(seconds * RATE)))
    vocals = np.zeros_like(mixture)
    for region in REGIONS:
        vocals[:, round(region.start * RATE) : round(region.stop * RATE)] = 1
    return mixture, vocals


def test_ratio():
    assert study.ratio_db(100, 1) == pytest.approx(20)
    assert study.ratio_db(1, 0) == study.CAP
    assert study.ratio_db(0, 1) == -study.CAP
    assert study.ratio_db(1e-30, 1) == -study.CAP
    assert math.isnan(study.ratio_db(0, 0))


def test_sdr_and_leakage_are_exact():
    mixture, vocals = signals()
    estimate = vocals.copy()
    estimate[:, :1000] = 0.1  # before the first onset: -20 dB of the mixture
    estimate[:, 1000:1100] = 0.5  # the first 100 ms: half, 6.02 dB
    estimate[:, 3000:3400] = 0.01  # the gap, after the first region and before the second: -40 dB
    first, second = study.measure(mixture, vocals, estimate, RATE, REGIONS, edges=(0, 0.1, 1))[0]
    assert first["sdr"] == pytest.approx(10 * math.log10(2000 / (0.25 * 100)))
    assert first["first_100ms"] == pytest.approx(20 * math.log10(2))
    assert first["first_500ms"] == pytest.approx(10 * math.log10(500 / 25))
    assert first["since_0s"] == pytest.approx(20 * math.log10(2))
    assert first["since_0.1s"] == first["since_1s"] == study.CAP  # no error at all
    assert first["leakage_before"] == pytest.approx(-20)
    assert first["leakage_after"] == second["leakage_before"] == pytest.approx(-40)
    assert second["leakage_after"] == -study.CAP  # the estimate is silent, as it should be
    assert second["sdr"] == study.CAP
    assert math.isnan(second["first_500ms"])  # it lasts 400 ms
    assert math.isnan(second["since_1s"])
    assert (first["gap"], second["gap"]) == pytest.approx((1.0, 0.4))


def test_a_region_that_the_recording_begins_with_has_no_gap():
    mixture, vocals = signals()
    made = study.measure(mixture, vocals, 0.5 * vocals, RATE, [Region(0.0, 1.0), Region(2.0, 3.0)])[0]
    groups = study.grouped(pd.DataFrame(made), "gap", [0.5, 2.0])
    assert {name: len(own) for name, own in groups.items()} == {
        "under 0.5 s": 0, "0.5 to 2 s": 1, "2 s or more": 0, "all": 2
    }  # fmt: skip


def test_a_stretch_counts_where_the_region_fills_it():
    """Regions of 2 and 0.4 s; of the last stretch, which is open, as much is asked as the one before is long."""
    mixture, vocals = signals()

    def heard(*edges):
        return [
            [study.since_onset(edge) for edge in edges if not math.isnan(record[study.since_onset(edge)])]
            for record in study.measure(mixture, vocals, 0.5 * vocals, RATE, REGIONS, edges=edges)[0]
        ]

    assert heard(0, 0.25, 0.5, 1) == [["since_0s", "since_0.25s", "since_0.5s", "since_1s"], ["since_0s"]]
    assert heard(0, 0.25, 0.375) == [["since_0s", "since_0.25s", "since_0.375s"], ["since_0s", "since_0.25s"]]
    assert heard(0, 0.5, 2.5) == [["since_0s"], []]  # its 1.5 s of [0.5, 2.5) do not fill that
    assert heard(0, 1.5) == [["since_0s"], []]  # 0.5 s of an open stretch are left, less than the 1.5 s before it
    assert heard(0) == [["since_0s"], ["since_0s"]]


@pytest.mark.parametrize("edges", [(0, 1, 1), (0, 2, 1), (0.5, 1), ()])
def test_stretches_rise_from_the_onset(edges):
    mixture, vocals = signals()
    with pytest.raises(InputError, match="edges of stretches after an onset must rise from 0"):
        study.measure(mixture, vocals, vocals, RATE, REGIONS, edges=edges)


def test_leakage_ends_at_the_margin_and_at_the_song():
    mixture, vocals = signals()
    estimate = vocals.copy()
    estimate[:, :900] = 10.0  # further than the margin
    first, second = study.measure(mixture, vocals, estimate, RATE, REGIONS, margin=0.1)[0]
    assert first["leakage_before"] == -study.CAP
    whole = study.measure(mixture, vocals, estimate, RATE, REGIONS, margin=100.0)[0]
    assert whole[0]["leakage_before"] == pytest.approx(10 * math.log10(900 * 100 / 1000))
    ends = [Region(0.0, 1.0), Region(4.0, 5.0)]
    first, second = study.measure(mixture, vocals, estimate, RATE, ends)[0]
    assert math.isnan(first["leakage_before"])
    assert math.isnan(second["leakage_after"])
    mixture[:, :1000] = 0
    assert math.isnan(study.measure(mixture, vocals, estimate, RATE, REGIONS)[0][0]["leakage_before"])  # of silence


def test_songs():
    mixture, vocals = signals()
    estimate = 0.9 * vocals
    estimate[:, :1000] = 0.1
    song = study.measure(mixture, vocals, estimate, RATE, REGIONS)[1]
    assert song["share"] == pytest.approx(2.4 / 5)
    assert song["regions"] == 2
    assert song["sdr"] == pytest.approx(20)
    assert song["leakage"] == pytest.approx(10 * math.log10(0.01 * 1000 / 2600))


def test_a_song_without_vocals_is_leakage_alone():
    mixture, vocals = signals()
    regions, song = study.measure(mixture, 0 * vocals, 0.1 * mixture, RATE, [])
    assert regions == []
    assert song["leakage"] == pytest.approx(-20)
    assert math.isnan(song["sdr"])
    assert song["share"] == 0


def test_bins():
    names = study.bins([1.0, 2.5])
    assert names == ["under 1 s", "1 to 2.5 s", "2.5 s or more"]
    assert [*study.binned([0.99, 1.0, 2.5], [1.0, 2.5])] == names
    with pytest.raises(InputError, match="edges that rise"):
        study.bins([2, 2])


def records(gain, *, models=("BSMamba2", "BS-RoFormer"), duration=1.5, **more):
    """Three regions in each of five songs, in which the first model is better by `gain`."""
    given = {"field": "model", "seeds": (0, 1), "metrics": ("sdr", "leakage_before", "leakage_after")}
    given |= {"songs": 5, "luck": 1.0, "spread": 0.1, "duration": duration}
    means = dict.fromkeys(models, 0.0) | {models[0]: gain} | more
    return tidy([row for region in range(3) for row in scored(means, apart=5.0 - region, region=region, **given)])


def test_comparisons_are_paired_per_region_and_clustered_by_song():
    made = records(1.0)
    (row,) = study.compare(made, "sdr", {"all": made})
    gain = row["differences"]["BS-RoFormer"]
    assert (gain["tracks"], gain["songs"], gain["seeds"], gain["dropped"]) == (15, 5, 2, 0)
    assert gain["estimate"] == pytest.approx(1.0)
    assert gain["verdict"] == "better"
    (leaks,) = study.compare(made, "leakage_before", {"all": made})
    assert leaks["differences"]["BS-RoFormer"]["verdict"] == "worse"  # more leakage
    (same,) = study.compare(records(0.0), "sdr", {"all": records(0.0)})
    text = study.answer([same])
    assert text.startswith("- SDR (dB), all: BSMamba2 minus BS-RoFormer 0.00 [")
    assert text.endswith("n = 15 of 5 songs x 2 seeds: no difference seen.\n")


def test_what_the_recording_cuts_off_has_no_onset_and_no_duration():
    rate, regions = 1000, [Region(0.0, 0.5), Region(1.0, 1.8), Region(2.5, 3.0)]
    vocals = np.ones((1, 3000))
    each, _ = study.measure(vocals, vocals, vocals / 2, rate, regions)
    assert [record["cut"] for record in each] == [True, False, True]
    assert [math.isnan(record[study.first_ms(100)]) for record in each] == [True, False, False]
    assert [math.isnan(record[study.since_onset(0)]) for record in each] == [True, False, False]
    each = pd.DataFrame(each)
    groups = study.grouped(each, "duration", [0.6, 0.7])
    assert [len(members) for members in groups.values()] == [0, 0, 1, 3]
    assert len(study.grouped(each, "duration", [0.1, 0.5])["0.5 s or more"]) == 3  # however long, at least this long


def test_a_region_without_a_value_drops_out_of_every_model():
    made = records(1.0)
    one = (made["track"] == "song 0") & (made["region"] == 0) & (made["system"] == "BS-RoFormer")
    (row,) = study.compare(made.assign(sdr=made["sdr"].mask(one)), "sdr", {"all": made})
    assert [mean["tracks"] for mean in row["means"].values()] == [14, 14]


def test_one_model_is_measured_and_not_compared():
    made = records(1.0, models=("BSMamba2",))
    (row,) = study.compare(made, "sdr", {"all": made})
    assert row["differences"] == {}
    assert study.answer([row]) == "Only BSMamba2 was measured: there is nothing to compare.\n"
    assert "BSMamba2" in study.comparison_table([row], "duration")


def test_bins_are_listed_and_drawn_with_their_number_of_regions():
    longer = records(2.0, duration=3.0)
    made = pd.concat([records(1.0, duration=0.5), longer.assign(song=longer["song"] + "b")])
    groups = study.grouped(made, "duration", [1.0, 2.0])
    sizes = {"under 1 s": 60, "1 to 2 s": 0, "2 s or more": 60, "all": 120}
    assert {name: len(members) for name, members in groups.items()} == sizes
    rows = study.compare(made, "sdr", groups)
    table = study.comparison_table(rows, "duration")
    assert list(table["n (songs)"]) == ["15 (5)", "0 (0)", "15 (5)", "30 (10)"]
    assert table["minus BS-RoFormer"].iloc[3].startswith("1.50 [")
    assert table["minus BS-RoFormer"].iloc[1] == "–"
    figure, ax = plt.subplots()
    plots.draw_bins(ax, rows, "differences")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["under 1\nn=15", "1 to 2\nn=0", "2 on\nn=15"]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), [1, np.nan, 2], atol=1e-9)


def test_a_table_of_three_models_has_a_verdict_against_each():
    made = records(1.0, none=6.0)
    table = study.comparison_table(study.compare(made, "sdr", {"all": made}), "duration")
    assert (table["against BS-RoFormer"].item(), table["against none"].item()) == ("better", "worse")


def test_timeline_draws_every_signal():
    mixture, vocals = signals()
    figure = plots.timeline("song", mixture, vocals, {"a": 0 * vocals, "b": vocals}, RATE, REGIONS)
    axes = figure.axes
    silent, exact = (line.get_ydata() for line in axes[-1].lines)
    assert silent.max() == pytest.approx(
        0, abs=1e-6
    )  # all of the vocals is missing, and they are as loud as the mixture
    assert exact.max() == -80  # no error: the lowest that is drawn
    assert [ax.get_title(loc="left") for ax in axes[:4]] == [
        f"{name} (RMS)" for name in ("mixture", "true vocals", "a", "b")
    ]
