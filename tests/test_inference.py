import logging
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from tqdm import tqdm

import bsm.inference
from bsm import audio
from bsm.errors import InputError
from bsm.inference import check_channels, find_songs, plan_outputs, separate, separate_file
from bsm.model import BSMamba2
from models import small

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000
CONFIG = small(sample_rate=RATE)


class Stand(nn.Module):
    """A stand-in for a model: returns its input, or a function of it, and records the shapes of its inputs."""

    def __init__(self, channels=2, rate=RATE, function=lambda x: x):
        super().__init__()
        self.config, self.function, self.seen = CONFIG.replace(channels=channels, sample_rate=rate), function, []

    def forward(self, mixture):
        self.seen.append(tuple(mixture.shape))
        assert mixture.shape[1] == self.config.channels
        return self.function(mixture)


def noise(channels, samples, seed=0):
    return torch.rand(channels, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BSMamba2(CONFIG).eval()


@given(
    samples=st.integers(1, 6000),
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 88200, 96000]) | st.integers(8000, 96000),
    channels=st.integers(1, 2),
    model_channels=st.integers(1, 2),
    model_rate=st.sampled_from([8000, 44100]),
    window=st.floats(0.01, 1.0),
    overlap=st.none() | st.floats(0.1, 1.0),
    whole=st.booleans(),
    batch_size=st.integers(1, 5),
)
@example(1, 96000, 1, 2, 8000, 1.0, None, True, 1)  # less than half a sample at the model's rate
@example(1, 96000, 2, 1, 8000, 1.0, 0.5, False, 3)
@example(1, 8000, 1, 1, 44100, 1.0, None, False, 1)
@settings(max_examples=60, deadline=None)
def test_shape_and_rate_are_the_recordings(
    samples, rate, channels, model_channels, model_rate, window, overlap, whole, batch_size
):
    model = Stand(model_channels, model_rate)
    hop = None if overlap is None else overlap * window
    mixture = noise(channels, samples)
    estimate = separate(model, mixture, rate, window=window, hop=hop, whole=whole, batch_size=batch_size)
    assert estimate.shape == mixture.shape
    assert estimate.dtype == torch.float32 and estimate.device.type == "cpu"
    assert estimate.isfinite().all()
    assert not estimate.is_inference()  # the caller may go on computing with it


@given(
    samples=st.integers(1, 9000),
    channels=st.integers(1, 2),
    model_channels=st.integers(1, 2),
    window=st.floats(0.01, 1.5),
    overlap=st.none() | st.floats(0.05, 1.0),
    batch_size=st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_identity_comes_back(samples, channels, model_channels, window, overlap, batch_size):
    samples = min(samples, round(60 * window * RATE * (overlap or 1)) + 1)  # not thousands of windows
    mixture = noise(channels, samples)
    hop = None if overlap is None else overlap * window
    estimate = separate(Stand(model_channels), mixture, RATE, window=window, hop=hop, batch_size=batch_size)
    torch.testing.assert_close(estimate, mixture, rtol=0, atol=1e-6)


def test_identity_through_another_rate():
    time = torch.arange(24000) / 48000
    mixture = 0.5 * torch.sin(2 * math.pi * 440 * time)[None]
    estimate = separate(Stand(rate=44100), mixture, 48000, window=0.2, hop=0.1)
    torch.testing.assert_close(estimate[:, 500:-500], mixture[:, 500:-500], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("samples", "channels"), [(1, 2), (800, 1), (801, 2), (2400, 2), (3001, 1)])
def test_windows_are_independent(model, samples, channels):
    """Without overlap: apply the model to each window by hand; the last one is padded with zeros."""
    mixture = noise(channels, samples)
    stereo = mixture.expand(2, -1)
    parts = []
    with torch.no_grad():
        for start in range(0, samples, 800):
            piece = stereo[:, start : start + 800]
            padded = torch.zeros(1, 2, 800)
            padded[0, :, : piece.shape[1]] = piece
            parts.append(model(padded)[0, :, : piece.shape[1]])
    expected = torch.cat(parts, dim=1)
    expected = expected.mean(0, keepdim=True) if channels == 1 else expected
    torch.testing.assert_close(separate(model, mixture, RATE, window=0.1), expected, rtol=1e-5, atol=1e-6)


def test_overlapping_windows_are_cross_faded(model):
    """Compare with the triangle written out, for a recording that ends inside the last window."""
    mixture, size, step = noise(2, 2900), 800, 300
    total, weights = torch.zeros(2, 2900 + size), torch.zeros(2900 + size)
    triangle = torch.tensor([min(i + 1, size - i) for i in range(size)], dtype=torch.float32)
    padded = torch.cat([mixture, torch.zeros(2, size)], dim=1)
    for start in range(0, 2900 - size + step, step):
        with torch.no_grad():
            part = model(padded[None, :, start : start + size])[0]
        total[:, start : start + size] += part * triangle
        weights[start : start + size] += triangle
    expected = (total / weights)[:, :2900]
    found = separate(model, mixture, RATE, window=0.1, hop=300 / RATE)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("model_channels", "hop"), [(1, None), (2, 0.05)])
