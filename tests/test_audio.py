import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm import audio
from bsm.errors import InputError


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
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(InputError, match="no space left"):
        audio.write(path, noise(1, 100, seed=1), 8000)
    np.testing.assert_array_equal(audio.read(path)[0], sound)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_clipping_is_logged(tmp_path, caplog):
    audio.write(tmp_path / "a.wav", np.array([[0.0, 1.5]]), 8000, subtype="PCM_16")
    assert "clipped" in caplog.text
