"""Scores of separators: the records, their agreement with the metrics, and the journal that keeps them."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch

import bsm.evaluate
from bsm import audio
from bsm.data.tracks import folder_tracks
from bsm.errors import InputError
from bsm.evaluate import BASELINES, METRICS, Journal, evaluate, fingerprint, fitting, model_separator
from bsm.files import write_text
from bsm.metrics import bleedless_fullness, csdr, csdr_frames, ideal_ratio_mask, si_sdr, usdr
from calls import failing
from made import write_sung_and_played

RATE = 8000
AUDIO = Path(__file__).parents[2] / "shared/audio"


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    return folder_tracks(write_sung_and_played(tmp_path_factory.mktemp("songs"), RATE), "test")


SEPARATORS = {"half": lambda track: track.mixture() / 2, **BASELINES}


@pytest.fixture(scope="module")
def records(tracks):
    return evaluate(tracks, SEPARATORS, processes=1)


def test_one_record_per_track_and_separator(tracks, records):
    assert [(r["track"], r["separator"]) for r in records] == [
        (track.name, name) for track in tracks for name in SEPARATORS
    ]
    for record in records:
        assert set(record) == {"track", "separator", *METRICS, "csdr_frames"}
        assert len(record["csdr_frames"]) == 3
        assert all(isinstance(record[name], float) for name in METRICS)


def test_scores_are_the_metrics(tracks, records):
    for record in records:
        track = next(t for t in tracks if t.name == record["track"])
        vocals, estimate = track.read("vocals"), SEPARATORS[record["separator"]](track)
        assert record["usdr"] == usdr(vocals, estimate)
        np.testing.assert_equal(record["si_sdr"], si_sdr(vocals, estimate))
        np.testing.assert_array_equal(record["csdr_frames"], csdr_frames(vocals, estimate, RATE))
        np.testing.assert_equal(record["csdr"], csdr(vocals, estimate, RATE))
        found = record["bleedless"], record["fullness"]
        assert found == pytest.approx(bleedless_fullness(vocals, estimate, RATE), rel=1e-5)


def test_baselines(tracks, records):
    scores = {r["separator"]: r for r in records if r["track"] == "sung"}
    assert scores["silence"]["usdr"] == 0
    assert np.isnan(scores["silence"]["csdr"])
    assert scores["ideal ratio mask"]["usdr"] > scores["mixture"]["usdr"] + 5
    assert scores["ideal ratio mask"]["csdr"] == max(s["csdr"] for n, s in scores.items() if n != "silence")
    unsung = {r["separator"]: r for r in records if r["track"] == "played"}
    assert all(np.isnan(r["csdr"]) and np.isnan(r["si_sdr"]) for r in unsung.values())
    assert unsung["silence"]["usdr"] == 0
    assert unsung["mixture"]["usdr"] < -60  # the whole estimate is error
    track = tracks[1]
    mask = ideal_ratio_mask(track.mixture(), track.read("vocals"), track.accompaniment())
    np.testing.assert_array_equal(BASELINES["ideal ratio mask"](track), mask)


def test_real_songs_agree_with_museval():
    if not (AUDIO / "dsd100_excerpts").is_dir():
        pytest.skip("the real recordings are missing")
    import museval

    songs = folder_tracks(AUDIO / "dsd100_excerpts", "test")[:2]
    oracle = {"ideal ratio mask": BASELINES["ideal ratio mask"]}
    for track, record in zip(songs, evaluate(songs, oracle, processes=1), strict=True):
        vocals, estimate = track.read("vocals"), BASELINES["ideal ratio mask"](track)
        expected = museval.evaluate([vocals.T], [estimate.T], win=track.rate, hop=track.rate)[0][0]
        np.testing.assert_allclose(record["csdr_frames"], expected)
        assert record["csdr"] == pytest.approx(np.nanmedian(expected))
        s, e = vocals.astype(float), estimate.astype(float)
        assert record["usdr"] == pytest.approx(10 * np.log10(((s**2).sum() + 1e-7) / (((s - e) ** 2).sum() + 1e-7)))
        assert 0 < record["bleedless"] < 100 and 0 < record["fullness"] < 100


@pytest.fixture
def in_threads(monkeypatch):
    """Score in threads, with fixed scores: the tests are about order."""

    def pool(processes, mp_context, initializer, initargs):
        return ThreadPoolExecutor(processes)

    monkeypatch.setattr(bsm.evaluate, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(bsm.evaluate, "score", lambda *_: {"usdr": 1.0, "csdr": float("nan")})


@pytest.mark.parametrize("processes", [1, 3])
def test_few_estimates_are_held(tracks, in_threads, monkeypatch, processes):
    held, most, lock = 0, 0, threading.Lock()

    def separator(track):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return np.zeros((2, 1))

    def slow_score(*_):
        nonlocal held
        time.sleep(0.01)
        with lock:
            held -= 1
        return {}

    monkeypatch.setattr(bsm.evaluate, "score", slow_score)
    made = evaluate(tracks, {str(n): separator for n in range(10)}, processes=processes)
    assert [(r["track"], r["separator"]) for r in made] == [(t.name, str(n)) for t in tracks for n in range(10)]
    assert most <= processes + 1


def test_an_evaluation_goes_on_where_it_stopped(tracks, in_threads, tmp_path):
    calls, journal = [], Journal(tmp_path / "new" / "scores.jsonl", {"hop": 8})

    def separator(track):
        calls.append(track.name)
        if len(calls) == 2:
            time.sleep(0.2)  # the first is scored by then
            raise KeyboardInterrupt
        return np.zeros((2, 1))

    assert journal.read() == []
    options = {"processes": 1, "journal": journal}
    with pytest.raises(KeyboardInterrupt):
        evaluate(tracks, {"a": lambda track: np.zeros((2, 1)), "b": separator, "c": separator}, **options)
    kept = journal.read()
    nan = pytest.approx(np.nan, nan_ok=True)
    (first,) = [record for record in kept if record["separator"] == "a"]
    assert first == {"track": tracks[0].name, "separator": "a", "usdr": 1.0, "csdr": nan}
    before = len(kept)
    with (journal.path).open("a") as file:
        file.write('{"track": "cut sho')  # killed while writing
    calls += ["past the second"] * 2
    made = evaluate(tracks, {"a": separator, "b": separator, "c": separator}, **options)
    assert [(r["track"], r["separator"]) for r in made] == [(t.name, n) for t in tracks for n in "abc"]
    assert len(calls) == 4 + 6 - before  # only the missing jobs
    assert len(journal.read()) == 6
    assert evaluate(tracks, {"a": separator}, **options)[0]["usdr"] == 1.0
    assert len(calls) == 4 + 6 - before


def test_a_scoring_process_that_dies(tracks, in_threads, monkeypatch):
    monkeypatch.setattr(bsm.evaluate, "score", failing(BrokenProcessPool))
    with pytest.raises(InputError, match="a scoring process died, .* fewer than 3 processes"):
        evaluate(tracks, {"a": lambda track: np.zeros((2, 1))}, processes=3)


def test_tracks_of_other_channels_are_known_before_computing(tracks, tmp_path):
    for channels, name in ((6, "six"), (1, "mono")):
        for source in ("vocals", "mixture"):
            audio.write(tmp_path / name / f"{source}.wav", np.zeros((channels, 100), np.float32), RATE)
    mono, six = folder_tracks(tmp_path, "test")
    assert fitting([*tracks, mono], 2) == [*tracks, mono] and fitting([six, mono], 1) == [six, mono]
    with pytest.raises(InputError, match="six has 6 channels; the model takes 2, or mono"):
        fitting([*tracks, six], 2)
    skipped = {}
    assert fitting([mono, six], 2, skipped) == [mono]
    assert list(skipped) == ["six"]
    with pytest.raises(InputError, match="six has 6 channels"):
        fitting([six], 2, {})


SCRIPT = """
from pathlib import Path
from bsm.data.tracks import folder_tracks
from bsm.evaluate import BASELINES, evaluate
evaluate(folder_tracks(Path("songs"), "test"), {"mixture": BASELINES["mixture"]}, processes=1)
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    for source in ("vocals", "mixture"):
        audio.write(tmp_path / "songs" / "a" / f"{source}.wav", np.ones((1, 4000), np.float32), RATE)
    (tmp_path / "script.py").write_text(SCRIPT)
    run = [sys.executable, "script.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode
    assert "no scoring process could start; in a script, call this below `if __name__ ==" in done.stderr
    assert "memory" not in done.stderr


def test_a_journal_that_cannot_be_kept_is_known_before_computing(tracks, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(OSError, match="taken"):
        evaluate(tracks, {}, journal=Journal(tmp_path / "taken" / "scores.jsonl", {}))


def test_a_song_that_cannot_be_separated_is_named(tracks, in_threads):
    with pytest.raises(InputError, match="played: the recording has 6 channels"):
        evaluate(tracks, {"a": failing(InputError("the recording has 6 channels"))})


def test_a_journal_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    Journal(path, {"hop": 8.0, "window": 8.0}).append({"track": "a", "separator": "m", "usdr": 1.0})
    assert len(Journal(path, {"window": 8.0, "hop": 8.0}).read()) == 1
    with pytest.raises(InputError, match=r"another evaluation \(hop was 8.0, is 4.0\); choose another result"):
        Journal(path, {"hop": 4.0, "window": 8.0}).read()
    for text in ("no JSON\n", "[1]\n", '{"hop": 8}\n{"usdr": 1}\n', "{}\n1\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a list of scores"):
            Journal(path, {"hop": 8}).read()


@pytest.mark.parametrize("left", ["", '{"hop"', '{"hop": 8}', '{"hop": 8}\n', '{"hop": 8}\n{"track'])
def test_a_journal_whose_first_record_was_cut_short_starts_anew(tmp_path, left):
    journal = Journal(tmp_path / "scores.jsonl", {"hop": 8})
    journal.path.write_text(left)
    assert journal.read() == []
    record = {"track": "a", "separator": "m", "usdr": 1.0}
    journal.append(record)
    assert [json.loads(line) for line in journal.path.read_text().splitlines()] == [{"hop": 8}, record]
    assert journal.read() == [record]


def test_a_track_whose_name_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xc3\xa9")
    journal = Journal(tmp_path / "scores.jsonl", {"hop": 8})
    journal.append({"track": name, "separator": "m"})
    assert journal.read() == [{"track": name, "separator": "m"}]
    text = write_text(tmp_path / "result.json", json.dumps(name, ensure_ascii=False)).read_text(encoding="utf-8")
    assert json.loads(text) == name


def test_fingerprint_follows_the_files(tmp_path):
    for name in ("vocals", "mixture"):
        audio.write(tmp_path / "a" / f"{name}.wav", np.zeros((1, 100)), RATE)
    before = fingerprint(folder_tracks(tmp_path, "test"))
    os.utime(tmp_path / "a" / "vocals.wav", (1, 1))
    assert fingerprint(folder_tracks(tmp_path, "test")) == before
    audio.write(tmp_path / "a" / "vocals.wav", np.ones((1, 100)), RATE)
    assert fingerprint(folder_tracks(tmp_path, "test")) != before
    assert json.dumps(before)


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
