import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bsm import audio
from bsm.activity import active_windows
from bsm.config import TrainConfig
from bsm.data.mixing import MixingDataset, validation_segments
from bsm.data.tracks import folder_tracks
from bsm.errors import InputError
from bsm.train.distributed import rank_segments

RATE, SEGMENT = 8000, 4000
NAMES = ("vocals", "drums", "bass")


def make_song(folder, seed, seconds=4.0, channels=2, rate=RATE, silent=()):
    """Write a song whose sources sound in its second half only, each at a level that names song and source."""
    rng = np.random.default_rng(seed)
    for i, name in enumerate(NAMES):
        sound = rng.normal(size=(channels, round(seconds * rate))).clip(-3, 3) * 0.01 * (1 + seed) * (1 + i)
        sound[:, : sound.shape[1] // 2] = 0
        folder.mkdir(parents=True, exist_ok=True)
        audio.write(folder / f"{name}.wav", sound * (name not in silent), rate)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    for i in range(3):
        make_song(root / f"song{i}", i)
    return folder_tracks(root, "train")


def dataset(tracks, **changes):
    return MixingDataset(tracks, **{"segment": SEGMENT, "seed": 7, "length": 60, **changes})


def test_shapes_and_types(tracks):
    mixture, vocals = dataset(tracks)[3]
    for sound in (mixture, vocals):
        assert sound.shape == (2, SEGMENT) and sound.dtype == torch.float32 and sound.is_contiguous()
    assert len(dataset(tracks)) == 60


def test_an_item_depends_on_seed_and_index_alone(tracks):
    first, second = dataset(tracks), dataset(tracks, length=1000)
    backwards = {i: second[i] for i in reversed(range(60))}
    for i in range(60):
        assert torch.equal(first[i][0], backwards[i][0]) and torch.equal(first[i][1], backwards[i][1])
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], dataset(tracks, seed=8)[0][0])


UPDATES = TrainConfig(steps=4, batch_size=2, accumulate=2)


def batches(made, workers, first_update=0):
    """Load what a training in one process loads, from an update to the end."""
    sampler = rank_segments(UPDATES, first_update=first_update, rank=0, processes=1)
    return list(DataLoader(made, batch_size=UPDATES.batch_size, sampler=sampler, num_workers=workers))


def same(a, b):
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_segments_depend_on_seed_and_step_whatever_the_workers(tracks, workers):
    made = dataset(tracks, length=16)
    items = [made[i] for i in range(16)]
    wanted = [tuple(torch.stack(v) for v in zip(*items[i : i + 2], strict=True)) for i in range(0, 16, 2)]
    assert same(batches(made, workers), wanted)
    assert same(batches(made, workers, first_update=3), wanted[6:])  # a resumed run


def test_items_are_the_sampling_rule_literally(tracks):
    """Each item against the rule written out: song and active window, gain, silence, for each source in turn."""
    made = dataset(tracks, silence_probability=0.3)
    windows = {
        s: [
            (t, start)
            for t in tracks
            for start in active_windows(t.read(s), RATE, window=SEGMENT / RATE, hop=SEGMENT / RATE / 2)
        ]
        for s in tracks[0].sources
    }
    for index in range(40):
        rng = np.random.default_rng([7, index])
        sources = {}
        for name in tracks[0].sources:
            track, start = windows[name][rng.integers(len(windows[name]))]
            gain, silenced = rng.uniform(0.5, 1.5), rng.random() < 0.3
            sources[name] = (0 if silenced else gain) * track.read(name)[:, start : start + SEGMENT]
        mixture, vocals = made[index]
        np.testing.assert_allclose(vocals, sources["vocals"], atol=1e-6)
        np.testing.assert_allclose(mixture, sum(sources.values()), atol=1e-6)


def test_silence_probability(tracks):
    assert all(v.abs().max() == 0 for _, v in dataset(tracks, silence_probability=1.0))
    assert all(v.abs().max() > 0 for _, v in dataset(tracks, silence_probability=0.0))
    silent = [v.abs().max() == 0 for _, v in dataset(tracks, silence_probability=0.25, length=400)]
    assert 0.17 < np.mean(silent) < 0.33


