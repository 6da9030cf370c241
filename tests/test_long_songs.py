"""The experiment on songs, on very few and short ones."""

import json

import pytest

from bsm.errors import InputError
from bsm.study.baselines import EQUALISER
from bsm.study.long import arms, songs
from made import scored, write_run


@pytest.mark.parametrize("arm", ["mamba2", "none", "bs-roformer"])
def test_arms_share_everything_but_the_time_block(arm):
    config, base = songs.model_config(arm), songs.model_config("mamba2")
    assert (config.sample_rate, config.channels, config.bands) == (songs.RATE, 1, base.bands)
    assert getattr(config, "time_block", arm) == arm


@pytest.mark.parametrize(("segment", "batch"), [(1.0, 2), (0.5, 4), (8.0, 1)])
def test_an_update_has_as_much_audio_whatever_the_segment(segment, batch):
    config = songs.train_config("mamba2", seed=3, lr=1e-3, segment_seconds=segment, steps=100)
    assert (config.batch_size, config.window_seconds, config.keep_best) == (batch, 2 * segment, 1)


def test_a_run_without_one_best_weight(tmp_path):
    with pytest.raises(InputError, match="0 best weights"):
        songs.best_weights(tmp_path)


def test_what_the_arms_reach_follows_from_the_scores(tmp_path):
    given = {"songs": 12, "seeds": [0], "metrics": ("usdr", "si_sdr"), "level": -1.0}
    about = {"parameters": 240_000, "train": {"lr": 0.002, "segment_seconds": 1.0}}
    for arm, usdr in {"mamba2": 5.0, "none": 3.2}.items():
        scores = [row for window, more in ((1.0, 0.5), (None, 0.0))
                  for row in scored({arm: usdr + more}, apart=0.1, window=window, **given)]  # fmt: skip
        write_run(tmp_path / f"songs-1s-{arm}-seed0.json", arm, {"scores": scores, "training_seconds": 120.0}, **about)
    with pytest.raises(InputError, match="no finished run of songs-1s or songs-baselines"):
        arms.read(tmp_path, "songs-1s")
    trivial = {"scores": scored({EQUALISER: {None: 2.0}}, apart=-0.1, **given)}
    write_run(tmp_path / "songs-baselines-baselines-seed0.json", songs.BASELINES, trivial)
    frame = arms.read(tmp_path, "songs-1s")
    table = arms.table(frame).set_index("separator")
    assert table.loc["BSMamba2", "gate"] == "passes" and table.loc["no time block", "gate"] == "fails"
    assert table.loc["BSMamba2", "minus equaliser"].startswith("3.00 [") and table.loc["BSMamba2", "minutes"] == "2.0"
    assert table.loc["BSMamba2", "parameters"] == "0.24 M"
    assert table.loc[EQUALISER, "uSDR (dB)"] == pytest.approx(2)
    by_window = arms.windows(frame).set_index("arm")
    assert by_window.loc["BSMamba2", "1 s"] == "5.50 (1.80 [1.80, 1.80])"
    assert by_window.loc["no time block", "whole song"] == "3.20"
    changes = arms.segment_table(frame).set_index("arm")  # against windows as long as the training's segments
    assert changes.loc["BSMamba2", "whole song"] == "5.00 (-0.50 [-0.50, -0.50])"
    assert [*changes.loc["no time block", ["training segments", "1 s"]]] == ["1 s", "3.70"]
    short = frame[(frame["window"] == 1) | (frame["system"] == EQUALISER)]  # networks that had no whole songs
    assert [*arms.windows(short)] == ["arm", "1 s"]
    for part, ticks in ((frame, ["1", "whole"]), (short, ["1"])):
        for ax in arms.figure(part).axes:
            assert [label.get_text() for label in ax.get_xticklabels()] == ticks


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
        assert str(tmp_path) not in json.dumps(record["inputs"]) and len(record["parameters"]["songs_sha256"]) == 64
        assert {row["track"] for row in scores} == {"demo-3000"} and all("usdr" in row for row in scores)
        if arm == "none":
            assert [row["window"] for row in scores] == [4.0, None]
            assert [row["update"] for row in record["values"]["history"]] == [60]
            assert path.with_suffix(".safetensors").is_file()
        else:
            assert EQUALISER in {row["separator"] for row in scores}
