"""Folders, songs and devices that a training refuses, in one line and with nothing changed."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bsm
import bsm.train.run
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.train import read_log, train
from runs import CONFIG, MODEL, copy_of, write_songs


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(run, tracks, match, *, model=MODEL, config=CONFIG, device="cpu"):
    """Training is refused in one line, and the folder stays as it was."""
    before = contents(run)
    with pytest.raises(InputError, match=match) as error:
        train(run, model, config, tracks, device=device)
    assert "\n" not in str(error.value)
    assert contents(run) == before


def test_another_configuration_in_the_folder(whole, tracks):
    refused(whole, tracks, "holds a run with another train; choose another", config=CONFIG.replace(lr=1e-4))
    refused(whole, tracks, "holds a run with another model", model=MODEL.replace(depth=2))
    refused(whole, {"train": tracks["train"][:1], "valid": tracks["valid"]}, "holds a run with another data")


def test_changed_code_sets_the_run_aside(whole, tracks, tmp_path, monkeypatch):
    run, config = copy_of(whole, tmp_path), CONFIG.replace(steps=1)
    first = contents(run)
    (run / "run.json").write_text((run / "run.json").read_text().replace('"steps": 7', '"steps": 1'))
    first |= {Path("run.json"): (run / "run.json").read_bytes()}
    original = bsm.train.run.code_fingerprint()
    monkeypatch.setattr(bsm.train.run, "code_fingerprint", lambda: "changed")
    train(run, MODEL, config, tracks, device="cpu")
    assert len(read_log(run)) == 1
    assert contents(tmp_path / f"run.code-{original}") == first
    # There and back again: each run is kept under a name of its own.
    for code in (original, "changed", original):
        monkeypatch.setattr(bsm.train.run, "code_fingerprint", lambda code=code: code)
        train(run, MODEL, config, tracks, device="cpu")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run", f"run.code-{original}", f"run.code-{original}-2", "run.code-changed", "run.code-changed-2"}
    assert json.loads((run / "run.json").read_text())["code"] == original


def test_the_fingerprint_leaves_out_only_what_weights_do_not_depend_on():
    """Whatever training imports is in it, reads and writes files, or scores: a new score is no other training."""
    code = "import sys, bsm.train.loop, bsm.networks; print([m[4:] for m in sys.modules if m.startswith('bsm.')])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.replace(".", "/") for name in ast.literal_eval(output)}
    sources = bsm.train.run.SOURCES
    left = {name for name in loaded if not any(name == s or name.startswith(f"{s}/") for s in sources)}
    assert left == {"author", "checkpoint", "data", "download", "errors", "files", "inert", "metrics", "weights"}


def test_the_fingerprint_covers_the_sources(small_and_steady, tmp_path, monkeypatch):
    root = Path(bsm.__file__).parent
    assert all((root / f"{name}.py").is_file() or (root / name).is_dir() for name in bsm.train.run.SOURCES)
    copied = Path(shutil.copytree(root, tmp_path / "bsm", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(bsm, "__file__", str(copied / "__init__.py"))
    before = small_and_steady()
    assert before == small_and_steady()
    (copied / "cli.py").write_text("# of no influence on the weights")
    assert small_and_steady() == before
    for name in ("model.py", "scan/chunked.py", "data/mixing.py"):
        with (copied / name).open("a") as file:
            file.write("# changed")
        assert small_and_steady() != before
        before = small_and_steady()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "another file", "no tensors"])
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
        path.write_text("" if damage == "empty" else "hello")
    refused(run, tracks, "state.ckpt: .*delete it to train from the start")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"model": 1}', "\xff"])
def test_a_damaged_run_file(whole, tracks, tmp_path, text):
    run = copy_of(whole, tmp_path)
    (run / "run.json").write_text(text, encoding="latin-1")
    refused(run, tracks, r"run.json: damaged|holds a run with another")


def test_a_lost_run_file(whole, tracks, tmp_path):
    run = copy_of(whole, tmp_path)
    (run / "run.json").unlink()
    refused(run, tracks, "holds a run without run.json")


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
        told = f"precision '{precision}' cannot be trained in; choose one of 32-true, bf16-mixed"
        refused(tmp_path / "run", tracks, told, config=CONFIG.replace(precision=precision))
    if not torch.cuda.is_available():
        refused(tmp_path / "run", tracks, "device 'cuda'", device="cuda")
    assert not (tmp_path / "run").exists()
