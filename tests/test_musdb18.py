"""MUSDB18 as the package musdb gives it, in every published layout, and what is said where it is not whole."""

import shutil
from functools import partial

import numpy as np
import pytest

from bsm.data import musdb18
from bsm.data.layouts import open_tracks
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.evaluate import fingerprint

SONG, OTHER = "Zeno - Signs", "Mu - Too Bright"
STEMS = ("mixture", "vocals", "drums", "bass", "other")
RATE = 44100


@pytest.fixture
def write(write_song):
    """Return the function that writes a song of MUSDB18-HQ, of 500 samples."""
    return partial(write_song, seconds=500 / RATE, sources=STEMS)


@pytest.fixture
def any_count(monkeypatch):
    """As if the few songs of a test were all."""
    monkeypatch.setattr(musdb18, "_check_count", lambda *_, **__: None)


def test_hq_is_what_musdb_reads(tmp_path, write, any_count):
    if shutil.which("ffmpeg") is None:
        pytest.skip("musdb needs ffmpeg")
    import musdb

    for seed, name in enumerate((SONG, OTHER)):
        write(tmp_path / "test" / name, seed=seed)
    layout, tracks = open_tracks(tmp_path, "test")
    assert layout == "MUSDB18-HQ"
    assert [t.name for t in tracks] == [OTHER, SONG]
    theirs = {t.name: t for t in musdb.DB(root=str(tmp_path), is_wav=True, subsets="test")}
    for track in tracks:
        assert isinstance(track, Track)
        assert (track.rate, track.channels, track.samples, track.split) == (RATE, 2, 500, "test")
        np.testing.assert_array_equal(track.mixture(), theirs[track.name].audio.T.astype(np.float32))
        for name in STEMS[1:]:
            expected = theirs[track.name].targets[name].audio.T.astype(np.float32)
            np.testing.assert_array_equal(track.read(name), expected)
        np.testing.assert_array_equal(track.read("vocals", 100, 300), track.read("vocals")[:, 100:300])
    assert fingerprint(tracks) != fingerprint(tracks[:1])


def test_hq_splits_are_musdbs(tmp_path, write, any_count):
    names = ["Actions - One Minute Smile", "Some - Training Song", "Young Griffo - Pennies"]
    for name in names:
        write(tmp_path / "train" / name)
    assert [t.name for t in open_tracks(tmp_path, "train")[1]] == names[1:2]
    assert [t.name for t in open_tracks(tmp_path, "valid")[1]] == names[::2]


def test_stems_are_what_musdb_reads(stems, any_count):
    import musdb

    layout, (track,) = open_tracks(stems, "test")
    (theirs,) = musdb.DB(root=str(stems), subsets="test")
    assert layout == "MUSDB18"
    assert (track.name, track.split, track.rate, track.channels) == ("Somebody - Sings", "test", RATE, 2)
    assert sorted(track.sources) == sorted(STEMS[1:])
    vocals, mixture = track.read("vocals"), track.mixture()
    assert vocals.shape == mixture.shape == (2, track.samples)
    assert vocals.dtype == np.float32
    np.testing.assert_array_equal(vocals, theirs.targets["vocals"].audio.T.astype(np.float32)[:, : track.samples])
    np.testing.assert_array_equal(mixture, theirs.audio.T.astype(np.float32)[:, : track.samples])
    rest = theirs.targets["accompaniment"].audio.T
    np.testing.assert_allclose(track.accompaniment(), rest[:, : track.samples], atol=1e-6)
    np.testing.assert_array_equal(track.read("vocals", 1000, 3000), vocals[:, 1000:3000])
    assert fingerprint([track]) == fingerprint([track])
    with pytest.raises(InputError, match="no source 'flute'"):
        track.read("flute")
    with pytest.raises(InputError, match=f"samples 0 to {track.samples}, asked for 5 to 5"):
        track.read("vocals", 5, 5)


def test_a_damaged_stem_file_is_one_clear_line(stems, any_count):
    (song,) = (stems / "test").iterdir()
    song.write_bytes(song.read_bytes()[:20000])
    with pytest.raises(InputError, match="Sings.stem.mp4: damaged, 0 of") as error:
        open_tracks(stems, "test")[1][0].mixture()
    assert "\n" not in str(error.value)


def test_folders_of_songs(tmp_path, write):
    """The names of MUSDB18's files in a folder of other songs do not make it MUSDB18."""
    write(tmp_path / "flat" / "a")
    for split in ("test", "train"):
        write(tmp_path / "split" / split / split)
    write(tmp_path / "flat" / SONG)  # one of its songs on its own is a song, too
    layout, tracks = open_tracks(tmp_path / "flat", "test")
    assert (layout, [t.name for t in tracks]) == ("songs", [SONG, "a"])
    for split in ("test", "train"):
        layout, (track,) = open_tracks(tmp_path / "split", split)
        assert (layout, track.name, track.split) == ("songs", split, split)


def test_what_is_missing_or_half_there_is_said(tmp_path, write, stem_file, monkeypatch):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "half" / "test" / SONG)
    (tmp_path / "stems" / "test").mkdir(parents=True)
    shutil.copy(stem_file, tmp_path / "stems" / "test" / "a.stem.mp4")
    for name, complaint in {
        "nowhere": "nowhere: no such folder",
        "empty": "empty: no songs in it",
        "half": "1 songs where MUSDB18 has 50 for test",
        "stems": "1 songs where MUSDB18 has 50 for test",
    }.items():
        with pytest.raises(InputError, match=complaint) as error:
            open_tracks(tmp_path / name, "test")
        assert "fetch MUSDB18-HQ" in str(error.value)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(Track, "__post_init__", pytest.fail)
    with pytest.raises(InputError, match="1 songs where MUSDB18 has 50 for test"):
        open_tracks(tmp_path / "half", "test", skipped={})  # before hours of reading


def test_without_ffmpeg_wav_is_read_and_stems_say_what_is_missing(stems, tmp_path, write, monkeypatch, any_count):
    write(tmp_path / "hq" / "test" / SONG)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_tracks(tmp_path / "hq", "test")[0] == "MUSDB18-HQ"
    with pytest.raises(InputError, match="apt-get install ffmpeg"):
        open_tracks(stems, "test")
