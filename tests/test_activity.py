import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm.activity import Region, active_windows, frame_rms, vocal_regions, vocal_share
from bsm.errors import InputError

RATE = 1000


def literal_active_windows(audio, rate, window, hop, chunks=10, quantile=0.15, floor=1e-3, eps=1e-5):
    """The author's detection, one window, channel and chunk at a time; his ``eps`` stands in for an RMS of zero."""
    length, step = round(window * rate), round(hop * rate)
    if audio.shape[1] < length:
        audio = np.concatenate([audio, np.zeros((audio.shape[0], length - audio.shape[1]))], axis=1)
    size, kept, start = length // chunks, [], 0
    while start + length <= audio.shape[1]:
        salient = []
        for channel in audio[:, start : start + length]:
            parts = [channel[i * size : (i + 1) * size].astype(float) for i in range(chunks)]
            rms = [float(np.sqrt(np.mean(part**2))) or eps for part in parts]
            threshold = max(np.quantile(rms, quantile), floor)
            salient.append(sum(r > threshold for r in rms) > chunks / 2)
        if all(salient):
            kept.append(start)
        start += step
    return kept


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 3),
    pieces=st.lists(st.tuples(st.integers(1, 900), st.sampled_from([0, 3e-4, 0.01, 0.3])), min_size=1, max_size=12),
    window=st.sampled_from([0.4, 1.0, 1.003]),
)
@settings(max_examples=80, deadline=None)
def test_active_windows_are_those_of_the_definition(seed, channels, pieces, window):
    rng = np.random.default_rng(seed)
    audio = np.concatenate([level * rng.normal(size=(channels, n)) for n, level in pieces], axis=1).astype(np.float32)
    audio *= rng.choice([0, 0.01, 1], (channels, 1), p=[0.1, 0.2, 0.7])  # a channel may be silent, or faint
    assert active_windows(audio, RATE, window=window, hop=0.25) == literal_active_windows(audio, RATE, window, 0.25)


def noise(seconds, level, channels=2):
    return level * np.random.default_rng(0).normal(size=(channels, round(seconds * RATE)))


def test_loud_middle_is_found():
    audio = noise(40, 1e-4)
    audio[:, 12 * RATE : 24 * RATE] *= 1000
    # Windows of 8 s: 8-16 has 4 of its 8 s sounding, which is no more than half of its chunks.
    assert active_windows(audio, RATE) == [12 * RATE, 16 * RATE]


def test_short_and_silent_recordings():
    loud = noise(6, 0.1)
    assert active_windows(loud, RATE) == [0]  # 6 of 8 s sound, the padding does not
    assert active_windows(loud[:, : 3 * RATE], RATE) == []
    assert active_windows(np.zeros((1, 20 * RATE)), RATE) == []


def test_every_channel_must_sound():
    audio = noise(8, 0.1)
    assert active_windows(audio, RATE) == [0]
    audio[1] *= 0.001
    assert active_windows(audio, RATE) == []


def test_a_faint_stretch_counts_beside_a_loud_one():
    """The threshold is each window's own, so that the level of the rest of the song does not matter."""
    audio = noise(16, 0.5)
    audio[:, 8 * RATE :] *= 0.01
    assert active_windows(audio, RATE) == [0, 4 * RATE, 8 * RATE]


def bursts(spans, seconds, level=0.3, channels=1):
    audio = np.zeros((channels, round(seconds * RATE)))
    for start, stop in spans:
        audio[:, round(start * RATE) : round(stop * RATE)] = level
    return audio


def test_regions_close_short_gaps_and_drop_short_sounds():
    audio = bursts([(1, 2), (2.1, 3), (4, 4.06), (5, 5.5), (5.7, 6)], 8)
    assert vocal_regions(audio, RATE) == [Region(1, 3), Region(5, 5.5), Region(5.7, 6)]


def test_regions_threshold_is_relative():
    audio = bursts([(1, 2)], 5) + bursts([(3, 4)], 5, level=0.3 * 10 ** (-35 / 20))
    for gain in (1, 0.1, 30):
        assert [r.start for r in vocal_regions(gain * audio, RATE)] == [1, 3]
        assert [r.start for r in vocal_regions(gain * audio, RATE, threshold_db=-30)] == [1]


def test_rare_singing_is_found():
    assert vocal_regions(bursts([(100, 100.5)], 200), RATE) == [Region(100, 100.5)]


def test_onsets_offsets_and_durations():
    region, other = vocal_regions(bursts([(1, 2.5), (4, 4.5)], 6), RATE)
    assert (region.start, region.stop, region.duration) == (1, 2.5, 1.5)
    assert other.duration == 0.5
    assert vocal_share([region, other], 6) == pytest.approx(2 / 6)


def test_levels_of_frames():
    rms = frame_rms(bursts([(1, 2)], 3, level=0.5, channels=2), RATE)
    assert len(rms) == 150 and set(np.round(rms, 12)) == {0, 0.5}


def test_silence_has_no_regions():
    assert vocal_regions(np.zeros((2, 5000)), RATE) == []
    assert vocal_regions(np.full((2, 5000), 1e-6), RATE) == []
    assert vocal_share([], 5) == 0


def test_region_reaches_the_end_of_a_ragged_recording():
    assert vocal_regions(np.full((1, 5003), 0.1), RATE) == [Region(0, 5.003)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6000))
@settings(max_examples=60, deadline=None)
def test_regions_are_in_order_and_apart(seed, samples):
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0, 0.2], samples // 50 + 1), 50)[:samples]
    regions = vocal_regions((level * rng.normal(size=samples))[None], RATE)
    assert all(r.duration >= 0.1 - 1e-9 and 0 <= r.start < r.stop <= samples / RATE for r in regions)
    assert all(b.start - a.stop >= 0.2 - 1e-9 for a, b in zip(regions, regions[1:], strict=False))
    assert 0 <= vocal_share(regions, samples / RATE) <= 1 + 1e-9


def test_unusable_input():
    with pytest.raises(InputError, match="shape"):
        active_windows(np.zeros(100), RATE)
    with pytest.raises(InputError, match="shape"):
        vocal_regions(np.zeros((2, 0)), RATE)
    with pytest.raises(InputError, match="too few"):
        active_windows(np.zeros((1, 100)), RATE, window=0.005)
    with pytest.raises(InputError, match="frame"):
        vocal_regions(np.zeros((1, 100)), 20)
    with pytest.raises(InputError, match="positive"):
        vocal_share([], 0)