def test_batch_size_makes_no_difference(model_channels, hop):
    torch.manual_seed(1)
    model = BSMamba2(CONFIG.replace(channels=model_channels)).eval()
    mixture = noise(2, 5001)
    one = separate(model, mixture, RATE, window=0.1, hop=hop)
    for batch_size in (2, 3, 100):
        many = separate(model, mixture, RATE, window=0.1, hop=hop, batch_size=batch_size)
        torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-6)


def test_batches_hold_no_more_than_asked():
    model = Stand(1)
    separate(model, noise(2, 5000), RATE, window=0.1, batch_size=4)  # two mono channels make a batch of two
    assert {shape[0] for shape in model.seen} == {4, 2}
    assert sum(shape[0] for shape in model.seen) == 2 * 7


def test_whole_is_one_pass(model):
    mixture = noise(2, 4321)
    with torch.no_grad():
        expected = model(mixture[None])[0]
    torch.testing.assert_close(separate(model, mixture, RATE, whole=True), expected, rtol=1e-5, atol=1e-6)
    stand = Stand()
    separate(stand, mixture, RATE, whole=True, window=0.1, hop=0.3)  # neither counts
    assert stand.seen == [(1, 2, 4321)]


SONG = """
import resource, sys, torch
from bsm import BSMamba2, ModelConfig, separate
torch.set_num_threads(1)
expand, mask_expansion, seconds = map(int, sys.argv[1:])
small = ModelConfig(dim=8, depth=1, d_state=8, headdim=8, expand=expand, mask_expansion=mask_expansion)
model, peaks = BSMamba2(small).eval(), []
for length in (4, seconds):
    separate(model, torch.rand(2, length * 44100) - 0.5, 44100, whole=True)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # MiB
print(peaks[1] - peaks[0])
"""


@pytest.mark.parametrize(
    ("expand", "mask_expansion", "seconds", "most"),
    [(1, 128, 30, 400), (32, 1, 12, 200)],
    ids=["all masks at once", "all rows at once"],
)
def test_a_whole_song_is_not_held_in_all_its_layers(expand, mask_expansion, seconds, most):
    """Measure, in a fresh process, the MiB that more seconds take. The named fault would take far more."""
    if sys.platform != "linux":
        pytest.skip("peak memory is counted otherwise here")
    command = [sys.executable, "-c", SONG, *map(str, (expand, mask_expansion, seconds))]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < most


def test_a_mono_model_treats_channels_alike():
    torch.manual_seed(2)
    model = BSMamba2(CONFIG.replace(channels=1)).eval()
    mixture = noise(2, 1500)
    both = separate(model, mixture, RATE, window=0.1)
    for channel in range(2):
        alone = separate(model, mixture[channel : channel + 1], RATE, window=0.1)
        torch.testing.assert_close(both[channel : channel + 1], alone, rtol=1e-5, atol=1e-6)
    assert separate(model, noise(3, 900), RATE, window=0.1).shape == (3, 900)


def test_a_stereo_models_channels_are_averaged_for_mono():
    model = Stand(2, function=lambda x: x * torch.tensor([[1.0], [0.5]]))
    mixture = noise(1, 1000)
    torch.testing.assert_close(separate(model, mixture, RATE), 0.75 * mixture)


