from pathlib import Path

import numpy as np
import pytest

from bsm import audio
from bsm.data import musdb18
from bsm.data.check import verify
from bsm.data.tracks import AudioFile, Track, folder_tracks, load_tracks
from bsm.errors import InputError

RATE = 8000


def sound(seed, samples=1000, channels=2):
    return np.random.default_rng(seed).uniform(-0.2, 0.2, (channels, samples)).astype(np.float32)


def make_song(folder, stems, suffix=".wav", rate=RATE, **kinds):
    folder.mkdir(parents=True)
    subtype = "FLOAT" if suffix == ".wav" else "PCM_24"
    for i, name in enumerate(stems):
        audio.write(folder / f"{name}{suffix}", sound(i, **kinds), rate, subtype=subtype)


def test_tracks_of_a_folder(tmp_path):
    make_song(tmp_path / "train" / "b", ["vocals", "drums"])
    make_song(tmp_path / "train" / "a", ["vocals", "bass"], suffix=".flac")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("not a song")
    tracks = load_tracks(tmp_path, "train")
    assert [t.name for t in tracks] == ["a", "b"]
    assert all(t.split == "train" and t.rate == RATE and t.mixture_source is None for t in tracks)
    assert (tracks[0].samples, tracks[0].channels, tracks[0].seconds) == (1000, 2, 1000 / RATE)
    assert set(tracks[1].sources) == {"vocals", "drums"}


def test_mixture_is_the_sum_without_a_file(tmp_path):
    make_song(tmp_path / "a", ["vocals", "drums", "bass"])
    (track,) = folder_tracks(tmp_path, "test")
    np.testing.assert_allclose(track.mixture(), sound(0) + sound(1) + sound(2), atol=1e-7)
    np.testing.assert_allclose(track.accompaniment(10, 60), (sound(1) + sound(2))[:, 10:60], atol=1e-7)
    np.testing.assert_array_equal(track.read("drums", 100, 107), sound(1)[:, 100:107])


def test_mixture_file_is_used(tmp_path):
    make_song(tmp_path / "a", ["vocals", "drums", "mixture"])
    (track,) = folder_tracks(tmp_path, "test")
    assert set(track.sources) == {"vocals", "drums"}
    np.testing.assert_array_equal(track.mixture(5, 50), sound(2)[:, 5:50])
    np.testing.assert_array_equal(track.accompaniment(), sound(2) - sound(0))


def test_sums_are_not_sources(tmp_path):
    make_song(tmp_path / "a", ["vocals", "accompaniment", "mixture"])
    make_song(tmp_path / "b", ["vocals", "drums", "accompaniment"])
    a, b = folder_tracks(tmp_path, "test")
    assert set(a.sources) == {"vocals", "accompaniment"}
    assert set(b.sources) == {"vocals", "drums"}


def test_folders_without_songs(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_tracks(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no songs"):
        load_tracks(tmp_path, "train")
    make_song(tmp_path / "train" / "instrumental", ["drums"])
    with pytest.raises(InputError, match="instrumental.*vocals"):
        load_tracks(tmp_path, "train")


def test_track_errors(tmp_path):
    with pytest.raises(InputError, match="no vocals"):
        Track("x", "train", {"drums": AudioFile(tmp_path / "drums.wav")})
    make_song(tmp_path / "a", ["vocals", "drums"])
    (track,) = folder_tracks(tmp_path, "train")
    with pytest.raises(InputError, match="no source 'flute'"):
        track.read("flute")


def test_a_song_needs_something_but_vocals(tmp_path):
    make_song(tmp_path / "a", ["vocals", "vocals (1)", "vocals - Copy", "mixture.vocals", "mixture.accompaniment"])
    (tmp_path / "a" / "drums.m4a").touch()
    with pytest.raises(InputError, match="a: song of one source; add mixture.wav or another source as WAV or FLAC"):
        folder_tracks(tmp_path, "test")
    found = {finding.what: finding.fault for finding in verify(tmp_path)}
    assert found["song of one source; add mixture.wav or another source as WAV or FLAC"]
    assert not found[f"audio files that are no sources, not used: {', '.join(UNUSED)}"]


UNUSED = ["mixture.accompaniment.wav", "mixture.vocals.wav", "vocals (1).wav", "vocals - Copy.wav", "drums.m4a"]


def test_audio_files_that_are_no_sources_are_named(tmp_path, caplog):
    make_song(tmp_path / "a", ["vocals", "drums", *(name.removesuffix(".wav") for name in UNUSED[:-1])])
    (tmp_path / "a" / "drums.m4a").touch()
    (tmp_path / "a" / "vocals.wav").rename(tmp_path / "a" / "vocals.WAV")
    (track,) = folder_tracks(tmp_path, "test")
    assert set(track.sources) == {"vocals", "drums"}
    (line,) = caplog.messages
    assert line == f"{tmp_path}/a: audio files that are no sources, not used: {', '.join(UNUSED)}"


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    make_song(tmp_path / "a", ["vocals", "drums"])
    (tmp_path / "b").symlink_to("gone")
    with pytest.raises(InputError, match=r"b: cannot be read .No such file or directory"):
        folder_tracks(tmp_path, "test")
    assert [track.name for track in folder_tracks(tmp_path, "test", {})] == ["a"]
    assert any("cannot be read" in finding.what for finding in verify(tmp_path) if finding.fault)


def test_a_folder_that_cannot_be_read_is_called_so(tmp_path, monkeypatch):
    make_song(tmp_path / "a", ["vocals", "drums"])
    real = Path.iterdir

    def refused(path):
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match=r"a: cannot be read \(Permission denied\); check the path"):
        folder_tracks(tmp_path, "test")
    assert any("cannot be read (Permission denied)" in finding.what for finding in verify(tmp_path) if finding.fault)


def test_real_excerpt(tmp_path):
    try:
        track = musdb18.example_track(tmp_path)
    except InputError as error:
        pytest.skip(str(error))
    assert (track.rate, track.channels, track.samples, track.split) == (44100, 2, 268288, "test")
    stems = {name: track.read(name) for name in track.sources}
    assert set(stems) == {"vocals", "drums", "bass", "other"}
    np.testing.assert_array_equal(track.mixture(), np.sum([stems[n] for n in ("drums", "bass", "other", "vocals")], 0))
    assert all(np.sqrt((s**2).mean()) > 1e-3 for s in stems.values())
    before = track.sources["vocals"].path.stat().st_mtime_ns
    again = musdb18.example_track(tmp_path)
    assert again == track and again.sources["vocals"].path.stat().st_mtime_ns == before


def test_real_excerpt_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install ffmpeg"):
        musdb18.example_track(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
