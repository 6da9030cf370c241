"""Every layout behind one door, and how little of a file a segment costs."""

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bsm.audio
from bsm import audio
from bsm.data import mir1k, musdb18
from bsm.data.layouts import open_tracks
from bsm.data.tracks import AudioFile, Track, folder_tracks
from bsm.errors import InputError
from made import noise

ROOT = Path(__file__).parents[1]
CLIPS = ROOT.parent / "shared/audio/mir1k"
RATE = 16000


def write_clips(root, *names):
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        audio.write(root / name, noise(seed, 4000), RATE, subtype="PCM_16")
    return root


# ---- MIR-1K


@pytest.mark.parametrize("place", ["MIR-1K/Wavfile", "Wavfile", ".", "train"])
def test_clips_left_is_accompaniment_right_is_voice(tmp_path, place):
    write_clips(tmp_path / place, "Ani_1_01.wav", "bug_2_03.wav", "khair_1_02.wav")
    (tmp_path / "UndividedWavfile").mkdir()
    write_clips(tmp_path / "UndividedWavfile", "Ani_1_01.wav")
    layout, (track,) = open_tracks(tmp_path, "train")
    assert layout == "MIR-1K"
    assert (track.name, track.split, track.rate, track.channels, track.samples) == ("Ani_1_01", "train", RATE, 1, 4000)
    stereo, _ = audio.read(tmp_path / place / "Ani_1_01.wav")
    np.testing.assert_array_equal(track.read("accompaniment"), stereo[:1])
    np.testing.assert_array_equal(track.read("vocals"), stereo[1:])
    np.testing.assert_array_equal(track.mixture(100, 300), stereo.sum(0, keepdims=True)[:, 100:300])
    np.testing.assert_array_equal(track.accompaniment(5, 9), track.mixture(5, 9) - stereo[1:, 5:9])
    assert track.files == [tmp_path / place / "Ani_1_01.wav"]
    assert [t.name for t in open_tracks(tmp_path, "valid")[1]] == ["khair_1_02"]
    assert [t.name for t in open_tracks(tmp_path, "test")[1]] == ["bug_2_03"]


def test_the_real_clips():
    if not CLIPS.is_dir():
        pytest.skip(f"{CLIPS} is not here")
    found = {split: open_tracks(CLIPS, split)[1] for split in ("train", "valid", "test")}
    singers = {split: {t.name.split("_")[0] for t in tracks} for split, tracks in found.items()}
    assert sum(len(tracks) for tracks in found.values()) == len(mir1k.clips(CLIPS)) > 200
    assert not singers["train"] & (singers["valid"] | singers["test"]) and not singers["valid"] & singers["test"]
    track = found["test"][0]
    vocals, rest = track.read("vocals"), track.read("accompaniment")
    assert vocals.shape == rest.shape == (1, track.samples)
    np.testing.assert_allclose(track.mixture(), vocals + rest, atol=1e-6)


def test_clips_that_are_not_what_they_are_called(tmp_path):
    mono = write_clips(tmp_path / "mono", "Ani_1_02.wav")
    audio.write(mono / "Ani_1_02.wav", noise(0, channels=1), RATE)
    with pytest.raises(InputError, match="Ani_1_02.wav: has 1 channel.s., but voice and accompaniment need one each"):
        open_tracks(mono, "train")[1][0].read("vocals")
    fast = tmp_path / "fast"
    fast.mkdir()
    audio.write(fast / "Ani_1_02.wav", noise(0), 44100)
    with pytest.raises(InputError, match="Ani_1_02.wav: has 44100 Hz, MIR-1K has 16000"):
        open_tracks(fast, "train")
    with pytest.raises(InputError, match="no clips of MIR-1K by annar, bug.*bsm data fetch mir1k"):
        open_tracks(mono, "test")


# ---- one interface


