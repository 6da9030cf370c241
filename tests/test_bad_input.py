"""Bad songs and bad places: each is named, and none is skipped unless asked."""

import logging
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bsm import audio
from bsm.data import musdb18
from bsm.data.layouts import open_tracks
from bsm.data.tracks import check, folder_tracks
from bsm.errors import InputError
from bsm.files import check_writable
from bsm.inference import plan_outputs
from made import noise

RATE = 16000


def noisy_flac(folder):
    """Its header is whole, its frames are not."""
    (folder / "vocals.wav").unlink()
    soundfile.write(folder / "vocals.flac", noise(0).T, RATE)
    whole = bytearray((folder / "vocals.flac").read_bytes())
    whole[2000:12000] = bytes(10000)
    (folder / "vocals.flac").write_bytes(whole)


BAD = {
    "damaged": (noisy_flac, r"vocals\.flac: damaged audio file"),
    "empty": (
        lambda song: soundfile.write(song / "other.wav", np.zeros((0, 2)), RATE),
        r"other\.wav: audio file without samples; give",
    ),
    "not a number": (
        lambda song: soundfile.write(song / "vocals.wav", np.full((8000, 2), np.nan), RATE, subtype="FLOAT"),
        r"vocals\.wav: has NaN or infinite samples; export it again",
    ),
    "mono part": (
        lambda song: audio.write(song / "other.wav", noise(1, channels=1), RATE),
        r"other\.wav \(8000 samples, 16000 Hz, 1 channels\) differs .*; make the song's files equal",
    ),
    "faster part": (
        lambda song: audio.write(song / "other.wav", noise(1), 2 * RATE),
        r"other\.wav \(8000 samples, 32000 Hz, 2 channels\) differs .*; make the song's files equal",
    ),
    "short part": (
        lambda song: audio.write(song / "other.wav", noise(1, samples=7999), RATE),
        r"other\.wav \(7999 samples.* differs from vocals\.wav.*; make the song's files equal",
    ),
    "without vocals": (
        lambda song: (song / "vocals.wav").unlink(),
        r"song without vocals; add vocals\.wav",
    ),
}


@pytest.fixture
def good(write_song):
    return partial(write_song, seconds=0.5, rate=RATE)


@pytest.fixture(params=BAD)
def songs(request, tmp_path, good):
    """Three songs of which the second is bad; and what has to be said of it."""
    for name in ("a", "böse Ünïcödé 歌", "c"):
        good(tmp_path / name)
    spoil, told = BAD[request.param]
    spoil(tmp_path / "böse Ünïcödé 歌")
    return tmp_path, f"böse Ünïcödé 歌.*{told}"


def test_a_bad_song_is_skipped_only_when_asked_and_by_name(songs, caplog):
    root, complaint = songs
    with pytest.raises(InputError, match=complaint):
        for track in folder_tracks(root, "test"):
            check(track)
    skipped = {}
    with caplog.at_level(logging.WARNING):
        layout, tracks = open_tracks(root, "test", skipped=skipped)
    assert [track.name for track in tracks] == ["a", "c"]
    ((name, told),) = skipped.items()
    (record,) = caplog.records
    assert record.getMessage() == f"skipping song 'böse Ünïcödé 歌': {told}"
    assert name == "böse Ünïcödé 歌" and re.search(complaint, told) and "\n" not in told


def test_bad_songs_alone_are_an_error(tmp_path, good):
    (good(tmp_path / "a") / "vocals.wav").unlink()
    with pytest.raises(InputError, match="none of 1 songs can be used.*song without vocals"):
        open_tracks(tmp_path, "test", skipped={})


