"""The experiment on songs, on very few and short ones."""

import json

import pytest

from bsm.errors import InputError
from bsm.study import songs
from bsm.study.baselines import EQUALISER


@pytest.mark.parametrize("arm", ["mamba2", "none", "bs-roformer"])
def test_arms_share_everything_but_the_time_block(arm):
    config, base = songs.model_config(arm), songs.model_config("mamba2")
    assert (config.sample_rate, config.channels, config.bands) == (songs.RATE, 1, base.bands)
    assert getattr(config, "time_block", arm) == arm


@pytest.mark.parametrize(("segment", "batch"), [(1.0, 2), (0.5, 4), (8.0, 1)])
def test_an_update_has_as_much_audio_whatever_the_segment(segment, batch):
    config = songs.train_config(seed=3, lr=1e-3, segment_seconds=segment, steps=100)
    assert (config.batch_size, config.window_seconds, config.keep_best) == (batch, 2 * segment, 1)


def test_a_run_without_one_best_weight(tmp_path):
    with pytest.raises(InputError, match="0 best weights"):
        songs.best_weights(tmp_path)


@pytest.mark.slow
def test_a_training_and_the_baselines_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(songs, "SONGS", {"train": 1, "valid": 1, "test": 2})
    monkeypatch.setattr(songs, "SECONDS", 16.0)
    monkeypatch.setattr(songs, "WINDOWS", (4.0, None))
    monkeypatch.setattr(songs, "SCORED", 1)
    for arm in ("none", songs.BASELINES):
        path = tmp_path / "results" / f"songs-{arm}.json"
        path.parent.mkdir(exist_ok=True)
        songs.experiment(path, folder=tmp_path, arm=arm, seed=1, lr=1e-3, steps=60)
        record = json.loads(path.read_text())
        scores = record["values"]["scores"]
        assert {row["track"] for row in scores} == {"demo-3000"} and all("usdr" in row for row in scores)
        if arm == "none":
            assert [row["window"] for row in scores] == [4.0, None]
            assert [row["update"] for row in record["values"]["history"]] == [60]
            assert path.with_suffix(".safetensors").is_file()
        else:
            assert EQUALISER in {row["separator"] for row in scores}
