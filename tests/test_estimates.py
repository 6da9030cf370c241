"""Estimates of any separator: found under the names that people use, checked, and measured by region."""

import json
from functools import partial

import numpy as np
import pytest

from bsm import audio
from bsm.errors import InputError
from bsm.study.estimates import PATTERNS, Estimates, references, score_regions

RATE = 8000
SUNG = ((1.0, 1.5), (2.5, 5.0), (9.0, 12.0))  # s


@pytest.fixture
def songs(tmp_path):
    """Six songs of 14 s with three vocal regions, and two systems: one 6 dB better, one that leaks more."""
    rng = np.random.default_rng(0)
    for number in range(6):
        name = f"song {number}"
        vocals = np.zeros((1, 14 * RATE), np.float32)
        for start, stop in SUNG:
            samples = round((stop - start) * RATE)
            vocals[:, round(start * RATE) :][:, :samples] = 0.1 * rng.standard_normal((1, samples))
        other = (0.1 * rng.standard_normal(vocals.shape)).astype(np.float32)
        audio.write_all(
            {tmp_path / f"songs/{name}/{s}.wav": x for s, x in (("vocals", vocals), ("other", other))}, RATE
        )
        audio.write(tmp_path / f"good/{name}/vocals.wav", vocals + 0.1 * other, RATE)
        audio.write(tmp_path / f"bad/{name}_vocals.wav", vocals + 0.2 * other, RATE)
    return tmp_path


@pytest.fixture
def run(invoke):
    return partial(invoke, "regions", catch_exceptions=False)


def test_two_systems_are_compared_by_region(songs, run):
    done = run(songs / "songs", songs / "good", songs / "bad", "-o", songs / "out/r.json")
    assert done.exit_code == 0 and (songs / "out/r.png").is_file()
    record = json.loads((songs / "out/r.json").read_text())
    assert set(record["inputs"]) == {str(songs / name) for name in ("songs", "good", "bad")}
    values = record["values"]
    assert len(values["regions"]) == 2 * 6 * 3 and len(values["songs"]) == 12
    rows = {(row["quantity"], row["group"]): row for row in values["comparisons"]}
    everywhere = rows["sdr", "all"]
    assert everywhere["means"]["good"]["estimate"] == pytest.approx(20, abs=0.5)
    assert everywhere["differences"]["bad"]["estimate"] == pytest.approx(6.02, abs=0.05)
    assert "better" in everywhere["differences"]["bad"]["verdict"]
    leakage = rows["leakage", "where nobody sings"]
    assert leakage["means"]["bad"]["estimate"] == pytest.approx(-14, abs=0.2)
    gaps = sorted({round(record["gap"]) for record in values["regions"]})
    assert gaps == [1, 4]  # from the beginning, and from region to region
    assert rows["sdr", "gap 2 to 8 s"]["means"]["good"]["tracks"] == 6


def test_one_song_and_one_file(songs, run):
    song = songs / "songs/song 0"
    done = run(song, songs / "good/song 0/vocals.wav", "--name", "mine", "-o", songs / "r.json")
    assert done.exit_code == 0 and "mine" in done.output
    assert [track.name for track in references(song)] == ["song 0"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_names_that_separators_give(songs, pattern, suffix):
    path = songs / "named" / (pattern.format(n="song 1") + suffix)
    path.parent.mkdir(parents=True)
    path.touch()
    (track,) = references(songs / "songs/song 1")
    assert Estimates("x", songs / "named").find(track) == path


def test_what_does_not_fit_is_named_before_anything_is_measured(songs):
    (songs / "good/song 3/vocals.wav").unlink()
    with pytest.raises(InputError, match="no file for song 'song 3'; expected one of song 3/vocals.wav"):
        score_regions(songs / "songs", {"good": songs / "good"}, songs / "r.json")
    audio.write(songs / "good/song 3/vocals.wav", np.zeros((1, 14 * RATE - 1), np.float32), RATE)
    with pytest.raises(InputError, match="111999 samples; the reference has 8000 Hz, 1, 112000"):
        score_regions(songs / "songs", {"good": songs / "good"}, songs / "r.json")
    audio.write(songs / "bad/song 3.vocals.wav", np.zeros((1, 14 * RATE), np.float32), RATE)
    with pytest.raises(InputError, match="2 files for song 'song 3'"):
        score_regions(songs / "songs", {"bad": songs / "bad"}, songs / "r.json")
    assert not (songs / "r.json").exists()


def test_nothing_but_an_older_result_is_replaced(songs, invoke):
    result, song = songs / "r.json", songs / "good/song 0/vocals.wav"
    for _ in range(2):
        assert invoke("regions", songs / "songs", songs / "good", "-o", result).exit_code == 0
    before = song.read_bytes()
    done = invoke("regions", songs / "songs", songs / "good", "-o", song)
    assert done.exit_code == 1 and "exists, and is no result file; name another one" in str(done.exception)
    assert song.read_bytes() == before


def test_one_file_is_of_one_song_and_somebody_must_sing(songs):
    with pytest.raises(InputError, match="one file for 6 songs; give the folder"):
        score_regions(songs / "songs", {"x": songs / "good/song 0/vocals.wav"}, songs / "r.json")
    with pytest.raises(InputError, match="nobody sings above 10 dB in these songs; choose a lower threshold"):
        score_regions(songs / "songs", {"x": songs / "good"}, songs / "r.json", threshold_db=10)


def test_systems_need_names_of_their_own(songs, invoke):
    done = invoke("regions", songs / "songs", songs / "good", songs / "good")
    assert done.exit_code == 2 and "different names" in done.output