def test_arrays_are_taken_too():
    mixture = noise(2, 1000)
    torch.testing.assert_close(separate(Stand(), mixture.double().numpy(), RATE), mixture)


@pytest.mark.parametrize(
    ("mixture", "options", "match"),
    [
        (torch.zeros(2, 0), {}, "none of them 0"),
        (torch.zeros(0, 10), {}, "none of them 0"),
        (torch.zeros(10), {}, "must be .channels, samples."),
        (torch.zeros(1, 2, 10), {}, "must be .channels, samples."),
        (torch.tensor([[0.0, math.nan]]), {}, "NaN or infinite"),
        (torch.tensor([[0.0, math.inf]]), {}, "NaN or infinite"),
        (torch.zeros(3, 100), {}, "has 3 channels; the model takes 2, or mono"),
        (torch.zeros(2, 100), {"hop": 0.0}, "hop must be from 0.08 s to the window of 8 s, got 0 s"),
        (torch.zeros(2, 100), {"hop": 1e-9}, "hop must be from 0.08 s"),
        (torch.zeros(2, 100), {"hop": -1.0}, "hop must be from"),
        (torch.zeros(2, 100), {"hop": math.nan}, "hop must be from"),
        (torch.zeros(2, 100), {"hop": 3.0, "window": 2.0}, "to the window of 2 s, got 3 s"),
        (torch.zeros(2, 100), {"window": 0.0}, "window must be at least 0.01 s"),
        (torch.zeros(2, 100), {"window": -2.0}, "window must be at least 0.01 s"),
        (torch.zeros(2, 100), {"window": math.inf}, "window must be at least 0.01 s"),
        (torch.zeros(2, 100), {"window": math.nan}, "window must be at least 0.01 s"),
    ],
)
def test_refusals(mixture, options, match):
    with pytest.raises(InputError, match=match):
        separate(Stand(), mixture, RATE, **options)


@pytest.mark.parametrize(
    "fails",
    [
        lambda _: torch.empty(2**60),
        lambda _: np.zeros(2**60, np.int8),
        lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB.")),
    ],
    ids=["CPU", "NumPy", "GPU"],
)
def test_memory_that_is_too_small(fails):
    with pytest.raises(InputError, match="the memory is too small; separate in windows"):
        separate(Stand(function=lambda x: x if fails(x) is None else next(fails(x))), noise(2, 100), RATE)


def test_no_window_is_longer_than_a_recording_needs():
    stand = Stand()
    for window in (8.0, 32.0, 600.0, 1e5, 1e300):
        separate(stand, noise(2, 1000), RATE, window=window)
    assert [shape[-1] for shape in stand.seen] == [8 * RATE, *[32 * RATE] * 4]
    separate(stand, noise(2, 33 * RATE), RATE, window=1e5, hop=1e4)
    assert stand.seen[-1][-1] == 33 * RATE and len(stand.seen) == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_is_told_what_to_do(dtype):
    half = BSMamba2(CONFIG).to(dtype)
    with pytest.raises(InputError, match=f"the model's weights are {dtype}, .*give model.float()"):
        separate(half, noise(2, 100), RATE)


