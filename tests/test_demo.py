import json
import sys
from itertools import pairwise

import numpy as np
import pytest

from bsm.activity import vocal_regions, vocal_share
from bsm.data import demo
from bsm.data.demo import make_corpus, render_song
from bsm.data.demo import render as demo_render
from bsm.data.demo import score as demo_score
from bsm.data.demo import voice as demo_voice
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from calls import before_call, failing

SECONDS = 6.0
RATE = 44100


@pytest.fixture(scope="module")
def songs():
    return {seed: render_song(seed, SECONDS) for seed in (1000, 1001, 2000)}


def test_mixture_is_the_exact_sum(songs):
    for song in songs.values():
        assert set(song) == {"vocals", "drums", "bass", "other", "mixture"}
        assert all(s.dtype == np.int16 and s.shape == (2, 264600) for s in song.values())
        stems = [song[name].astype(int) for name in demo.STEMS]
        np.testing.assert_array_equal(song["mixture"], np.sum(stems, axis=0))


def test_levels(songs):
    for song in songs.values():
        vocals, mixture = song["vocals"] / 32768, song["mixture"] / 32768
        assert 0.4 < np.abs(mixture).max() < 0.86
        assert all(np.abs(s.astype(int)).max() < 32000 for s in song.values())
        mixture_as_estimate = 10 * np.log10((vocals**2).sum() / ((mixture - vocals) ** 2).sum())
        assert -16 < mixture_as_estimate < 4
        assert all((song[name] / 32768).std() > 1e-3 for name in demo.STEMS)


def test_voice_comes_and_goes(songs):
    for song in songs.values():
        regions = vocal_regions(song["vocals"] / 32768, RATE)
        edges = [0.0, *[t for r in regions for t in (r.start, r.stop)], SECONDS]
        assert regions and max(b - a for a, b in zip(edges[::2], edges[1::2], strict=True)) >= 0.3
        assert 0.1 < vocal_share(regions, SECONDS) < 0.9


def test_songs_differ(songs):
    mixtures = [song["mixture"].tobytes() for song in songs.values()]
    assert len(set(mixtures)) == len(mixtures)


def test_same_song_after_others(songs):
    # `songs` rendered this seed after another and before one more; espeak-ng carries state from word to word.
    again = render_song(1001, SECONDS)
    for name, stem in songs[1001].items():
        np.testing.assert_array_equal(again[name], stem)


def test_other_rate_and_length():
    song = render_song(5, 2.5, rate=16000, channels=1)
    assert all(s.shape == (1, 40000) for s in song.values())
    np.testing.assert_array_equal(song["mixture"], np.sum([song[n].astype(int) for n in demo.STEMS], axis=0))


@pytest.mark.parametrize(("seed", "seconds"), [(-1, 6), (1, 1)])
def test_unusable_songs(seed, seconds):
    with pytest.raises(InputError, match="demo song needs"):
        render_song(seed, seconds)


def spans_of(seconds, seeds):
    """Start and stop of each phrase of each song, from the scores alone."""
    scores = [demo_score.compose(seed, seconds) for seed in seeds]
    return [[(p[0].start, p[-1].start + p[-1].duration) for p in score.phrases] for score in scores]


