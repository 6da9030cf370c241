"""Input length: what is measured, what is compared with what, and what tables and figures say."""

import math

import numpy as np
import pytest
from torch import nn

from bsm import audio
from bsm.config import ModelConfig
from bsm.data.tracks import Track, load_tracks
from bsm.errors import InputError
from bsm.evaluate import score
from bsm.study import figures, windows
from bsm.study import input_length as study
from bsm.study.subjects import Subject
from made import scored

RATE = 44100


class Halved(nn.Module):
    """Gives back half of what it sees, but nothing where it sees a second or less."""

    config = ModelConfig.preset("tiny")

    def forward(self, mixture):
        return mixture * (0.5 if mixture.shape[-1] > RATE else 0.0)


@pytest.fixture
def found(tmp_path):
    return [Subject("BSMamba2", seed, tmp_path / "weights", Halved(), 2.0) for seed in (0, 1)]


@pytest.fixture
def tracks(tmp_path):
    """One song of 3 s, all of it vocals."""
    folder = tmp_path / "data/test/song"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 3 * RATE)).astype(np.float32)
    for name in ("mixture", "vocals", "other"):
        audio.write(folder / f"{name}.wav", noise, RATE)
    return load_tracks(tmp_path / "data", "test")


def test_conditions():
    found = windows.conditions([4, "whole", 1, 4.0], [2], [8.0])
    assert [(c.window, c.hop) for c in found] == [(1, 1), (2, 2), (4, 4), (8, 8), (math.inf, math.inf), (2, 1)]
    assert found[-2].options == {"whole": True}
    assert found[-1].options == {"window": 2, "hop": 1}


@pytest.mark.parametrize("window", [0, -1, "1", "all", True, None, math.inf, math.nan])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(InputError, match="windows: a window is a positive number of seconds, or 'whole', not"):
        windows.conditions([window], [], [1.0])


def test_a_whole_song_cannot_be_overlapped():
    with pytest.raises(InputError, match="overlap_windows"):
        windows.conditions([1], ["whole"], [1.0])


def test_scores_of_known_estimates(found, tracks, monkeypatch):
    """Half of the vocals is 6.02 dB; silence is 0 dB in uSDR and has no cSDR."""

    def here(tracks, separators):  # without processes, which take seconds to start
        return [
            {"track": track.name, "separator": name} | score(track.read("vocals"), separate(track), track.rate)
            for track in tracks
            for name, separate in separators.items()
        ]

    monkeypatch.setattr(study, "evaluate", here)
    records = study.scores(found, tracks, windows.conditions([1], [2], [2.0]))
    assert len(records) == 2 * 3
    for record in records:
        silent = record["window"] == 1
        assert record["usdr"] == pytest.approx(0 if silent else 20 * math.log10(2), abs=1e-3)
        assert math.isnan(record["csdr"]) == silent
    assert {(r["track"], r["model"], r["seed"]) for r in records} == {("song", "BSMamba2", seed) for seed in (0, 1)}


class Sound:
    """Zeros of a length at 1 kHz."""

    def __init__(self, seconds):
        self.info = audio.AudioInfo(1000, 1, round(1000 * seconds))

    def read(self, start=0, stop=None):
        return np.zeros((1, self.info.samples))[:, start:stop]


@pytest.mark.parametrize(
    ("seconds", "spans", "kept", "fitting"),
    [
        (24.0, [0.5, 1, 16], 16.0, [0.5, 1, 16, math.inf]),  # no second window of 16 s
        (31.9, [0.5, 1, 16], 16.0, [0.5, 1, 16, math.inf]),
        (32.0, [0.5, 1, 16], 32.0, [0.5, 1, 16, math.inf]),
        (10.0, [1, 3, 16], 9.0, [1, 3, math.inf]),  # 16 s never fit, and 9 s are whole windows of the others
        (0.7, [1, 2], 0.7, [math.inf]),
    ],
)
def test_only_whole_windows_count(seconds, spans, kept, fitting):
    """A last window that is filled up with silence is none of its length."""
    track = Track("a", "test", {"vocals": Sound(seconds), "other": Sound(seconds)})
    shorter, found = windows.whole_windows(track, windows.conditions([*spans, "whole"], [], [1.0]))
    assert shorter.seconds == kept and shorter.mixture().shape == shorter.read("vocals").shape
    assert shorter.read("vocals").shape == (1, round(1000 * kept))
    assert [case.window for case in found] == fitting


def test_the_loudest_stretch(tmp_path):
    vocals = np.full((1, 9000), 0.01, np.float32)
    vocals[:, 4000:6000] = 0.1
    audio.write(tmp_path / "test/song/vocals.wav", vocals, 1000)
    audio.write(tmp_path / "test/song/other.wav", vocals, 1000)
    (track,) = load_tracks(tmp_path, "test")
    assert windows.loudest(track, 2) == (4000, 6000) and windows.loudest(track, 60) == (0, 9000)


