"""What a profile's values stand for, whatever data it names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bsm import audio
from bsm.config import LossConfig, ModelConfig
from bsm.data import registry
from bsm.errors import InputError
from bsm.study import profiles
from bsm.study.profiles import Profile
from bsm.study.rehearse import copy_of_checkout
from made import noise

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "notebooks/profiles").glob("*.yaml"))
VALUES = {"profile": "own", "data": "own", "title": "own songs", "model": "tiny", "seed": 0}


@pytest.fixture
def own(tmp_path, monkeypatch, write_song):
    """A profile of its own with two songs per split; takes further values."""
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    for split in ("train", "valid", "test"):
        for song in "ab":
            write_song(tmp_path / "data/own" / split / song, 8000 / 44100)
    (tmp_path / "own.yaml").write_text(json.dumps(VALUES))
    return lambda **values: Profile.load(str(tmp_path / "own.yaml"), **values)


def songs(profile, **options):
    return {split: [track.name for track in tracks] for split, tracks in profile.tracks(**options).items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_makes_its_data_or_says_what_to_fetch(name, tmp_path, monkeypatch):
    profile = Profile.load(name)
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    with pytest.raises(InputError, match=f"data/{profile.data}: no songs yet") as error:
        profile.tracks()
    assert "\n" not in str(error.value)
    if profile.makes_songs:
        assert f"bsm data prepare {name}" in str(error.value)
        return
    with pytest.raises(InputError, match=f"copy or link them to data/{profile.data}"):
        profile.prepare_data()
    if "fetch" in profile.values:
        known = registry.load(profile.fetch)
        assert f"`bsm data fetch {profile.fetch}`" in str(error.value)
        assert known.place.name == profile.data
        model = ModelConfig.preset(profile.model)
        assert (known.rate, known.channels) == (model.sample_rate, model.channels)


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_of_a_profile_has_a_network(name):
    profile = Profile.load(name)
    assert profile.backbones[0] == "bsmamba2"
    ours, *others = [profile.model_config(backbone) for backbone in profile.backbones]
    assert ours == ModelConfig.preset(profile.model)
    for other in others:
        assert (other.sample_rate, other.channels, other.bands) == (ours.sample_rate, ours.channels, ours.bands)
    folders = {profile.run_folder(0, backbone) for backbone in profile.backbones}
    assert len(folders) == len(profile.backbones)
    assert profile.train_config().loss == LossConfig.at_rate(ours.sample_rate)


def test_a_backbone_may_be_another_time_block():
    profile = Profile.load("demo")
    assert profile.model_config("none") == profile.model_config().replace(time_block="none")
    assert profile.run_folder(0, "none").name == "none-study-16k-seed0"
    with pytest.raises(InputError, match="unknown network 'nothing'"):
        profile.model_config("nothing")


def test_only_the_papers_data_and_model_are_comparable():
    assert [name for name in NAMES if Profile.load(name).comparable] == ["paper"]
    assert not Profile.load("paper", model="small").comparable
    assert not Profile.load("paper", skip_bad=True).comparable


def test_songs_that_are_there_are_checked(own, caplog):
    with caplog.at_level("INFO"):
        own().prepare_data()
    assert "2 songs for train, 0.0 minutes" in caplog.text
    assert songs(own()) == dict.fromkeys(("train", "valid", "test"), ["a", "b"])
    assert own().data_title == "own songs"


def test_mono_songs_where_the_model_takes_stereo(own, tmp_path):
    for name in ("vocals", "other"):
        audio.write(tmp_path / "data/own/train/a" / f"{name}.wav", noise(2, channels=1), 44100)
    complaint = "train/a: song 'a' has 44100 Hz, 1 channel.*; model tiny takes 44100 Hz, 2; convert it"
    with pytest.raises(InputError, match=complaint):
        own().prepare_data()
    skipped = {}
    assert songs(own(skip_bad=True), skipped=skipped)["train"] == ["b"]
    assert list(skipped) == ["a"]
    with pytest.raises(InputError, match="16000 Hz, 1;"):
        own(model="tiny-16k", skip_bad=False).tracks()


def test_bad_songs_are_left_out_only_by_a_profile_that_says_so(own, tmp_path, caplog):
    sound = noise(0)
    sound[1, 100] = np.inf
    import soundfile

    soundfile.write(tmp_path / "data/own/valid/b/other.wav", sound.T, 44100, subtype="FLOAT")
    skipped = {}
    assert songs(own(), skipped=skipped)["valid"] == ["a", "b"]  # nothing is read yet
    assert not skipped
    assert songs(own(skip_bad=True), skipped=skipped)["valid"] == ["a"]
    assert "infinite" in skipped["b"]
    assert "skipping song 'b'" in caplog.text


def test_the_workflow_says_what_to_fetch_before_anything_starts(tmp_path):
    copy_of_checkout(tmp_path, "bsm", "notebooks", "data_manifest", "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "profile=mir1k"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / ".cache"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "no songs yet" in line]
    assert "error: " in line
    assert "run `bsm data fetch mir1k`, or copy or link them to data/mir1k" in line
    assert not (tmp_path / "runs").exists()