def gaps_of(spans, seconds):
    edges = [0.0, *[t for span in spans for t in span], seconds]
    return [b - a for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_durations_are_varied_over_a_corpus():
    """Short and long phrases and gaps occur, and sparse and dense songs."""
    songs = spans_of(64, range(1000, 1060))
    phrases = np.array([b - a for spans in songs for a, b in spans])
    gaps = np.array([start - stop for spans in songs for (_, stop), (start, _) in pairwise(spans)])
    for durations, edges in ((phrases, [0.35, 1, 2, 4, 9.5]), (gaps, [0.45, 1.2, 3, 8, 20.5])):
        assert edges[0] < durations.min() and durations.max() < edges[-1]
        counts, _ = np.histogram(durations, edges)
        assert (counts > 0.05 * len(durations)).all()
    shares = [sum(b - a for a, b in spans) / 64 for spans in songs]
    assert 0.05 <= min(shares) < 0.2 and 0.55 < max(shares) <= 0.9


def test_gaps_and_phrases_are_independent():
    songs = [demo_score.phrase_spans(np.random.default_rng(seed), 64.0, 0.25) for seed in range(400)]
    pairs = [(before[1] - before[0], after[0] - before[1]) for spans in songs for before, after in pairwise(spans)]
    assert abs(np.corrcoef(np.log(pairs).T)[0, 1]) < 0.1


@pytest.mark.parametrize("seconds", [6, 30])
def test_every_song_has_a_phrase_and_a_gap(seconds):
    for spans in spans_of(seconds, range(1000, 1100)):
        assert len(spans) >= 1 and max(gaps_of(spans, seconds)) > 0.45
        assert 0.05 <= sum(b - a for a, b in spans) / seconds <= 0.9
        assert all(stop - start > 0.3 for start, stop in spans)
        assert all(b[0] - a[1] > 0.45 for a, b in pairwise(spans))


def test_phrases_lie_on_the_beat_grid():
    rng = np.random.default_rng(0)
    for start, stop in demo_score.phrase_spans(rng, 60.0, 0.25):
        assert start % 0.25 == 0 and stop % 0.25 == 0


def test_score_is_in_the_singers_range():
    for seed in range(1000, 1100):
        score = demo_score.compose(seed, 10)
        for phrases, voice in ((score.phrases, score.voice), (score.lead, score.lead_voice)):
            pitches = [note.pitch for phrase in phrases for note in phrase]
            assert voice.pitch - 2 <= min(pitches) and max(pitches) <= voice.pitch + 36
        assert all(0 <= n.pitch < 128 and 0 < n.velocity < 128 for part in score.parts.values() for n in part)


def test_splits_share_no_words_instruments_or_voices():
    words, programs, voices = {}, {}, {}
    for first in demo.FIRST_SEED.values():
        scores = [demo_score.compose(seed, 10) for seed in range(first, first + 40)]
        words[first] = {note.word for score in scores for phrase in score.phrases for note in phrase}
        programs[first] = {n.program for score in scores for name in ("bass", "other") for n in score.parts[name]}
        voices[first] = {v for score in scores for v in (score.voice, score.lead_voice)}
        assert len(words[first]) > 40 and len(programs[first]) >= 12 and len(voices[first]) == 80
    for kind in (words, programs, voices):
        first, second, third = kind.values()
        assert not (first & second or first & third or second & third)


def test_the_lead_instrument_has_no_words(songs):
    """Its spectral envelope stays within a note, while a singer's changes from consonant to vowel."""
    singer = demo_voice.Voice.draw(np.random.default_rng(3))
    note = [demo_voice.SungNote(0.0, 1.2, 57, "stream")]
    changes = []
    for wordless in (False, True):
        sound = demo_voice.sing(note, singer, np.random.default_rng(0), wordless=wordless)[2000:-2000]
        power = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(sound, 2048)[::1024] * np.hanning(2048)))
        envelope = np.log(power[:, :500].reshape(len(power), 10, -1).mean(2))
        changes.append(np.abs(np.diff(envelope, axis=0)).mean())
    assert changes[1] < 0.5 * changes[0]


# The corpus: songs as cheap as can be, for it is the bookkeeping that is tested.


def fake_song(seed, seconds, rate, channels=2):
    rng = np.random.default_rng(seed)
    stems = {name: rng.integers(-999, 999, (channels, round(seconds * 100))).astype(np.int16) for name in demo.STEMS}
    return {**stems, "mixture": np.sum(list(stems.values()), axis=0, dtype=np.int16)}


@pytest.fixture
def rendered(monkeypatch):
    """Replace rendering; the list holds the seeds rendered."""
    seeds = []

    def render(seed, seconds, rate, channels):
        seeds.append(seed)
        return fake_song(seed, seconds, rate, channels)

    monkeypatch.setattr(demo, "render_song", render)
    return seeds


FEW = {"train": 2, "valid": 1, "test": 1}


def corpus(root, songs=FEW, seconds=2.0):
    return make_corpus(root, songs=songs, seconds=seconds, processes=1)


def test_corpus_layout_and_record(tmp_path, rendered):
    assert corpus(tmp_path / "c") == tmp_path / "c"
    assert rendered == [1000, 1001, 2000, 3000]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["corpus.json", "test", "train", "valid"]
    (track,) = load_tracks(tmp_path / "c", "test")
    assert track.name == "demo-3000" and set(track.sources) == set(demo.STEMS)
    np.testing.assert_array_equal(track.mixture() * 32768, fake_song(3000, 2, 0)["mixture"])
    record = json.loads((tmp_path / "c" / "corpus.json").read_text())["songs"]["train/demo-1001"]
    assert (record["seed"], record["seconds"], record["generator_version"]) == (1001, 2.0, demo.GENERATOR_VERSION)
    assert record["packages"]["numpy"] == np.__version__ and len(record["files"]["mixture.wav"]) == 64


