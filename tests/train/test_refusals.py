"""Refusals: a run's folder, songs and devices that a training does not take, and runs that it sets aside."""

import errno
import json
import os
import resource
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import bsm.train.journal
import bsm.train.run
from bsm import audio
from bsm.config import NO_EFFECT
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.files import content_checksum
from bsm.train import read_log, train
from bsm.train.journal import load_state
from bsm.train.run import differences, run_identity
from bsm.train.trainer import Trainer
from bsm.weights.files import save_tensors
from calls import before_call, failing
from runs import CONFIG, MODEL, ROFORMER, assert_same_weights, copy_of, finished, fork, forked, write_songs


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def refused(run, tracks, match, *, model=MODEL, config=CONFIG, device="cpu"):
    """Training is refused in one line, and the folder stays as it was."""
    before = contents(run)
    with pytest.raises(InputError, match=match) as error:
        train(run, model, config, tracks, device=device)
    assert "\n" not in str(error.value)
    assert "delete" not in str(error.value)
    assert contents(run) == before


# ---- identity


def test_another_configuration_in_the_folder(whole, tracks):
    refused(
        whole,
        tracks,
        r"holds another run: lr was 0.002, is 0.0001; loss.hop_length was 64, is 32; choose another folder, or move",
        config=CONFIG.replace(lr=1e-4, loss=CONFIG.loss.replace(hop_length=32)),
    )
    refused(whole, tracks, "holds another run: depth was 1, is 2; choose", model=MODEL.replace(depth=2))
    refused(whole, tracks, "run: network was 'bsmamba2', is 'bs-roformer'; choose", model=ROFORMER)
    other = {"train": tracks["train"][:1], "valid": tracks["valid"]}
    refused(whole, other, "run: train song 'b' is gone; choose")
    refused(whole, {**tracks, "train": tracks["train"][::-1]}, "run: train songs are in another order")


def test_songs_are_known_by_their_contents(whole, tracks, tmp_path):
    """Other samples under the same names and lengths are another run; the same samples elsewhere are not."""
    copied = write_songs(tmp_path / "songs")
    moved = {split: load_tracks(copied, split) for split in ("train", "valid")}
    assert run_identity(MODEL, CONFIG, moved) == run_identity(MODEL, CONFIG, tracks)
    for file in (copied / "train").rglob("*.wav"):
        sound, rate = audio.read(file)
        audio.write(file, sound * np.float32(1 + 1e-6), rate)
    changed = {split: load_tracks(copied, split) for split in ("train", "valid")}
    refused(whole, changed, "run: train song 'a' has other contents; train song 'b' has other contents; choose")
    for path in (copied / "valid").rglob("*.wav"):
        sound, rate = audio.read(path)
        audio.write(path, sound[:, :-1], rate)
    shorter = {**tracks, "valid": load_tracks(copied, "valid")}
    refused(whole, shorter, "run: valid song 'c' has another length; choose")


def test_many_songs_are_summed_up():
    def identity(names):
        songs = [{"name": name, "samples": 1, "files": {}} for name in names]
        return {"network": "bsmamba2", "model": {}, "train": {}, "data": {"train": songs, "valid": []}, "recipe": 1}

    found = differences(identity("abcdefgh"), identity("ijklmnop"))["train songs"].split("; ")
    assert found[:1] + found[4:] == ["train song 'i' is new", "train song 'm' is new", "11 more train songs differ"]


def test_a_setting_that_an_older_run_lacks_counts_with_its_default(tracks):
    identity = run_identity(MODEL, CONFIG, tracks)
    older = json.loads(json.dumps(identity))
    del older["model"]["d_conv"], older["train"]["silence_probability"], older["train"]["loss"]["blind"]
    assert not differences(older, identity)
    changed = differences(older, run_identity(MODEL.replace(d_conv=3), CONFIG, tracks))
    assert changed == {"d_conv": "d_conv was 4, is 3"}