def records(gains, model="BSMamba2"):
    """Scores in which a condition is better than that of the training, (2, 2), by a known amount."""
    made = scored(
        {(2.0, 2.0): 0.0} | gains, field="case", seeds=(0, 1), metrics=("usdr", "csdr"), luck=1.0, spread=0.01
    )
    return [row | {"model": model, "window": row["case"][0], "hop": row["case"][1]} for row in made]


GAINS = {(1.0, 1.0): -0.5, (8.0, 8.0): 0.0, (math.inf, math.inf): 0.3, (8.0, 4.0): 0.2}


def test_differences_are_paired_over_songs_and_seeds():
    rows = study.differences(records(GAINS), {"BSMamba2": 2.0})
    found = {(r["metric"], r["window"], r["hop"]): r for r in rows}
    assert len(found) == 2 * 4
    for metric in ("usdr", "csdr"):
        shorter, longer, whole, overlapped = (found[metric, *condition] for condition in GAINS)
        assert shorter["estimate"] == pytest.approx(-0.5)
        assert shorter["verdict"] == "worse"
        assert longer["verdict"] == "no difference seen"
        assert longer["low"] < 0 < longer["high"]
        assert whole["verdict"] == "better"
        assert overlapped["against"] == 8  # the same window without overlap, not that of the training
        assert overlapped["estimate"] == pytest.approx(0.2)
        for row in (shorter, longer, whole, overlapped):
            assert (row["n"], row["tracks"], row["songs"], row["seeds"]) == (12, 6, 6, 2)


def test_results_read_back_give_the_same_differences():
    """A result file has null for the whole song's infinity and for an undefined score."""
    made = records(GAINS)
    made[0]["csdr"] = float("nan")
    read = [
        {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()} for row in made
    ]
    trained = {"BSMamba2": 2.0}
    rows = study.differences(read, trained)
    assert rows == study.differences(made, trained)
    # The song whose score one seed lacks drops out; the other seed alone would shift it.
    counts = {(r["metric"], r["n"], r["dropped"]) for r in rows if r["against"] == 2}
    assert counts == {("usdr", 12, 0), ("csdr", 10, 2)}
    assert next(r for r in rows if r["metric"] == "csdr")["estimate"] == pytest.approx(-0.5, abs=0.02)


def test_without_a_window_of_the_training_the_longest_takes_its_place():
    """Excerpts of 7 s hold no window of 8 s."""
    made, trained = records({(1.0, 1.0): -0.5}), {"BSMamba2": 8.0}
    against = study.reference(made, trained)
    assert against == {"BSMamba2": 2.0} and study.reference(made, {"BSMamba2": 1.0}) == {"BSMamba2": 1.0}
    rows = study.differences(made, against)
    assert [(r["metric"], r["window"], r["against"]) for r in rows] == [("usdr", 1.0, 2.0), ("csdr", 1.0, 2.0)]
    assert list(study.score_table(made, rows, trained)["uSDR verdict"]) == ["worse", "–"]
    above, _, below, _ = study.figure(made, rows, trained).axes
    assert "as trained" not in {text.get_text() for text in above.texts}
    assert below.get_title() == "uSDR against the longest window"


def test_tables_and_figures_have_every_condition():
    made = records(GAINS) + records(GAINS, model="BS-RoFormer")
    trained = {"BSMamba2": 2.0, "BS-RoFormer": 2.0}
    rows = study.differences(made, trained)
    table = study.score_table(made, rows, trained)
    assert list(table["window"][:5]) == ["1 s", "2 s", "8 s", "whole song", "8 s, half overlapped"]
    assert list(table["model"]) == ["BSMamba2"] * 5 + ["BS-RoFormer"] * 5
    assert list(table["uSDR difference"][:2]) == ["-0.50 [-0.52, -0.48]", "–"]
    assert list(table["uSDR verdict"][:2]) == ["worse", "as trained"]
    axes = study.figure(made, rows, trained).axes
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["1", "2", "8", "song"]
    assert axes[0].get_title() == "uSDR, mean, n = 6 x 2 seeds"
    assert {"BSMamba2", "BS-RoFormer"} <= {text.get_text() for text in axes[1].texts}
    drawn = axes[2].containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(drawn, [-0.5, np.nan, 0, 0.3], atol=1e-9)


def test_means_without_an_interval_are_hollow():
    """Where one window has too few songs for an interval, its mark alone is hollow, and a note says so."""
    made = [r for r in records(GAINS) if r["window"] != 8 or r["track"] < "song 3"]
    trained = {"BSMamba2": 2.0}
    ax = study.figure(made, study.differences(made, trained), trained).axes[0]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[2]]  # the third window
    bars = ax.containers[0].lines[2][0].get_segments()
    assert [bool(len(bar)) for bar in bars] == [True, True, False, True]
    assert ax.figure.get_supxlabel() == figures.HOLLOW
    made = records(GAINS)
    ax = study.figure(made, study.differences(made, trained), trained).axes[0]
    assert ax.figure.get_supxlabel() == ""