def test_second_call_renders_nothing(tmp_path, rendered):
    corpus(tmp_path)
    rendered.clear()
    corpus(tmp_path)
    assert rendered == []


@pytest.mark.parametrize("harm", ["delete file", "damage file", "delete song", "replace record"])
def test_only_the_harmed_song_is_rendered_again(tmp_path, rendered, harm):
    corpus(tmp_path)
    rendered.clear()
    song = tmp_path / "train" / "demo-1001"
    whole = {p.name: p.read_bytes() for p in song.iterdir()}
    if harm == "delete file":
        (song / "bass.wav").unlink()
    elif harm == "damage file":
        (song / "vocals.wav").write_bytes(whole["vocals.wav"][:-2] + b"xx")
    elif harm == "delete song":
        for path in song.iterdir():
            path.unlink()
        song.rmdir()
    else:
        record = json.loads((tmp_path / "corpus.json").read_text())
        record["songs"]["train/demo-1001"]["generator_version"] = -1
        (tmp_path / "corpus.json").write_text(json.dumps(record))
    corpus(tmp_path)
    assert rendered == [1001]
    assert {p.name: p.read_bytes() for p in song.iterdir()} == whole


def test_other_settings_render_again_and_songs_too_many_go(tmp_path, rendered):
    corpus(tmp_path)
    (tmp_path / "train" / "my own notes").mkdir()
    rendered.clear()
    corpus(tmp_path, {"train": 1, "valid": 1, "test": 0}, seconds=3.0)
    assert rendered == [1000, 2000]
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["demo-1000", "my own notes"]
    assert not list((tmp_path / "test").iterdir())


def test_interrupted_call_is_repeated(tmp_path, rendered, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(demo, "render_song", before_call(demo.render_song, 3, failing(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            corpus(tmp_path)
    assert not (tmp_path / "valid").exists()
    rendered.clear()
    corpus(tmp_path)
    assert rendered == [2000, 3000]
    assert not list(tmp_path.glob(".*"))


def test_damaged_record_renders_all(tmp_path, rendered, caplog):
    corpus(tmp_path)
    rendered.clear()
    (tmp_path / "corpus.json").write_text('{"songs": ')
    corpus(tmp_path)
    assert rendered == [1000, 1001, 2000, 3000] and "unreadable" in caplog.text


def test_record_cannot_name_folders_elsewhere(tmp_path, rendered):
    (tmp_path / "precious").mkdir()
    root = tmp_path / "c"
    root.mkdir()
    (root / "corpus.json").write_text(json.dumps({"songs": {"../precious": {}, "train/../../precious": {}}}))
    corpus(root)
    assert (tmp_path / "precious").is_dir()


def test_other_processes_give_the_same_songs(tmp_path, songs):
    make_corpus(tmp_path, songs={"train": 2}, seconds=SECONDS, processes=2)
    for track, seed in zip(load_tracks(tmp_path, "train"), (1000, 1001), strict=True):
        for name in demo.STEMS:
            np.testing.assert_array_equal(track.read(name) * 32768, songs[seed][name])
        np.testing.assert_array_equal(track.mixture() * 32768, songs[seed]["mixture"])


@pytest.mark.parametrize(
    ("songs", "seconds", "message"),
    [
        ({"dev": 1}, 6, "the splits are"),
        ({"train": -1}, 6, "0 to 1000"),
        ({"train": 0}, 6, "all splits are empty"),
        (FEW, 1, "at least"),
    ],
)
def test_unusable_corpora(tmp_path, songs, seconds, message):
    with pytest.raises(InputError, match=message):
        make_corpus(tmp_path, songs=songs, seconds=seconds)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(InputError, match="tinysoundfont.*make env"):
        make_corpus(tmp_path, songs={"train": 1}, seconds=SECONDS)
    monkeypatch.undo()
    monkeypatch.setattr(demo_render.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pretty_midi.*make env"):
        make_corpus(tmp_path, songs={"train": 1}, seconds=SECONDS)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        make_corpus(tmp_path / "file", songs=FEW, seconds=SECONDS)