@pytest.mark.parametrize("size", [0, 1000, 40 << 20])
def test_checksums_of_contents(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    seen = {content_checksum(path)}
    for place in (128, 128 + (size - 128) * 7 // 15, size - 1) if size else ():
        with path.open("rb+") as file:
            file.seek(place)
            file.write(b"x")
        seen.add(content_checksum(path))
    path.write_bytes(bytes(size + 1))
    seen.add(content_checksum(path))
    assert len(seen) == (5 if size else 2)


def test_settings_without_effect_do_not_matter(whole, tracks, tmp_path):
    """A stopped run goes on with other values of them, to the same weights."""
    other = {"workers": 1, "checkpoint_every": 3, "keep_best": 9, "max_skipped": 2, "checkpoint_gradients": True}
    assert set(other) == set(NO_EFFECT)
    config, run = CONFIG.replace(**other), copy_of(whole, tmp_path)
    before = contents(run)
    train(run, MODEL, config, tracks, device="cpu")
    assert contents(run) == before
    train(tmp_path / "begun", MODEL, CONFIG.replace(steps=3), tracks, device="cpu")
    train(tmp_path / "begun", MODEL, config, tracks, device="cpu")
    assert (tmp_path / "begun" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


# ---- more steps


def test_more_steps_go_on_from_the_checkpoint(whole, tracks, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(run, MODEL, CONFIG.replace(steps=3), tracks, device="cpu")
    first = (run / "model.safetensors").read_bytes()
    steps = []
    update = bsm.train.trainer.Trainer.update
    monkeypatch.setattr(bsm.train.trainer.Trainer, "update", lambda *args: steps.append(1) or update(*args))
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert len(steps) == 4
    kept = run / "model-3-steps.safetensors"
    assert kept.read_bytes() == first
    assert json.loads(kept.with_suffix(".json").read_text())["step"] == 3
    kept.unlink()
    assert_same_weights(run, whole)
    refused(run, tracks, "holds another run: steps was 7, is 3; choose", config=CONFIG.replace(steps=3))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schedule": "cosine"}, "the cosine schedule sets every learning rate by the number of steps"),
        ({"patience": 5, "validate_every": 2}, "its last validation is out of turn, and patience counts it"),
    ],
)
def test_steps_that_cannot_go_on(tracks, tmp_path, changes, told):
    config, run = CONFIG.replace(steps=1, **changes), tmp_path / "run"
    train(run, MODEL, config, tracks, device="cpu")
    told = f"holds another run: steps was 1, is 2; it cannot go on: {told}; choose another"
    refused(run, tracks, told, config=config.replace(steps=2))


# ---- set aside


def test_another_recipe_sets_the_run_aside(tracks, tmp_path, monkeypatch, caplog):
    run, config = tmp_path / "run", CONFIG.replace(steps=1)
    train(run, MODEL, config, tracks, device="cpu")
    first = contents(run)
    for recipe in (8, 9, 9):
        monkeypatch.setattr(bsm.train.run, "RECIPE", recipe)
        train(run, MODEL, config, tracks, device="cpu")
    assert contents(tmp_path / "run.earlier") == first
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.earlier", "run.earlier-2"}  # once per change
    assert json.loads((run / "run.json").read_text())["recipe"] == 9
    assert "recipe version was 8, is 9; the earlier run is kept as run.earlier-2, and a new one begins" in caplog.text
    refused(run, tracks, "holds another run: lr was", config=config.replace(lr=1.0))


def test_a_run_of_an_earlier_version_is_set_aside(whole, tracks, tmp_path, caplog):
    """It recorded a checksum of source files, and songs by name and length only."""
    run, config = copy_of(whole, tmp_path), CONFIG.replace(steps=1)
    found = json.loads((run / "run.json").read_text())
    found = {k: v for k, v in found.items() if k != "recipe"} | {"code": "0123456789abcdef"}
    found["train"]["steps"] = 1
    found["data"] = {split: [[s["name"], s["samples"]] for s in songs] for split, songs in found["data"].items()}
    (run / "run.json").write_text(json.dumps(found))
    refused(run, tracks, "holds another run: lr was 0.002, is 1.0; choose", config=config.replace(lr=1.0))
    train(run, MODEL, config, tracks, device="cpu")
    assert "begun by an earlier version of bsm, which recorded no recipe version; the earlier run is" in caplog.text
    assert len(read_log(run)) == 1
    assert len(read_log(tmp_path / "run.earlier")) == 7


def test_supersede_sets_aside_what_would_be_refused(whole, tracks, tmp_path, caplog):
    run, config = copy_of(whole, tmp_path), CONFIG.replace(steps=1)
    before = contents(run)
    train(run, MODEL, config, tracks, device="cpu", supersede=True)
    assert contents(tmp_path / "run.earlier") == before
    assert "steps was 7, is 1; the earlier run is kept as run.earlier" in caplog.text


# ---- locks


def test_two_trainings_in_one_folder(whole, tracks, tmp_path):
    run, ready = tmp_path / "run", tmp_path / "ready"

    def action():
        def wait(*_):
            ready.touch()
            time.sleep(60)

        bsm.train.trainer.bsmamba2_loss = wait
        train(run, MODEL, CONFIG.replace(workers=1), tracks, device="cpu")

    child = fork(action)
    while not ready.exists():
        time.sleep(0.01)
    refused(run, tracks, rf"another process trains here \(process {child} on .+\); wait for it, or stop it")
    os.kill(child, signal.SIGKILL)
    assert finished(child) == -signal.SIGKILL
    train(run, MODEL, CONFIG, tracks, device="cpu")  # the lock went with its owner
    assert_same_weights(run, whole)


# ---- damage


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "lost"])
def test_lost_or_damaged_weights_are_made_again_from_the_checkpoint(
    whole, tracks, tmp_path, damage, caplog, monkeypatch
):
    run = copy_of(whole, tmp_path)
    path = run / "model.safetensors"
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"half", "cut": path.read_bytes()[:-100]}[damage])
    monkeypatch.setattr(bsm.train.trainer.Trainer, "update", None)  # the checkpoint holds all steps
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert ("model.safetensors: damaged" in caplog.text) == (damage != "lost")
    assert_same_weights(run, whole)


