import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm import audio
from bsm.errors import InputError
from bsm.files import replacing


def noise(channels, samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_float_wav_comes_back_bit_for_bit(tmp_path, channels):
    sound = noise(channels, 1234)
    audio.write(tmp_path / "a.wav", sound, 44100)
    back, rate = audio.read(tmp_path / "a.wav")
    assert rate == 44100 and back.dtype == np.float32
    np.testing.assert_array_equal(back, sound)
    assert audio.info(tmp_path / "a.wav") == audio.AudioInfo(44100, channels, 1234)
    assert audio.info(tmp_path / "a.wav").seconds == 1234 / 44100


def test_int16_wav_and_flac_are_exact(tmp_path):
    sound = np.random.default_rng(1).integers(-32768, 32768, (2, 999)).astype(np.int16)
    for name in ("a.wav", "a.flac"):
        audio.write(tmp_path / name, sound, 16000, subtype="PCM_16")
        back, _ = audio.read(tmp_path / name)
        np.testing.assert_array_equal(back * 32768, sound)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_part_equals_slice(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "part.wav"
    sound = noise(2, 500)
    if not path.exists():
        audio.write(path, sound, 8000)
    start = data.draw(st.integers(0, 499))
    stop = data.draw(st.integers(start + 1, 700))
    np.testing.assert_array_equal(audio.read(path, start=start, stop=stop)[0], sound[:, start:stop])


def test_read_resamples(tmp_path):
    time = np.arange(16000) / 16000
    audio.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time)[None], 16000)
    back, rate = audio.read(tmp_path / "a.wav", rate=44100)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    assert rate == 44100 and back.shape == (1, 44100)
    np.testing.assert_allclose(back[0, 2000:-2000], expected[2000:-2000], atol=1e-4)


@given(
    st.integers(1, 3),
    st.integers(1, 3000),
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    st.sampled_from([8000, 16000, 22050, 44100, 48000]),
)
@settings(max_examples=60, deadline=None)
def test_resampled_length_is_exact(channels, samples, source, target):
    made = audio.resample(noise(channels, samples), source, target)
    assert made.shape == (channels, round(samples * target / source))
    assert made.dtype == np.float32


def test_resample_rejects_bad_rate():
    with pytest.raises(InputError, match="positive"):
        audio.resample(noise(1, 10), 0, 44100)


def bad_files(folder):
    """Unusable files, and what the message must say about each."""
    (folder / "text.wav").write_text("no audio at all")
    (folder / "nothing.wav").write_bytes(b"")
    soundfile.write(folder / "empty.wav", np.zeros((0, 2)), 44100)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan]), 44100, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.0, np.inf]), 44100, subtype="FLOAT")
    soundfile.write(folder / "whole.flac", noise(1, 40000).T, 44100)
    (folder / "cut.flac").write_bytes((folder / "whole.flac").read_bytes()[:30000])
    (folder / "headerless.raw").write_bytes(bytes(100))
    return {
        "missing.wav": "no such file",
        "text.wav": "not an audio file",
        "nothing.wav": "not an audio file",
        "empty.wav": "without samples",
        "nan.wav": "NaN",
        "inf.wav": "infinite",
        "cut.flac": "damaged",
        "headerless.raw": "not an audio file",
        ".": "folder",
    }


def test_unusable_files_are_named_in_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            audio.read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (100, None), (5, 5), (7, 3)])
def test_part_outside_the_file(tmp_path, start, stop):
    audio.write(tmp_path / "a.wav", noise(1, 100), 8000)
    with pytest.raises(InputError, match="0 to 100"):
        audio.read(tmp_path / "a.wav", start=start, stop=stop)


