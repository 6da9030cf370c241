"""The benchmark of data loading: that each case reads what it says, and what follows from the times."""

import numpy as np
import pytest

from bsm.data.tracks import folder_tracks
from bsm.errors import InputError
from bsm.study.claims.data import data_2x, loader_4x
from bsm.study.records import checksum, read_result
from bsm.study.speed import data as bench
from bsm.study.speed.timer import SEED

RATE, SECONDS = 8000, 0.5
SEGMENT = round(RATE * SECONDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_song):
    """Two songs of noise, 2 s of two sources, in a split."""
    root = tmp_path_factory.mktemp("songs")
    for seed, song in enumerate("ab"):
        write_song(root / "train" / song, 2, sources=("vocals", "drums"), rate=RATE, seed=seed)
    return root


@pytest.fixture(scope="module")
def tracks(root):
    return folder_tracks(root / "train", "train")


def test_cases_read_the_same_segment(tracks, tmp_path):
    starts = bench._copies(tracks, SEGMENT, tmp_path)
    assert len(starts) == 2
    wanted = [tracks[int(path.stem)].read("vocals", start, start + SEGMENT) for path, start in starts.items()]
    for read in bench._reads(starts, SEGMENT).values():
        np.testing.assert_array_equal(read(), wanted)


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_segments_that_do_not_fit_are_refused(tracks, seconds):
    with pytest.raises(InputError, match="choose 1 to 16000"):
        bench.loading(tracks, (seconds,), repeats=1)


def test_command(tmp_path, root, invoke):
    command = ["bench", "data", "--data", str(root), "--json", str(tmp_path / "data.json")]
    done = invoke(*command, "--seconds", SECONDS, "--repeats", "2")
    assert done.exit_code == 0, done.output
    record = read_result(tmp_path / "data.json")
    assert record["parameters"] == {"seconds": [SECONDS], "repeats": 2} and record["data"].endswith(root.name)
    assert (list(record["inputs"].values()), record["seed"]) == ([checksum(root)], SEED)
    values = record["values"]
    speed = {r["case"]: r for r in values["speed"]}
    loaders = {bench.RESTARTED, *(f"{n} workers" for n in bench.WORKERS)}
    reads = {f"{suffix}, {how}" for suffix in ("wav", "flac") for how in ("whole file", "segment")}
    assert speed.keys() == loaders | reads
    assert all(len(r["seconds"]) == 2 and min(r["seconds"]) > 0 for r in speed.values())
    assert speed["2 workers"]["segments"] == 200 and speed["wav, segment"]["segments"] == 2
    assert data_2x(values["speed"]).reasons and loader_4x(values["speed"], values["cores"], faster=4, workers=4).reasons
    missing = invoke("bench", "data", "--data", tmp_path / "none")
    assert isinstance(missing.exception, InputError)