def test_tracks_of_every_layout_travel_to_other_processes(tmp_path, monkeypatch, write_song, stem_file):
    monkeypatch.setattr(musdb18, "_check_count", lambda *_, **__: None)
    write_clips(tmp_path / "clips", "Ani_1_01.wav")
    write_song(tmp_path / "hq/test/Mu - Too Bright", sources=musdb18.STREAMS)
    write_song(tmp_path / "own/someone")
    cases = {"clips": ("train", "MIR-1K"), "hq": ("test", "MUSDB18-HQ"), "own": ("test", "songs")}
    cases |= {"stems": ("test", "MUSDB18")}
    (tmp_path / "stems/test").mkdir(parents=True)
    shutil.copy(stem_file, tmp_path / "stems/test/a.stem.mp4")
    for folder, (split, expected) in cases.items():
        layout, (track,) = open_tracks(tmp_path / folder, split)
        assert type(track) is Track
        assert layout == expected
        again = pickle.loads(pickle.dumps(track))
        assert again == track
        np.testing.assert_array_equal(again.mixture(1000, 1100), track.mixture()[:, 1000:1100])
        assert track.accompaniment(10, 30).shape == (track.channels, 20)


def test_half_a_data_set_of_songs_says_which_split_is_missing(tmp_path, write_song):
    write_song(tmp_path / "train/a")
    with pytest.raises(InputError, match="valid: no such folder"):
        open_tracks(tmp_path, "valid")


# ---- segments


class Counting(io.FileIO):
    """A file that counts the bytes read from it."""

    total = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        Counting.total += count
        return count

    def read(self, size=-1):
        found = super().read(size)
        Counting.total += len(found)
        return found


@pytest.fixture
def counted(monkeypatch):
    """Count what libsndfile reads."""
    original = soundfile.SoundFile

    def count(read):
        Counting.total = 0
        with monkeypatch.context() as patch:
            patch.setattr(bsm.audio.soundfile, "SoundFile", lambda path: original(Counting(path, "rb")))
            read()
        return Counting.total

    return count


@pytest.mark.parametrize(("suffix", "subtype"), [(".wav", "PCM_16"), (".wav", "FLOAT"), (".flac", "PCM_16")])
def test_a_segment_touches_only_its_bytes(tmp_path, counted, suffix, subtype):
    samples, wanted = 12 * 44100, 44100
    path = tmp_path / f"vocals{suffix}"
    audio.write(path, noise(0, samples), 44100, subtype=subtype)
    track = Track("a", "train", {"vocals": AudioFile(path)})
    whole = counted(lambda: track.read("vocals"))
    size = path.stat().st_size
    assert whole >= size
    share = size * wanted / samples
    for start in (0, 200_001, samples - wanted):
        touched = counted(lambda start=start: track.read("vocals", start, start + wanted))
        # A FLAC has no index: its frames are found by halving, some buffers of 16 KiB each.
        assert share <= touched <= share + (64 if suffix == ".wav" else 512) * 1024


def test_opening_songs_reads_headers_alone(tmp_path, counted, write_song):
    for name in "abc":
        write_song(tmp_path / name, 10)
    assert counted(lambda: folder_tracks(tmp_path, "train")) < 6 * 64 * 1024


def test_a_stems_segment_is_decoded_alone_and_exact(stem_file, monkeypatch):
    stempeg = pytest.importorskip("stempeg")
    track = musdb18._stem_track(stem_file, "test")
    decoded = []
    original = stempeg.read_stems

    def counting(*args, **options):
        sound, rate = original(*args, **options)
        decoded.append(len(sound))
        return sound, rate

    monkeypatch.setattr(stempeg, "read_stems", counting)
    whole = track.read("vocals")
    for start, stop in ((0, 500), (5000, 8000), (100_001, 144_101), (track.samples - 700, track.samples)):
        np.testing.assert_array_equal(track.read("vocals", start, stop), whole[:, start:stop])
        assert decoded[-1] <= stop - start + 3 * 1024