@pytest.mark.parametrize(
    ("name", "sound", "message"),
    [
        ("a.xyz", noise(1, 10), "suffix"),
        ("a.flac", noise(1, 10), "cannot hold FLOAT"),
        ("a.wav", noise(1, 10)[0], "shape"),
        ("a.wav", np.zeros((2, 0)), "shape"),
        ("a.wav", np.full((1, 3), np.nan), "NaN"),
        ("absent/a.wav", noise(1, 10), "cannot be written"),
    ],
)
def test_unusable_writes(tmp_path, name, sound, message):
    with pytest.raises(InputError, match=message):
        audio.write(tmp_path / name, sound, 44100)


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path, sound = tmp_path / "a.wav", noise(1, 100)
    audio.write(path, sound, 8000)

    def fail(file, *_args, **_kwargs):
        Path(os.fsdecode(file)).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(InputError, match="no space left"):
        audio.write(path, noise(1, 100, seed=1), 8000)
    np.testing.assert_array_equal(audio.read(path)[0], sound)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_clipping_is_logged(tmp_path, caplog):
    audio.write(tmp_path / "a.wav", np.array([[0.0, 1.5]]), 8000, subtype="PCM_16")
    assert "clipped" in caplog.text


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    """Encode 7 s, of which the first 3 are easy and take few bits: by what options, to a file of what name."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not here")
    folder = tmp_path_factory.mktemp("encoded")
    time = np.arange(7 * 44100) / 44100
    sound = np.where(time < 3, 0.3 * np.sin(2000 * time), noise(1, len(time))[0] / 2)
    soundfile.write(folder / "a.wav", np.stack([sound, sound / 2], 1), 44100)
    (folder / "cover.ppm").write_bytes(b"P6 400 400 255 " + bytes(3 * 400 * 400))

    def encode(name, *options):
        command = ["ffmpeg", "-y", "-v", "error", "-i", "a.wav", *options]
        if name.endswith(".flac"):
            made = subprocess.run([*command, "-f", "flac", "-"], cwd=folder, check=True, stdout=subprocess.PIPE)
            (folder / name).write_bytes(made.stdout)
        else:
            subprocess.run([*command, name], cwd=folder, check=True)
        return folder / name

    return encode


COVER = ("-i", "cover.ppm", "-map", "0", "-map", "1", "-c:v", "png", "-pred", "none", "-compression_level", "0")


@pytest.mark.parametrize(
    "options",
    [
        ("-q:a", "4"),
        ("-b:a", "128k"),
        ("-q:a", "4", "-id3v2_version", "0"),
        (*COVER, "-q:a", "4"),
        ("-b:a", "64k", "-ar", "22050", "-ac", "1"),
    ],
    ids=["variable", "constant", "no ID3", "cover", "mono 22050 Hz"],
)
def test_an_mp3_that_does_not_state_its_length_is_read_whole(encode, options):
    before = threading.enumerate()
    expected, rate = audio.read(encode("tag.mp3", *options))
    path = encode("bare.mp3", *options, "-write_xing", "0")
    assert not any(tag in path.read_bytes() for tag in (b"Xing", b"Info"))
    sound, found = audio.read(path)
    assert found == rate and expected.shape[1] == 7 * rate
    delay = 576 + 529  # samples, of LAME and of the decoder: the tag has them cut off
    np.testing.assert_allclose(sound[:, delay : delay + 6 * rate], expected[:, : 6 * rate], atol=1e-4)
    assert audio.info(path) == audio.AudioInfo(rate, len(sound), sound.shape[1])
    np.testing.assert_array_equal(audio.read(path, start=4 * rate, stop=5 * rate)[0], sound[:, 4 * rate : 5 * rate])
    np.testing.assert_array_equal(audio.read(path, start=6 * rate, stop=9 * rate)[0], sound[:, 6 * rate :])
    with pytest.raises(InputError, match=f"has samples 0 to {sound.shape[1]}, asked"):
        audio.read(path, start=8 * rate)
    for thread in set(threading.enumerate()).difference(before):
        thread.join(10)
        assert not thread.is_alive()


def test_an_mp3_whose_tag_lacks_the_length_is_read_whole(encode):
    path = encode("tag.mp3", "-q:a", "4")
    content = path.read_bytes()
    flags = content.index(b"Xing") + 7
    assert content[flags] & 1
    path.with_name("uncounted.mp3").write_bytes(content[:flags] + bytes([content[flags] & ~1]) + content[flags + 1 :])
    assert audio.read(path.with_name("uncounted.mp3"))[0].shape[1] >= audio.info(path).samples == 7 * 44100


def test_a_piped_flac_is_read_to_its_end(encode):
    path = encode("piped.flac")
    assert soundfile.info(path).frames > 2**60
    expected = audio.read(path.with_name("a.wav"))[0]
    np.testing.assert_array_equal(audio.read(path)[0], expected)
    np.testing.assert_array_equal(audio.read(path, start=70_000, stop=70_100)[0], expected[:, 70_000:70_100])
    assert audio.info(path) == audio.AudioInfo(44100, 2, 7 * 44100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for read in (audio.info, audio.read):
        with pytest.raises(InputError, match="piped.flac: damaged audio file"):
            read(path)
    silent = encode("none.flac", "-t", "0")
    for read in (audio.info, audio.read):
        with pytest.raises(InputError, match="none.flac: audio file without samples"):
            read(silent)


def test_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    path.unlink()
    sound = noise(2, 100)
    audio.write(path, sound, 8000)
    assert [bytes(p.relative_to(tmp_path)) for p in tmp_path.iterdir()] == [b"caf\xe9.wav"]
    np.testing.assert_array_equal(audio.read(path)[0], sound)
    assert audio.info(path).samples == 100
    path.write_text("no audio")
    with pytest.raises(InputError, match=r"caf.\.wav: not an audio file"):
        audio.read(path)


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / f"{'x' * 251}.wav"
    audio.write(path, noise(1, 100), 8000)
    with replacing(path) as temporary:
        audio.write(temporary, noise(1, 200), 8000)
    assert audio.info(path).samples == 200
    assert list(tmp_path.iterdir()) == [path]