def test_transposition_in_semitones(tmp_path):
    """A source is played at the speeds of whole semitones, the others at speeds of their own."""
    times = np.arange(8 * RATE) / RATE
    tone = 0.05 * (1 + times / 8) * np.sin(2 * np.pi * 1000 * times)  # of no steady level, which counts as silence
    for name in NAMES:
        audio.write(tmp_path / "song" / f"{name}.wav", tone[None].astype(np.float32), RATE)
    (track,) = folder_tracks(tmp_path, "train")
    made = dataset([track], gain=(1.0, 1.0), silence_probability=0, length=80, transpose=2)
    steps = {"vocals": [], "mixture": []}
    for mixture, vocals in made:
        spectrum = np.abs(np.fft.rfft(vocals[0].numpy() * np.hanning(SEGMENT), 1 << 17))
        steps["vocals"].append(12 * np.log2(spectrum.argmax() * RATE / (1 << 17) / 1000))
        steps["mixture"].append(float(mixture.std() / vocals.std()))
    np.testing.assert_allclose(steps["vocals"], np.round(steps["vocals"]), atol=0.02)
    assert set(np.round(steps["vocals"])) == {-2, -1, 0, 1, 2}
    assert min(steps["mixture"]) < 2.5 < 2.9 < max(steps["mixture"])  # apart in most mixtures, together in some


def test_songs_in_which_a_source_is_silent_are_passed_over(tmp_path):
    make_song(tmp_path / "a", 0, silent=["vocals"])
    make_song(tmp_path / "b", 1)
    made = dataset(folder_tracks(tmp_path, "train"), silence_probability=0)
    assert all(v.abs().max() > 0 for _, v in made)
    with pytest.raises(InputError, match="sounds in no window of 8 s for more than half of it; choose shorter"):
        dataset(folder_tracks(tmp_path, "train"), window_seconds=8.0)


def test_song_shorter_than_a_segment_is_padded(tmp_path):
    make_song(tmp_path / "a", 0, seconds=1.2)
    (track,) = folder_tracks(tmp_path, "train")
    made = dataset([track], segment=10000, window_seconds=0.5, silence_probability=0)
    mixture, _ = made[0]
    assert mixture.shape == (2, 10000) and mixture[:, 9600:].abs().max() == 0 and mixture.abs().max() > 0
    ((whole, _),) = validation_segments([track], 10000, 1)
    np.testing.assert_array_equal(whole[:, :9600], track.mixture())
    assert whole[:, 9600:].abs().max() == 0


def test_validation_segments_are_fixed_and_aligned(tracks):
    segments = validation_segments(tracks, SEGMENT, 4)
    assert len(segments) == 12
    for i, (mixture, vocals) in enumerate(segments):
        track, start = tracks[i // 4], round((32000 - SEGMENT) * (i % 4 + 0.5) / 4)
        np.testing.assert_array_equal(mixture, track.mixture(start, start + SEGMENT))
        np.testing.assert_array_equal(vocals, track.read("vocals", start, start + SEGMENT))


def test_unusable_input(tmp_path, tracks):
    with pytest.raises(InputError, match="no songs"):
        dataset([])
    with pytest.raises(InputError, match="at least one"):
        dataset(tracks, length=0)
    make_song(tmp_path / "mono", 0, channels=1)
    with pytest.raises(InputError, match="'mono' has channels 1"):
        dataset([*tracks, *folder_tracks(tmp_path, "train")])
    make_song(tmp_path / "quiet" / "song", 0, silent=["bass"])
    with pytest.raises(InputError, match="bass sounds in no window of 0.5 s"):
        dataset(folder_tracks(tmp_path / "quiet", "train"))
    with pytest.raises(IndexError):
        dataset(tracks)[60]


def test_segments_lie_anywhere_in_their_windows(tracks):
    """Segments shorter than the window hold silences and onsets; those as long as it are active throughout."""
    made = [dataset(tracks, segment=RATE // 2, window_seconds=2.5, silence_probability=0, length=100) for _ in range(2)]
    sounding = [(vocals.abs().amax(0) > 0).float().mean().item() for _, vocals in made[0]]
    assert min(sounding) == 0 and max(sounding) > 0.9 and any(0.1 < share < 0.9 for share in sounding)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*made, strict=True))
