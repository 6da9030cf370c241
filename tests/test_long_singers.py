"""Cross-validation over singers: each is tested once, by a training that never heard the singer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsm import audio
from bsm.data import registry
from bsm.data.layouts import SPLITS, open_tracks
from bsm.data.tracks import VOCALS, AudioFile, Track
from bsm.errors import InputError
from bsm.metrics import usdr
from bsm.study.baselines import EQUALISER
from bsm.study.compare import cluster_of
from bsm.study.long import singers, songs

NOTHING = {VOCALS: AudioFile(Path("not read"))}
SINGERS = sorted(name for part in registry.splits("mir1k").values() for name in part.singers)


@settings(deadline=None)  # the first example reads the manifest
@given(st.lists(st.sampled_from(SINGERS), min_size=12, unique=True), st.integers(1, 3), st.integers(3, 6))
def test_each_clip_is_tested_once_by_a_training_without_its_singer(names, clips, folds):
    tracks = [Track(f"{name}_1_{clip:02d}", "train", NOTHING) for name in names for clip in range(1, clips + 1)]
    dealt = singers.dealt(tracks, folds)
    assert len(dealt) == folds
    assert sorted(t.name for split in dealt for t in split["test"]) == sorted(t.name for t in tracks)
    for split in dealt:
        heard = {part: {cluster_of(track.name) for track in own} for part, own in split.items()}
        assert set.union(*heard.values()) == set(names)
        assert sum(map(len, heard.values())) == len(names)
        assert len(heard["valid"]) == singers.VALIDATED and len(heard["train"]) >= 2


def test_too_few_singers():
    with pytest.raises(InputError, match="7 singers: cross-validation in 4 folds needs 8"):
        singers.dealt([Track(f"{name}_1_01", "train", NOTHING) for name in SINGERS[:7]])


@pytest.mark.parametrize("arm", ["none", "loss-blind", songs.BASELINES])
def test_a_cross_validation_from_end_to_end(tmp_path, monkeypatch, arm):
    """Every clip has its scores and regions, and each fold a training with a seed of its own."""
    usual = songs.train_config
    monkeypatch.setattr(
        songs, "train_config", lambda arm, **given: usual(arm, **given | {"steps": 60}).replace(warmup=0, steps=2)
    )
    data, random = tmp_path / "clips", np.random.default_rng(0)
    for part in SPLITS:
        for name in registry.splits("mir1k")[part].singers[:4]:
            sung = np.repeat([0.0, 1.0, 1.0, 0.0], 16000) * np.sin(np.arange(64000) * random.uniform(0.1, 0.3))
            both = np.stack([random.normal(0, 0.2, 64000), 0.3 * sung])
            audio.write(data / f"{name}_1_01.wav", both.astype(np.float32), 16000, subtype="PCM_16")
    path = tmp_path / "results" / f"singers-{arm}-seed1.json"
    path.parent.mkdir()
    singers.experiment(path, folder=tmp_path, data=str(data), arm=arm, seed=1, lr=1e-3, steps=2, transpose=3)
    record = json.loads(path.read_text())
    clips = {file.stem for file in data.glob("*.wav")}
    scores = record["values"]["scores"]
    assert str(tmp_path) not in json.dumps(record)
    assert {row["track"] for row in scores} == clips
    if arm == songs.BASELINES:
        assert sum(row["separator"] == EQUALISER for row in scores) == len(clips)
        return
    assert len(scores) == len(clips) * len(singers.WINDOWS)
    assert {row["track"] for row in record["values"]["regions"]} == clips
    assert [(row["fold"], row["update"]) for row in record["values"]["history"]] == [(fold, 2) for fold in range(4)]
    runs = sorted((tmp_path / "trainings").iterdir())
    trained = [json.loads(Path(run, "run.json").read_text())["train"] for run in runs]
    assert {train["seed"] for train in trained} == {4, 5, 6, 7}
    assert {train["transpose"] for train in trained} == {3}
    assert {train["loss"]["blind"] for train in trained} == {arm == "loss-blind"}
    if arm == "none":
        long = path.with_name(f"joined-{arm}-seed1.json")
        singers.joined(long, folder=tmp_path, data=str(data), arm=arm, trainings=path.stem, seed=1)
        record = json.loads(long.read_text())
        folds = {row["track"]: row["fold"] for row in scores}
        assert {(row["track"], row["fold"]) for row in record["values"]["scores"]} == set(folds.items())
        assert len(record["values"]["scores"]) == len(clips) * len(singers.JOINED_WINDOWS)
        assert len(set(record["parameters"]["weights_sha256"])) == 4 and str(tmp_path) not in json.dumps(record)


def test_joined_clips_are_heard_as_one_recording_and_scored_apart(tmp_path, monkeypatch):
    clips = [np.random.default_rng(n).normal(0, 0.1, (2, 8000 + 100 * n)).astype(np.float32) for n in range(3)]
    for n, clip in enumerate(clips):
        audio.write(tmp_path / f"Ani_1_0{n}.wav", clip, 16000)
    tracks = open_tracks(tmp_path, "train")[1]
    heard = []

    def separate(model, mixture, rate, *, window, hop, batch_size):
        heard.append((mixture.shape[1], window))
        return mixture + 0.25 * (torch.arange(mixture.shape[1]) < 8000)  # another fault in the first clip

    monkeypatch.setattr(singers, "separate", separate)
    rows = singers.measure_joined(torch.nn.Identity(), tracks)
    assert heard == [(24300, window) for window in singers.JOINED_WINDOWS]
    assert {row["seconds"] for row in rows} == {24300 / 16000}
    for row in rows:
        clip = clips[int(row["track"][-1])]
        assert row["usdr"] == pytest.approx(usdr(clip[1], clip.sum(0) + 0.25 * row["track"].endswith("00")), abs=1e-3)
