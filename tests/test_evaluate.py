import numpy as np
import pytest
import torch

from bsm import audio
from bsm.data.describe import describe
from bsm.data.tracks import folder_tracks
from bsm.evaluate import BASELINES, evaluate, model_separator, score
from bsm.metrics import csdr, csdr_frames, ideal_ratio_mask, si_sdr, usdr

RATE = 8000


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Two songs of 3 s: a voice that rests for a while, over noise; in the second song nobody sings."""
    root = tmp_path_factory.mktemp("songs")
    time = np.arange(3 * RATE) / RATE
    for seed, name in enumerate(["sung", "played"]):
        rng = np.random.default_rng(seed)
        voice = 0.3 * np.sin(2 * np.pi * (200 + 80 * time) * time) * ((time < 1) | (time > 1.5)) * (name == "sung")
        (root / name).mkdir()
        audio.write(root / name / "vocals.wav", np.stack([voice, 0.8 * voice]), RATE)
        audio.write(root / name / "other.wav", 0.1 * rng.standard_normal((2, len(time))), RATE)
    return folder_tracks(root, "test")


@pytest.fixture(scope="module")
def records(tracks):
    return evaluate(tracks, {"half": lambda track: track.mixture() / 2, **BASELINES}, processes=1)


def test_one_record_per_track_and_separator(tracks, records):
    assert [(r["track"], r["separator"]) for r in records] == [
        (track.name, name) for track in tracks for name in ("half", *BASELINES)
    ]
    for record in records:
        assert set(record) == {"track", "separator", "usdr", "csdr", "si_sdr", "csdr_frames"}
        assert len(record["csdr_frames"]) == 3
        assert all(isinstance(record[name], float) for name in ("usdr", "csdr", "si_sdr"))


def test_scores_are_the_metrics(tracks, records):
    separators = {"half": lambda track: track.mixture() / 2, **BASELINES}
    for record in records:
        track = next(t for t in tracks if t.name == record["track"])
        vocals, estimate = track.read("vocals"), separators[record["separator"]](track)
        assert record["usdr"] == usdr(vocals, estimate)
        np.testing.assert_equal(record["si_sdr"], si_sdr(vocals, estimate))
        np.testing.assert_array_equal(record["csdr_frames"], csdr_frames(vocals, estimate, RATE))
        np.testing.assert_equal(record["csdr"], csdr(vocals, estimate, RATE))


def test_baselines(tracks, records):
    scores = {r["separator"]: r for r in records if r["track"] == "sung"}
    assert scores["silence"]["usdr"] == 0
    assert np.isnan(scores["silence"]["csdr"])
    assert scores["ideal ratio mask"]["usdr"] > scores["mixture"]["usdr"] + 5
    assert scores["ideal ratio mask"]["csdr"] == max(s["csdr"] for n, s in scores.items() if n != "silence")
    unsung = {r["separator"]: r for r in records if r["track"] == "played"}
    assert all(np.isnan(r["csdr"]) for r in unsung.values())
    assert unsung["silence"]["usdr"] == 0
    assert unsung["mixture"]["usdr"] < -60  # all of it is error
    track = tracks[1]
    mask = ideal_ratio_mask(track.mixture(), track.read("vocals"), track.accompaniment())
    np.testing.assert_array_equal(BASELINES["ideal ratio mask"](track), mask)


def test_a_perfect_estimate(tracks):
    vocals = next(t for t in tracks if t.name == "sung").read("vocals")
    scores = score(vocals, vocals, RATE)
    np.testing.assert_equal(scores["csdr"], csdr(vocals, vocals, RATE))
    assert scores["csdr"] > 100
    assert scores["usdr"] > 90


def test_a_models_options_reach_the_separation(tracks):
    class Stand(torch.nn.Module):
        class config:
            sample_rate, channels = RATE, 2

        def forward(self, mixture):
            seen.append(tuple(mixture.shape))
            return mixture / 4

    seen = []
    estimate = model_separator(Stand(), window=0.5)(tracks[0])
    assert set(seen) == {(1, 2, RATE // 2)}
    np.testing.assert_allclose(estimate, tracks[0].mixture() / 4, atol=1e-7)
    assert isinstance(estimate, np.ndarray)


def test_description(tracks):
    described = {track.name: describe(track) for track in tracks}
    sung, played = described["sung"], described["played"]
    assert sung["seconds"] == 3
    assert sung["split"] == "test"
    assert sung["vocal_share"] == pytest.approx(2.5 / 3, abs=0.02)
    assert np.ravel(sung["regions"]) == pytest.approx([0, 1, 1.5, 3], abs=0.03)
    track = next(t for t in tracks if t.name == "sung")
    powers = [
        np.mean(np.square(x, dtype=float)) for x in (track.mixture(), track.read("vocals"), track.accompaniment())
    ]
    mixture, voice, rest = 10 * np.log10(powers)
    assert sung["mixture_db"] == pytest.approx(mixture, abs=1e-6)
    assert sung["vocals_to_rest_db"] == pytest.approx(voice - rest, abs=1e-6)
    assert (played["vocal_share"], played["regions"]) == (0, [])
    assert played["vocals_to_rest_db"] < -100
