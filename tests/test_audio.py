import os
import shutil
import subprocess
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


def test_a_resampled_sine_is_the_same_sine():
    low, high = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)[None] for rate in (16000, 44100))
    made = audio.resample(low, 16000, 44100)
    np.testing.assert_allclose(made[0, 2000:-2000], high[0, 2000:-2000], atol=1e-4)


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
        ("taken/a.wav", noise(1, 10), "taken/a.wav: cannot be written .*make room"),
    ],
)
def test_unusable_writes(tmp_path, name, sound, message):
    (tmp_path / "taken").touch()  # a file in the place of a folder
    with pytest.raises(InputError, match=message):
        audio.write(tmp_path / name, sound, 44100)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("file_format", "suffix", "subtype"),
    [
        ("WAV", "wav", "PCM_16"),
        ("WAV", "wav", "FLOAT"),
        ("WAVEX", "wav", "PCM_24"),
        ("RF64", "wav", "PCM_16"),
        ("AIFF", "aiff", "PCM_24"),
        ("W64", "w64", "FLOAT"),
        ("AU", "au", "PCM_16"),
        ("CAF", "caf", "PCM_24"),
    ],
)
def test_a_truncated_file_is_refused(tmp_path, file_format, suffix, subtype):
    """libsndfile reads most of them as shorter files, in silence."""
    path, sound = tmp_path / f"a.{suffix}", noise(2, 8001)
    soundfile.write(path, sound.T, 8000, format=file_format, subtype=subtype)
    assert audio.info(path).samples == 8001 and audio.read(path)[0].shape == (2, 8001)
    frame = 2 * {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    whole = path.read_bytes()
    for lacking in (frame, len(whole) // 2):
        path.write_bytes(whole[:-lacking])
        for use in (audio.info, audio.read, audio.bits):
            with pytest.raises(InputError, match=rf"a.{suffix}: .*damaged"):
                use(path)
    path.write_bytes(whole[: -4000 * frame])
    if suffix != "caf":  # libsndfile itself refuses half of one
        with pytest.raises(
            InputError, match=r"damaged audio file: ends after 0\.500125 of 1\.00013 s; copy or make it"
        ):
            audio.info(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_truncated_ogg_file_is_refused(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(2, 48000).T, 48000, subtype=subtype)
    assert audio.info(path).samples == 48000
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="a.ogg: .*damaged"):
            audio.read(path)


@pytest.mark.parametrize("file_format", ["AVR", "MPC2K", "MAT4", "MAT5", "NIST", "VOC", "SVX", "WVE"])
def test_half_a_file_of_a_rare_format_is_refused(tmp_path, file_format):
    path, subtype = tmp_path / "a.sound", "ALAW" if file_format == "WVE" else "PCM_16"
    channels = 1 if file_format in ("SVX", "WVE") else 2
    soundfile.write(path, noise(channels, 8000).T, 8000, format=file_format, subtype=subtype)
    assert audio.info(path).samples == 8000 and audio.read(path)[0].shape == (channels, 8000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a.sound: damaged audio file: ends after 0\.4"):
        audio.info(path)


@pytest.mark.parametrize(
    ("length", "riff"),
    [
        (0, 8),
        (0, 36),
        (0, 10_000),
        *[(length, length) for length in (0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36)],
    ],
)
def test_a_wav_header_without_a_usable_length_reads_to_its_end(tmp_path, length, riff):
    """As programs write it to a pipe, because they cannot go back and fill it in."""
    path, sound = tmp_path / "a.wav", noise(2, 1000)
    soundfile.write(path, sound.T, 8000, subtype="FLOAT")
    content = bytearray(path.read_bytes())
    for begin, stated in ((4, riff), (content.index(b"data") + 4, length)):
        content[begin : begin + 4] = stated.to_bytes(4, "little")
    path.write_bytes(content[:-80])
    np.testing.assert_array_equal(audio.read(path)[0], sound[:, :-10])
    assert audio.info(path) == audio.AudioInfo(8000, 2, 990)


def test_a_file_that_only_ffmpeg_could_read_asks_for_it(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44100)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"empty.wav: has no samples, or does not state its length; install ffmpeg"):
        audio.info(tmp_path / "empty.wav")


def test_large_wav_files_of_which_the_header_states_a_length_are_refused_when_cut(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(2, 1000).T, 8000)
    content = bytearray(path.read_bytes())
    begin = content.index(b"data") + 4
    content[begin : begin + 4] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged audio file: ends after 0\.125 of"):
        audio.info(path)


def test_a_pipe_is_named_as_one(tmp_path):
    os.mkfifo(tmp_path / "song")
    for path in (tmp_path / "song", Path("/dev/null")):
        with pytest.raises(InputError, match=f"{path}: a pipe or device cannot be read; save the sound to a file"):
            audio.read(path)


def test_what_exceeds_a_wav_file_is_written_as_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_LARGEST", 4 * 2 * 500)
    for samples, expected in ((500, "WAV"), (501, "RF64")):
        sound = noise(2, samples)
        audio.write(tmp_path / "a.wav", sound, 8000)
        assert soundfile.info(tmp_path / "a.wav").format == expected
        np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0], sound)
    audio.write(tmp_path / "a.wav", sound, 8000, subtype="PCM_16")
    assert soundfile.info(tmp_path / "a.wav").format == "WAV"
    with pytest.raises(InputError, match="a.aiff: more than the 4 GiB that AIFF holds"):
        audio.write(tmp_path / "a.aiff", sound, 8000)


def test_a_file_that_is_cut_behind_its_samples_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
        file.write(noise(1, 1000)[0])
        file.title = "a title, in a chunk of its own at the end"
    content = path.read_bytes()
    assert content.rindex(b"a title") > content.index(b"data") + 2000
    path.write_bytes(content[:-20])
    assert audio.info(path).samples == 1000


def test_resolution_of_sample_formats(tmp_path):
    for subtype, expected in {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "FLOAT": 24}.items():
        soundfile.write(tmp_path / "a.wav", noise(1, 10).T, 8000, subtype=subtype)
        assert audio.bits(tmp_path / "a.wav") == expected


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
