"""Descriptions of tracks: loudness against the standard's values, levels, and the share of singing."""

import numpy as np
import pytest

from bsm import audio
from bsm.data import registry
from bsm.data.describe import describe, loudness, table
from bsm.data.tracks import folder_tracks
from made import write_sung_and_played


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_a_full_scale_sine_of_1_khz_has_minus_3_lufs(rate):
    """ITU-R BS.1770: -3.01 LUFS for 997 Hz in one channel; twice the power in two channels, and dB for dB."""
    sine = np.sin(2 * np.pi * 997 * np.arange(3 * rate) / rate)[None].astype(np.float32)
    assert loudness(sine, rate) == pytest.approx(-3.01, abs=0.1)
    assert loudness(np.concatenate([sine, sine]), rate) == pytest.approx(0, abs=0.1)
    assert loudness(sine / 10, rate) == pytest.approx(-23.01, abs=0.1)


def test_silence_and_less_than_a_block_have_no_loudness():
    assert np.isnan(loudness(np.zeros((2, 44100), np.float32), 44100))
    assert np.isnan(loudness(np.ones((2, 4410), np.float32), 44100))


def test_the_threshold_of_singing_is_a_choice(tmp_path):
    rate = 8000
    time = np.arange(2 * rate) / rate
    voice = np.sin(2 * np.pi * 300 * time) * np.where(time < 1, 0.5, 0.5 * 10 ** (-35 / 20))  # then 35 dB below
    (tmp_path / "a").mkdir()
    audio.write(tmp_path / "a/vocals.wav", voice[None], rate)
    audio.write(tmp_path / "a/other.wav", 0.5 * voice[None], rate)
    (track,) = folder_tracks(tmp_path, "test")
    assert describe(track)["vocal_share"] == pytest.approx(1)
    found = describe(track, threshold_db=-30)
    assert found["vocal_share"] == pytest.approx(0.5, abs=0.02)
    assert found["vocals_to_rest_db"] == pytest.approx(6.02, abs=0.01)
    assert found["lufs"] == loudness(track.mixture(), rate)


def test_clips_of_a_published_set_are_described_once_in_any_folders(tmp_path):
    """MIR-1K's splits follow from its singers, whatever folders its clips lie in."""
    names = {f"{part.singers[0]}_1_01": split for split, part in registry.splits("mir1k").items()}
    for name, folder in zip(names, ("train", "valid", "train"), strict=True):
        sound = np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype(np.float32)
        audio.write(tmp_path / folder / f"{name}.wav", sound, 16000, subtype="PCM_16")
    found = table(tmp_path)
    assert dict(zip(found["track"], found["split"], strict=True)) == names and len(found) == 3


def test_description(tmp_path):
    tracks = {track.name: track for track in folder_tracks(write_sung_and_played(tmp_path, 8000), "test")}
    sung, played = (describe(tracks[name]) for name in ("sung", "played"))
    assert sung["seconds"] == 3
    assert sung["split"] == "test"
    assert sung["vocal_share"] == pytest.approx(2.5 / 3, abs=0.02)
    assert np.ravel(sung["regions"]) == pytest.approx([0, 1, 1.5, 3], abs=0.03)
    track = tracks["sung"]
    powers = [
        np.mean(np.square(x, dtype=float)) for x in (track.mixture(), track.read("vocals"), track.accompaniment())
    ]
    mixture, voice, rest = 10 * np.log10(powers)
    assert sung["mixture_db"] == pytest.approx(mixture, abs=1e-6)
    assert sung["vocals_to_rest_db"] == pytest.approx(voice - rest, abs=1e-6)
    assert (played["vocal_share"], played["regions"]) == (0, [])
    assert played["vocals_to_rest_db"] < -100