def test_a_model_of_double_precision_separates(model):
    mixture = noise(2, 900)
    double = BSMamba2(CONFIG).eval()
    double.load_state_dict(model.state_dict())
    found = separate(double.double(), mixture, RATE, window=0.1)
    torch.testing.assert_close(found, separate(model, mixture, RATE, window=0.1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rate", [0, -8000])
def test_rates_must_be_positive(rate):
    with pytest.raises(InputError, match="sample rates must be positive"):
        separate(Stand(), torch.zeros(2, 100), rate)


# ---- files


def write(path, samples=1000, channels=2, **options):
    soundfile.write(path, noise(channels, samples).T.numpy(), RATE, **options)
    return path


def test_an_estimate_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="estimate has NaN .* weights are damaged"):
        separate(Stand(function=lambda x: x / 0), noise(2, 1000), RATE)


def test_songs_of_folders(tmp_path, caplog):
    for name in ("b.wav", "a.FLAC", ".hidden.wav", "b.vocals.wav", "a.accompaniment.wav", "stem.vocals.wav"):
        write(tmp_path / name, format="FLAC" if "FLAC" in name else "WAV")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.wav").mkdir()
    inside = [tmp_path / name for name in ("a.FLAC", "b.wav", "stem.vocals.wav")]  # the last belongs to no song here
    assert find_songs([tmp_path]) == (inside, [])
    (line,) = caplog.messages
    assert line == f"skipped earlier outputs: {tmp_path}/a.accompaniment.wav, {tmp_path}/b.vocals.wav"
    listed = [inside[1], inside[0], inside[2], Path("gone.wav")]
    assert find_songs([inside[1], tmp_path, Path("gone.wav")]) == (listed, [])
    assert find_songs([tmp_path / "b.vocals.wav"]) == ([tmp_path / "b.vocals.wav"], [])  # named, not found
    with pytest.raises(InputError, match=r"folder.wav: is a folder without audio files that can be read; give a song"):
        find_songs([tmp_path / "folder.wav"])


def test_what_cannot_be_read_in_a_folder_is_named_once(tmp_path, caplog):
    for name in ("a.wav", "e.WAVE", "f.aifc", "g.oga", "i.Mp3", "j.au"):
        write(tmp_path / name, 9000, format={"g": "OGG", "f": "AIFF", "i": "MP3", "j": "AU"}.get(name[0], "WAV"))
    for name in ("b.m4a", "c.MP4", "h.wma", "cover.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    songs, left_out = find_songs([tmp_path, tmp_path])
    assert [path.name for path in songs] == ["a.wav", "e.WAVE", "f.aifc", "g.oga", "i.Mp3", "j.au"]
    assert all(audio.info(song).samples for song in songs)
    (line,) = caplog.messages
    files = ", ".join(str(tmp_path / name) for name in ("b.m4a", "c.MP4", "h.wma"))
    assert (
        line == f"left out 3 file(s) that cannot be read: {files}; convert it first, as with: ffmpeg -i 'b.m4a' 'b.wav'"
    )
    for path in left_out:
        with pytest.raises(InputError, match=f"{path.name}: not an audio file.*; convert it first, as with: ffmpeg"):
            plan_outputs([path], None)
    for song in songs:
        song.unlink()
    with pytest.raises(InputError, match="without audio files that can be read; convert it first, as with: ffmpeg"):
        find_songs([tmp_path])


def test_half_of_a_songs_outputs_is_an_unfinished_song(tmp_path):
    song, vocals = write(tmp_path / "mix.wav"), write(tmp_path / "mix.vocals.wav")
    with pytest.raises(InputError, match="the only one of the song's outputs, so the song is unfinished") as told:
        plan_outputs([song], None, skip_existing=True)
    assert "--overwrite" in str(told.value) and "--skip-existing" not in str(told.value)
    assert vocals in plan_outputs([song], None, overwrite=True)[song]


def test_gradients_of_a_mixture_do_not_matter(model):
    mixture = torch.randn(model.config.channels, 800)
    with_gradient = separate(model, mixture.clone().requires_grad_(), model.config.sample_rate)
    torch.testing.assert_close(with_gradient, separate(model, mixture, model.config.sample_rate))


def test_channels_that_fit_a_model():
    for channels, wanted in ((6, 1), (1, 2), (2, 2), (6, 6)):
        check_channels(channels, wanted)
    with pytest.raises(InputError, match=r"six.wav has 6 channels; the model takes 2, or mono"):
        check_channels(6, 2, "six.wav")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_song_is_never_written_over(tmp_path, monkeypatch, overwrite):
    song, stem = write(tmp_path / "mix.wav"), write(tmp_path / "mix.vocals.wav")
    monkeypatch.chdir(tmp_path)
    for songs in ([song, stem], [stem, song], [Path("mix.wav"), stem]):
        with pytest.raises(InputError, match=r"mix.vocals.wav: is one of the songs.*-o"):
            plan_outputs(songs, None, overwrite=overwrite)
    assert list(plan_outputs([song, stem], tmp_path / "out")) == [song, stem]


def test_one_output_of_two_songs_is_known_however_their_folder_is_written(tmp_path, monkeypatch):
    write(tmp_path / "a.wav"), write(tmp_path / "a.flac")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for other in (Path("a.flac"), tmp_path / "a.flac", Path("link/a.flac")):
        with pytest.raises(InputError, match=r"a.wav and .*a.flac would both be written to .*a.vocals.wav"):
            plan_outputs([Path("a.wav"), other], None)
    assert len(plan_outputs([Path("a.wav"), tmp_path / "a.wav"], None)) == 2  # one song, named twice


@pytest.mark.parametrize("name", ["mix.vocals.wav", "mix.accompaniment.wav"])
@pytest.mark.parametrize("folder", [None, "out"])
def test_what_is_there_is_replaced_only_when_asked(tmp_path, name, folder):
    song, place = write(tmp_path / "mix.wav"), tmp_path / (folder or ".")
    place.mkdir(exist_ok=True)
    write(place / name)
    with pytest.raises(InputError, match=rf"{name}: exists, and is an output of .*--overwrite"):
        plan_outputs([song], folder and place)
    assert place / name in plan_outputs([song], folder and place, overwrite=True)[song]


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_loudness_is_kept_or_turned_down_by_a_stated_gain(tmp_path, caplog, subtype, factor):
    song = write(tmp_path / "a.wav", 5000, subtype="FLOAT")
    (paths,) = plan_outputs([song], tmp_path / "out").values()
    with caplog.at_level(logging.WARNING):
        gain = separate_file(Stand(function=lambda x: factor * x), song, paths, subtype=subtype, window=0.1)
    mixture = audio.read(song)[0]
    loud = subtype != "FLOAT" and factor > 1
    assert (gain < 0) == loud
    assert len(caplog.records) == loud
    if loud:
        assert f"turned down by {-gain:.2f} dB" in caplog.text
        assert gain == pytest.approx(-20 * np.log10(factor * np.abs(mixture).max()), abs=0.011)
    scale, step = 10 ** (gain / 20), {"FLOAT": 1e-6, "PCM_16": 2**-15, "PCM_24": 2**-22}[subtype]
    for path, part in zip(paths, (factor * mixture, (1 - factor) * mixture), strict=True):
        info = soundfile.info(path)
        assert (info.subtype, info.samplerate, info.channels, info.frames) == (subtype, RATE, 2, 5000)
        found = audio.read(path)[0]
        np.testing.assert_allclose(found, scale * part, rtol=1e-4, atol=2 * step)
        assert subtype == "FLOAT" or np.abs(found).max() <= 1


def test_a_progress_bar_ends_at_its_end(model, capsys, monkeypatch):
    # Shown at every update, as in any pass that takes long.
    monkeypatch.setattr(bsm.inference, "tqdm", partial(tqdm, mininterval=0))
    mixture = noise(2, 3000)
    expected = separate(model, mixture, RATE, window=0.1, hop=0.05, batch_size=2)
    capsys.readouterr()
    for options in ({"window": 0.1, "hop": 0.05, "batch_size": 2}, {"whole": True}):
        shown = separate(model, mixture, RATE, progress="a song", **options)
        last = capsys.readouterr().err.split("\r")
        assert any("a song: 100%" in text for text in last)
        assert not any(module._forward_hooks for module in model.modules())
        if "whole" not in options:
            assert torch.equal(shown, expected)


def test_another_networks_bar_counts_windows(capsys, monkeypatch):
    monkeypatch.setattr(bsm.inference, "tqdm", partial(tqdm, mininterval=0))
    mixture, other = noise(2, 3000), Stand(1)
    for options, passes in (({"window": 0.1, "batch_size": 4}, 2), ({"whole": True}, 1)):
        shown = separate(other, mixture, RATE, progress="a song", **options)
        said = capsys.readouterr().err
        percents = [text.split("%")[0].split()[-1] for text in said.split("\r") if "%" in text]
        assert sorted({int(percent) for percent in percents}) == [round(100 * n / passes) for n in range(passes + 1)]
        assert torch.equal(shown, mixture)
        assert not other._forward_hooks
