"""Metrics against their written formulas, museval called directly, and cases with a known answer."""

import numpy as np
import pytest
import torch

from bsm import metrics
from bsm.errors import InputError

RATE = 8000


def stereo(seconds: float = 3, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((2, int(seconds * RATE)))


def test_usdr_is_the_written_formula():
    s, e = stereo(), stereo(seed=1)
    expected = 10 * np.log10(((s**2).sum() + 1e-7) / (((s - e) ** 2).sum() + 1e-7))
    assert metrics.usdr(s, e) == pytest.approx(expected, abs=1e-12)
    assert metrics.usdr(torch.from_numpy(s), torch.from_numpy(e)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("scale", "expected"), [(0.9, 20.0), (0.0, 0.0), (-1.0, -20 * np.log10(2)), (2.0, 0.0)])
def test_usdr_of_a_scaled_estimate(scale, expected):
    assert metrics.usdr(stereo(), scale * stereo()) == pytest.approx(expected, abs=1e-4)


def test_usdr_is_finite_for_silence_and_for_perfection():
    s, zero = stereo(), np.zeros((2, 100))
    assert metrics.usdr(zero, zero) == 0
    assert metrics.usdr(zero, zero + 1) == pytest.approx(10 * np.log10(1e-7 / 200), abs=1e-6)
    assert metrics.usdr(s, s) == pytest.approx(10 * np.log10((s**2).sum() / 1e-7), abs=1e-6)


def test_usdr_is_computed_in_float64():
    s = (stereo() * 1e3).astype(np.float32)
    assert metrics.usdr(s, s + np.float32(0.001)) == pytest.approx(
        metrics.usdr(s.astype(float), (s + np.float32(0.001)).astype(float)), abs=1e-12
    )


def test_si_sdr_ignores_scale_and_polarity():
    s = stereo()
    e = s + 0.1 * stereo(seed=1)
    assert metrics.si_sdr(s, -3 * e) == pytest.approx(metrics.si_sdr(s, e), abs=1e-9)
    assert metrics.si_sdr(s, e) == pytest.approx(20, abs=0.2)
    assert 100 < metrics.si_sdr(s, 0.5 * s) < np.inf


def test_si_sdr_is_undefined_for_silence():
    """Neither a silent reference nor a silent estimate has a scale: NaN, not a value of about -180 dB."""
    s = stereo()
    for reference, estimate in ((0 * s, s), (s, 0 * s), (0 * s, 0 * s)):
        assert np.isnan(metrics.si_sdr(reference, estimate))


@pytest.mark.parametrize(
    "metric",
    [
        metrics.usdr,
        metrics.si_sdr,
        lambda s, e: metrics.csdr(s, e, RATE),
        lambda s, e: metrics.bleedless_fullness(s, e, RATE),
    ],
)
def test_shapes_must_match(metric):
    with pytest.raises(ValueError, match=r"\(2, 24000\).*\(2, 23999\)"):
        metric(stereo(), stereo()[:, :-1])


def test_csdr_equals_museval_and_a_silent_second_drops_out():
    import museval

    s = stereo(5)
    s[:, RATE : 2 * RATE] = 0
    e = s + 0.05 * stereo(5, seed=1)
    frames = metrics.csdr_frames(s, e, RATE)
    expected = museval.evaluate([s.T], [e.T], win=RATE, hop=RATE)[0][0]
    np.testing.assert_allclose(frames, expected)
    assert np.isnan(frames).tolist() == [False, True, False, False, False]
    assert metrics.csdr(torch.from_numpy(s), torch.from_numpy(e), RATE) == np.nanmedian(expected)


def test_a_track_shorter_than_a_second_is_one_window():
    s = stereo()[:, :100]
    assert metrics.csdr_frames(s, s + 0.05 * stereo(seed=1)[:, :100], RATE).shape == (1,)
    assert np.isnan(metrics.csdr_frames(s, 0 * s, RATE)).tolist() == [True]


def test_csdr_of_a_silent_estimate():
    s, e = stereo(), stereo() * 0.9
    e[:, :RATE] = 0
    assert np.isnan(metrics.csdr_frames(s, e, RATE)).tolist() == [True, False, False]
    for reference, estimate in ((s, 0 * s), (0 * s, s)):
        assert np.isnan(metrics.csdr_frames(reference, estimate, RATE)).tolist() == [True] * 3
        assert np.isnan(metrics.csdr(reference, estimate, RATE))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_window_of_bss_eval_v4_is_its_plain_energy_ratio(channels):
    """With one source and SDR alone, museval's filters cancel: what differs from a plain ratio is the silence."""
    s, e = stereo()[:channels], (stereo() + 0.05 * stereo(seed=1))[:channels]
    blocks = [slice(i * RATE, (i + 1) * RATE) for i in range(3)]
    plain = [10 * np.log10((s[:, b] ** 2).sum() / ((s - e)[:, b] ** 2).sum()) for b in blocks]
    np.testing.assert_allclose(metrics.csdr_frames(s, e, RATE), plain, atol=1e-6)


def test_csdr_of_identical_channels():
    s, e = np.repeat(stereo()[:1], 2, axis=0), np.repeat(0.9 * stereo()[:1], 2, axis=0)
    np.testing.assert_allclose(metrics.csdr_frames(s, e, RATE), 20, atol=0.01)


def test_missing_ffmpeg_is_one_clear_line(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "museval":
            raise RuntimeError("ffmpeg or ffprobe could not be found!")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="install ffmpeg"):
        metrics.csdr(stereo(), stereo(seed=1), RATE)


def test_ideal_ratio_mask_beats_the_mixture():
    t = np.arange(2 * RATE) / RATE
    vocals = np.stack([np.sin(2 * np.pi * (440 * t + 3 * np.sin(5 * t))), np.sin(2 * np.pi * 660 * t)])
    accompaniment = np.stack([np.sin(2 * np.pi * 110 * t), np.sin(2 * np.pi * 1500 * t)]) + 0.05 * stereo(2)
    mixture = vocals + accompaniment
    estimate = metrics.ideal_ratio_mask(mixture, vocals, accompaniment)
    assert estimate.shape == mixture.shape
    assert metrics.usdr(vocals, estimate) > metrics.usdr(vocals, mixture) + 5
    tensors = [torch.from_numpy(x) for x in (mixture, vocals, accompaniment)]
    np.testing.assert_array_equal(metrics.ideal_ratio_mask(*tensors), estimate)


@pytest.mark.parametrize("samples", [1, 100, 4097])
def test_ideal_ratio_mask_keeps_any_length_and_passes_lone_vocals(samples):
    vocals = stereo()[:, :samples]
    np.testing.assert_allclose(metrics.ideal_ratio_mask(vocals, vocals, 0 * vocals), vocals, atol=1e-12)
    assert not metrics.ideal_ratio_mask(vocals, 0 * vocals, vocals).any()


def burst(start: float, stop: float, pitch: float, level: float = 0.3, seconds: float = 4, rate: int = 44100):
    """A tone with soft ends between two times, the same on both channels; digital silence elsewhere."""
    t = np.arange(int(seconds * rate)) / rate
    inside = np.clip((t - start) / (stop - start), 0, 1)
    return np.tile(level * np.sin(2 * np.pi * pitch * t) * np.sin(np.pi * inside) ** 2, (2, 1))


def test_a_perfect_estimate_is_neither_bled_into_nor_thinned():
    for sound in (stereo(), np.zeros((2, 5000)), stereo()[0, :100]):
        assert metrics.bleedless_fullness(sound, sound, RATE) == (100, 100)


def test_leakage_lowers_bleedless_alone():
    voice = burst(0.2, 1.5, 440)
    found = [metrics.bleedless_fullness(voice, voice + burst(2.5, 3.8, 2000, x), 44100) for x in (0, 0.01, 0.1)]
    bleedless, fullness = zip(*found, strict=True)
    assert bleedless[0] == 100 > bleedless[1] > bleedless[2]
    assert fullness == (100, 100, 100)


def test_what_is_not_finite_has_no_score():
    sound = stereo()
    broken = sound.copy()
    broken[0, 10] = np.nan
    assert np.isnan(metrics.bleedless_fullness(sound, broken, RATE)).all()


def test_removed_content_lowers_fullness_alone():
    parts = burst(0.2, 1.5, 440), burst(2.5, 3.8, 2000, 0.1)
    found = [metrics.bleedless_fullness(sum(parts), parts[0] + x * parts[1], 44100) for x in (1, 0.5, 0)]
    bleedless, fullness = zip(*found, strict=True)
    assert bleedless == (100, 100, 100)
    assert fullness[0] == 100 > fullness[1] > fullness[2]


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_bleedless_and_fullness_by_hand(rate):
    """Half the amplitude is 20 log10(2) dB less in every band of every frame, the floor 80 dB below the peak too."""
    s, lost = stereo(), 100 / (1 + 20 * np.log10(2))
    assert metrics.bleedless_fullness(s, s / 2, rate) == pytest.approx((100, lost), abs=1e-3)
    assert metrics.bleedless_fullness(torch.from_numpy(s), torch.from_numpy(2 * s), rate) == pytest.approx(
        (lost, 100), abs=1e-3
    )


def test_mel_floor_by_hand():
    """Against silence (1e-10, that is -200 dB, everywhere) all is bleed, from -200 dB to the level or its floor."""
    silence = np.zeros((1, 8192))
    level = metrics._mel_db(np.ones((1, 8192)), RATE)
    assert float(level.max() - level.min()) == pytest.approx(80, abs=1e-4)
    bleedless, fullness = metrics.bleedless_fullness(silence, silence + 1, RATE)
    assert bleedless == pytest.approx(100 / (1 + float(level.double().mean()) + 200), rel=1e-5)
    assert fullness == 100
    assert metrics.bleedless_fullness(silence + 1, silence, RATE) == pytest.approx((100, bleedless))


@pytest.mark.parametrize("rate", [1500, 16000, 44100])
def test_bleedless_and_fullness_against_torchaudio(rate):
    """The published definition, put together from torchaudio's parts."""
    F = pytest.importorskip("torchaudio.functional")
    s, e = (torch.from_numpy(x).float() for x in (stereo(), stereo() + 0.3 * stereo(seed=1)))
    e[:, 8000:12000] = 0
    bands = F.melscale_fbanks(2049, 0.0, rate / 2, 512, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(metrics._mel_bands(rate), bands.T, atol=1e-4 * float(bands.max()))  # in float32 there
    levels = []
    for x in (s, e):
        spec = torch.stft(x, 4096, 1024, window=torch.hann_window(4096), return_complex=True, pad_mode="constant")
        levels.append(F.amplitude_to_DB(bands.T @ spec.abs(), 20.0, 1e-10, 0.0, 80.0))
    d = levels[1] - levels[0]
    expected = 100 / (1 + float(d[d > 0].mean())), 100 / (1 - float(d[d < 0].mean()))
    assert metrics.bleedless_fullness(s, e, rate) == pytest.approx(expected, rel=1e-3)