def test_a_song_that_musdb18_lacks_a_stem_of_can_be_skipped(tmp_path, monkeypatch, good):
    monkeypatch.setattr(musdb18, "_check_count", lambda *_, **__: None)
    for song in ("Mu - Too Bright", "Zeno - Signs"):
        good(tmp_path / "test" / song)
        for name in ("mixture", "drums", "bass"):
            audio.write(tmp_path / "test" / song / f"{name}.wav", noise(3), RATE)
    (tmp_path / "test/Zeno - Signs/bass.wav").unlink()
    with pytest.raises(InputError, match="Zeno - Signs: incomplete, bass.wav missing"):
        open_tracks(tmp_path, "test")
    skipped = {}
    assert [t.name for t in open_tracks(tmp_path, "test", skipped=skipped)[1]] == ["Mu - Too Bright"]
    assert list(skipped) == ["Zeno - Signs"]


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0)]
)
def test_every_sample_format_reads_as_the_same_sound(tmp_path, subtype, step):
    sound = noise(0)
    for name in ("vocals", "other"):
        (tmp_path / "a").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "a" / f"{name}.wav", sound.T, RATE, subtype=subtype)
    (track,) = folder_tracks(tmp_path, "test")
    assert track.read("vocals").dtype == np.float32
    np.testing.assert_allclose(track.read("vocals"), sound, atol=step + 1e-7)
    np.testing.assert_allclose(track.mixture(10, 20), 2 * sound[:, 10:20], atol=2 * step + 1e-6)


def test_silent_vocals_are_no_fault(tmp_path, good):
    good(tmp_path / "played")
    audio.write(tmp_path / "played/vocals.wav", np.zeros((2, 8000), np.float32), RATE)
    skipped = {}
    assert [t.name for t in open_tracks(tmp_path, "test", skipped=skipped)[1]] == ["played"]
    assert not skipped


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    pytest.importorskip("stempeg")
    monkeypatch.setattr(musdb18, "need_ffmpeg", lambda _: None)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cache/falcon69/\w+.wav: cannot be written .*; make room there, or make it"):
        musdb18.example_track(tmp_path / "cache")


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from bsm import audio
from bsm.errors import InputError
from bsm.files import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a file beyond the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for call in (
    lambda: audio.write("full.wav", np.ones((2, 300_000), np.float32), 44100),
    lambda: audio.write("full.flac", np.random.rand(2, 300_000) / 2, 44100, subtype="PCM_24"),
    lambda: write_text("full.json", "x" * 100_000),
):
    try:
        call()
    except InputError as error:
        print(error)
"""


def test_an_output_that_is_a_folder_is_known_before_separating(tmp_path):
    audio.write(tmp_path / "a.wav", noise(0), RATE)
    (tmp_path / "a.accompaniment.wav").mkdir()
    with pytest.raises(InputError, match=r"a\.accompaniment\.wav: is a folder; name a file"):
        plan_outputs([tmp_path / "a.wav"], None, overwrite=True)


def test_names_that_are_too_long_are_known_before_computing(tmp_path):
    song = tmp_path / f"{'x' * 245}.wav"
    audio.write(song, noise(0), RATE)
    with pytest.raises(InputError, match="vocals.wav: file name of 256 bytes, more than the 255 allowed"):
        plan_outputs([song], None)
    check_writable(tmp_path / "new" / ("x" * 255))
    with pytest.raises(InputError, match="file name of 256 bytes"):
        check_writable(tmp_path / "a.json", tmp_path / ("ü" * 128) / "b.json")
    with pytest.raises(InputError, match="cannot be read .*too long"):
        audio.info(tmp_path / ("x" * 256))
    assert list(tmp_path.iterdir()) == [song]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system limits no file sizes")
def test_a_full_disk_leaves_nothing_behind_and_names_the_file(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, line in zip(("full.wav", "full.flac", "full.json"), done.stdout.splitlines(), strict=True):
        assert f"{name}: cannot be written" in line and "room" in line
    assert list(tmp_path.iterdir()) == []


def test_scores_on_a_full_disk(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    from bsm.evaluate import Journal

    journal = Journal(tmp_path / "scores.tracks.jsonl", {"window": 8.0})
    (tmp_path / "scores.tracks.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match="scores.tracks.jsonl: cannot be written .No space left.*free space"):
        journal.append({"track": "a", "separator": "b"})
