"""Trivial separators: what each can and cannot do on signals whose best answer is known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bsm import audio
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.metrics import level, usdr
from bsm.study import baselines, figures

RATE, SECONDS = 16000, 2.0


@pytest.fixture
def sounds():
    """A target and noise that is independent of it, stereo."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 2, int(RATE * SECONDS))).astype(np.float32) * np.float32(0.1)


def test_best_constant_is_that_of_the_correlation(sounds):
    target, noise = sounds
    mixture = target + noise
    share = (mixture * target).sum() ** 2 / (mixture**2).sum() / (target**2).sum()
    assert usdr(target, baselines.best_constant(mixture, target)) == pytest.approx(-10 * np.log10(1 - share), abs=1e-3)
    assert not baselines.best_constant(np.zeros_like(target), target).any()


def test_an_equaliser_undoes_an_equaliser(sounds):
    gains = np.linspace(0.2, 1.0, baselines.N_FFT // 2 + 1)
    target = baselines.equalise(sounds[0], gains)
    assert usdr(target, baselines.own_equaliser(sounds[0], target)) > 35
    assert baselines.fit_gains([(sounds[0], target)]) == pytest.approx(gains, abs=0.02)


def test_an_equaliser_separates_bands_and_not_what_shares_them(sounds):
    low = np.arange(baselines.N_FFT // 2 + 1) < 200
    target, noise = baselines.equalise(sounds[0], 1.0 * low), baselines.equalise(sounds[1], 1.0 * ~low)
    assert usdr(target, baselines.own_equaliser(target + noise, target)) > 20
    target, noise = sounds
    assert usdr(target, baselines.own_equaliser(target + noise, target)) < 5  # 3 dB of white noise in white noise


def test_an_equaliser_needs_songs():
    with pytest.raises(InputError, match="there are none; name some"):
        baselines.fit_gains([])


def test_level(sounds):
    target = sounds[0]
    assert level(target, 0.5 * target) == pytest.approx(-6.02, abs=0.01)
    assert level(target, -target) == 0
    assert level(target, 0 * target) == -np.inf
    assert np.isnan(level(0 * target, target))


@pytest.fixture
def songs(tmp_path):
    rng = np.random.default_rng(1)
    low = np.arange(baselines.N_FFT // 2 + 1) < 300
    for split, number in [("train", 0), ("train", 1), ("test", 2)]:
        folder = tmp_path / split / f"song {number}"
        folder.mkdir(parents=True)
        for source in ("vocals", "drums", "bass", "other"):
            noise = rng.normal(size=(2, int(RATE * SECONDS))).astype(np.float32) * np.float32(0.05)
            sound = baselines.equalise(noise, 1.0 * (low if source == "vocals" else ~low)) + 0.2 * noise
            audio.write(folder / f"{source}.wav", sound, RATE)
    return {split: load_tracks(tmp_path, split) for split in ("train", "test")}


def test_scores_of_all_baselines_stand_in_the_order_of_their_means(songs):
    records = baselines.scores(songs["test"], songs["train"])
    assert all(set(r) == {"track", "separator", "seed", "usdr", "si_sdr", "level"} for r in records)
    found = {r["separator"]: r for r in records}
    order = [
        "mixture",
        "silence",
        "mixture x best constant",
        "static equaliser",
        "static equaliser, fitted on the song",
    ]
    scores = [found[name]["usdr"] for name in order]
    assert scores == sorted(scores) and scores[1] == pytest.approx(0, abs=1e-3)
    assert found["ideal ratio mask"]["usdr"] > scores[2]
    assert found["silence"]["level"] == -np.inf and found["mixture"]["level"] > found["static equaliser"]["level"]


def test_the_figure_of_scores_has_lines_at_trivial_separators(songs):
    records = baselines.scores(songs["test"], songs["train"])
    means = baselines.means(records * 2, baselines.CONSTANT, baselines.EQUALISER)
    one = {r["separator"]: r["usdr"] for r in records}
    assert means == {name: pytest.approx(one[name]) for name in (baselines.CONSTANT, baselines.EQUALISER)}
    scores = [{"track": "song", "separator": "model", "usdr": 1.0, "csdr": 1.0}]
    drawn = figures.figure_of_scores(scores, "songs", trivial=means)
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == [f"{name}: {mean:.2f} dB uSDR" for name, mean in means.items()]
    upright = [line for line in drawn.axes[0].lines if line.get_label() in labels]
    assert [line.get_xdata()[0] for line in upright] == [*means.values()]
    assert len({line.get_linestyle() for line in upright}) == 2  # told apart without colour
    assert not any(line.get_label() in labels for line in drawn.axes[1].lines)  # they have no cSDR
    plt.close(drawn)