@pytest.mark.parametrize("damage", ["cut", "text", "zeros", "empty", "another file", "no tensors"])
def test_a_damaged_checkpoint(whole, tracks, tmp_path, damage):
    run = copy_of(whole, tmp_path)
    (run / "model.safetensors").unlink()
    path = run / "state.ckpt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "another file":
        torch.save({"step": 1}, path)
    elif damage == "no tensors":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "zeros": bytes(4096)}[damage])
    refused(run, tracks, r"state.ckpt: [^_]*move it away to train from the start")


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Attacker:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "marker"),)

    assert load_state(save_tensors({"model": {"a": torch.ones(2)}, "step": 3}, tmp_path / "s.ckpt"))["step"] == 3
    torch.save({"x": Attacker()}, tmp_path / "s.ckpt")
    with pytest.raises(InputError, match=r"damaged training checkpoint \(not a checkpoint\)"):  # no advice to run it
        load_state(tmp_path / "s.ckpt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"model": 1}', "\xff"])
def test_a_damaged_run_file(whole, tracks, tmp_path, text):
    run = copy_of(whole, tmp_path)
    (run / "run.json").write_text(text, encoding="latin-1")
    refused(run, tracks, "run.json: damaged .*; choose another folder, or move this one away")


def test_a_lost_run_file(whole, tracks, tmp_path):
    run = copy_of(whole, tmp_path)
    (run / "run.json").unlink()
    refused(run, tracks, "holds a run without run.json")


# ---- a full disk


def test_a_full_disk_keeps_the_last_checkpoint(whole, tracks, tmp_path, monkeypatch):
    run, full = tmp_path / "run", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", before_call(torch.save, 2, failing(full)))
        with pytest.raises(
            InputError, match="cannot be written .No space left.*; the checkpoint of step 2 is kept; then run"
        ) as error:
            train(run, MODEL, CONFIG, tracks, device="cpu")
        assert "\n" not in str(error.value)
    assert load_state(run / "state.ckpt")["step"] == 2
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert_same_weights(run, whole)


def test_files_that_cannot_grow(tracks, tmp_path):
    """A real limit: PyTorch, safetensors and the log fail each in their own way."""
    for limit in (1000, 4000, 20000, 60000):
        run = tmp_path / f"run {limit}"

        def action(run=run, limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(InputError, match="cannot be written .*(checkpoint of step|no checkpoint yet)") as error:
                train(run, MODEL, CONFIG.replace(validate_every=1), tracks, device="cpu")
            assert "\n" not in str(error.value)

        assert forked(action) == 0


# ---- songs and devices


def test_a_song_that_is_lost_while_training_is_named_in_one_line(tmp_path):
    """A loader's process adds its traceback to the message."""
    track = load_tracks(write_songs(tmp_path / "songs"), "train")[0]
    loader = DataLoader([0], collate_fn=lambda _: track.mixture(), num_workers=1)
    for path in (tmp_path / "songs").rglob("*.wav"):
        path.unlink()
    with pytest.raises(InputError, match=str(tmp_path)) as caught:
        Trainer.update(SimpleNamespace(passes=1), iter(loader), None)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_tracks_must_fit_the_model(songs, tracks, tmp_path):
    write_songs(tmp_path / "other", rate=16000)
    write_songs(tmp_path / "stereo", channels=2)
    for name, told in (("other", "16000 Hz, 1 channels"), ("stereo", "8000 Hz, 2 channels")):
        odd = {"train": tracks["train"], "valid": load_tracks(tmp_path / name, "valid")}
        refused(tmp_path / "run", odd, f"track 'c' has {told}; the model wants 8000 Hz, 1")
    refused(tmp_path / "run", {"train": tracks["train"]}, "no tracks in split 'valid'")
    assert not (tmp_path / "run").exists()


def test_a_device_or_precision_that_is_not_here(tracks, tmp_path):
    refused(tmp_path / "run", tracks, "device 'abacus'", device="abacus")
    for precision in ("three-bit", "16-mixed", "bf16-true"):
        told = f"unknown precision '{precision}'; choose one of 32-true, bf16-mixed"
        refused(tmp_path / "run", tracks, told, config=CONFIG.replace(precision=precision))
    if not torch.cuda.is_available():
        refused(tmp_path / "run", tracks, "device 'cuda'", device="cuda")
    assert not (tmp_path / "run").exists()
