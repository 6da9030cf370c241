"""The training loop, on songs of noise and tones, with a model of a few thousand weights."""

import copy
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bsm.train
from bsm import audio
from bsm.bands import equal
from bsm.checkpoint import load_model
from bsm.config import LossConfig, ModelConfig, StftConfig, TrainConfig
from bsm.data.mixing import MixingDataset
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.model import BSMamba2
from bsm.train import read_log, train

RATE = 8000
MODEL = ModelConfig(
    sample_rate=RATE,
    channels=1,
    stft=StftConfig(n_fft=256, hop_length=64),
    bands=equal(129, 5),
    dim=8,
    depth=1,
    d_state=8,
    headdim=8,
    expand=2,
    mask_expansion=1,
)
CONFIG = TrainConfig(
    steps=7,
    batch_size=2,
    accumulate=2,
    segment_seconds=0.25,
    lr=2e-3,
    clip=0.5,
    ema_decay=0.9,
    validate_every=3,
    checkpoint_every=2,
    workers=0,
    precision="32-true",
    loss=LossConfig(windows=(256, 128), hop_length=64, min_fft=256),
)


def write_songs(root: Path, *, rate: int = RATE, channels: int = 1) -> Path:
    """Write two songs to learn from and one to validate on: a gliding tone over bursts of noise, 2 s each."""
    for index, (split, name) in enumerate([("train", "a"), ("train", "b"), ("valid", "c")]):
        rng = np.random.default_rng(index)
        time = np.arange(2 * rate) / rate
        sounds = {
            "vocals": 0.3 * np.sin(2 * np.pi * (300 + 100 * index + 50 * time) * time),
            "drums": 0.2 * rng.standard_normal(len(time)) * (np.sin(2 * np.pi * 3 * time) > -0.5),
        }
        folder = root / split / name
        folder.mkdir(parents=True)
        for source, sound in sounds.items():
            audio.write(folder / f"{source}.wav", np.tile(sound, (channels, 1)), rate)
    return root


@pytest.fixture(scope="module", autouse=True)
def small_and_steady():
    """One thread, for a model so small; and a fingerprint that an edit during the tests does not change."""
    threads, fingerprint = torch.get_num_threads(), bsm.train._code_fingerprint
    torch.set_num_threads(1)
    bsm.train._code_fingerprint = lambda: "0123456789abcdef"
    yield fingerprint
    torch.set_num_threads(threads)
    bsm.train._code_fingerprint = fingerprint


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="module")
def tracks(songs):
    return {split: load_tracks(songs, split) for split in ("train", "valid")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tracks):
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, MODEL, CONFIG, tracks, device="cpu")
    return run


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch, steps):
    """Make the training raise in the middle of the update after ``steps``."""
    calls = 0

    def loss(*arguments):
        nonlocal calls
        calls += 1
        if calls > steps * CONFIG.accumulate + 1:
            raise Interrupted
        return bsmamba2_loss(*arguments)

    monkeypatch.setattr(bsm.train, "bsmamba2_loss", loss)


def without_times(run):
    return [{k: v for k, v in line.items() if k not in ("seconds", "waited")} for line in read_log(run)]


def assert_same_run(run, other):
    """Weights, training state and log of two runs are equal bit for bit, but for the clock."""
    states = [torch.load(folder / "state.ckpt", weights_only=True) for folder in (run, other)]
    for part in ("model", "averaged"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    for mine, theirs in zip(*(s["optimizer"]["state"].values() for s in states), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    first, second = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert without_times(run) == without_times(other)


# ---- what a run is


def test_a_run_leaves_weights_log_and_board(whole):
    records = read_log(whole)
    assert [record["step"] for record in records] == list(range(1, 8))
    assert [r["step"] for r in records if "valid_usdr" in r] == [3, 6, 7]
    assert all(np.isfinite(list(record.values())).all() and record["seconds"] > 0 for record in records)
    state = torch.load(whole / "state.ckpt", weights_only=True)
    assert state["step"] == 7
    # The published weights are the averaged ones.
    model = load_model(whole / "model.safetensors")
    assert model.config == MODEL
    assert all(torch.equal(v, state["averaged"][f"module.{k}"]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, state["model"][k]) for k, v in model.state_dict().items())
    card = json.loads((whole / "model.json").read_text())
    assert card["train"] == json.loads(json.dumps(CONFIG.to_dict()))
    assert card["data"] == {"train": [["a", 2 * RATE], ["b", 2 * RATE]], "valid": [["c", 2 * RATE]]}
    assert not [path for path in whole.iterdir() if path.name.startswith(".")]
    assert scalars(whole, "loss") == [(r["step"], np.float32(r["loss"])) for r in records]


def scalars(run, name):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, np.float32(event.value)) for event in events.Scalars(name)]


def test_loss_falls(tracks, tmp_path):
    config = CONFIG.replace(steps=60, lr=1e-2, validate_every=60, checkpoint_every=60, batch_size=4, accumulate=1)
    train(tmp_path / "run", MODEL, config, tracks, device="cpu")
    losses = [record["loss"] for record in read_log(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_the_loop_is_the_rule_written_out(whole, tracks):
    """Accumulation, clipping, AdamW and the average, in plain PyTorch."""
    torch.manual_seed(CONFIG.seed)
    model = BSMamba2(MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.lr)
    dataset = MixingDataset(tracks["train"], segment=2000, seed=0, length=28)
    averaged, records, item = None, read_log(whole), 0
    for record in records:
        optimizer.zero_grad()
        total = 0.0
        for _ in range(CONFIG.accumulate):
            mixture, vocals = (torch.stack(v) for v in zip(*(dataset[item + i] for i in range(2)), strict=True))
            item += 2
            loss = bsmamba2_loss(model(mixture), vocals, CONFIG.loss) / CONFIG.accumulate
            loss.backward()
            total += loss.item()
        gradients = [p.grad for p in model.parameters()]
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        for gradient in gradients:
            gradient *= min(1.0, CONFIG.clip / norm)
        optimizer.step()
        now = {name: p.detach().clone() for name, p in model.named_parameters()}
        averaged = now if averaged is None else {k: 0.9 * v + 0.1 * now[k] for k, v in averaged.items()}
        assert record["loss"] == pytest.approx(total, rel=1e-4)
        assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    assert max(record["grad_norm"] for record in records) > CONFIG.clip  # so that clipping had something to do
    state = torch.load(whole / "state.ckpt", weights_only=True)
    for name, value in now.items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(state["averaged"][f"module.{name}"], averaged[name], rtol=1e-3, atol=1e-4)


def test_clipping_bounds_the_step(tracks, tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments, **options):
        seen.append(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]])))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(tmp_path / "run", MODEL, CONFIG.replace(steps=2, clip=0.01), tracks, device="cpu")
    assert len(seen) == 2
    assert all(norm.item() == pytest.approx(0.01, rel=1e-3) for norm in seen)
    assert all(record["grad_norm"] > 0.1 for record in read_log(tmp_path / "run"))  # logged as it was before clipping


def test_loader_workers_do_not_change_the_weights(whole, tracks, tmp_path):
    train(tmp_path / "run", MODEL, CONFIG.replace(workers=2), tracks, device="cpu")
    assert_same_run(tmp_path / "run", whole)


# ---- stopping and going on


@pytest.mark.parametrize(("steps", "workers"), [(0, 0), (1, 0), (2, 1), (5, 0)])
def test_an_interrupted_run_ends_as_the_whole_one(whole, tracks, tmp_path, monkeypatch, steps, workers):
    run, config = tmp_path / "run", CONFIG.replace(workers=workers)
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Interrupted):
            train(run, MODEL, config, tracks, device="cpu")
    assert not (run / "model.safetensors").exists()
    torch.manual_seed(99)  # what the process did before must not matter
    train(run, MODEL, config, tracks, device="cpu")
    assert_same_run(run, whole)
    assert [step for step, _ in scalars(run, "loss")] == list(range(1, 8))


def test_interrupted_again_and_again(whole, tracks, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for _ in range(3):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 2)
            with pytest.raises(Interrupted):
                train(run, MODEL, CONFIG, tracks, device="cpu")
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert_same_run(run, whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import bsm.train
sys.path.insert(0, sys.argv[1])
import test_train as t

calls = 0
def save(state, path):
    global calls
    calls += 1
    if calls == 3:  # the checkpoint of step 6, half written
        Path(path).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    keep(state, path)

keep, torch.save = torch.save, save
tracks = {split: t.load_tracks(Path(sys.argv[2]), split) for split in ("train", "valid")}
torch.set_num_threads(1)
bsm.train._code_fingerprint = lambda: "0123456789abcdef"
bsm.train.train(Path(sys.argv[3]), t.MODEL, t.CONFIG.replace(workers=1), tracks, device="cpu")
"""


def test_a_killed_process_goes_on_where_it_stopped(whole, songs, tracks, tmp_path):
    run = tmp_path / "run"
    arguments = [Path(__file__).parent, songs, run]
    process = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert torch.load(run / "state.ckpt", weights_only=True)["step"] == 4
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # lines past the checkpoint, one of them torn
    train(run, MODEL, CONFIG.replace(workers=1), tracks, device="cpu")
    assert_same_run(run, whole)
    assert not list(run.glob(".*"))  # the half checkpoint is gone


def test_a_finished_run_is_found(whole, tracks, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    monkeypatch.setattr(bsm.train, "bsmamba2_loss", None)  # nothing is computed
    assert train(whole, MODEL, CONFIG, tracks, device="cpu") == whole / "model.safetensors"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_lost_weights_are_made_again_from_the_last_checkpoint(whole, tracks, tmp_path, monkeypatch):
    run = copy_of(whole, tmp_path)
    (run / "model.safetensors").unlink()
    monkeypatch.setattr(bsm.train._Trainer, "update", None)  # no step is taken
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert_same_run(run, whole)


def copy_of(run, folder):
    return Path(shutil.copytree(run, folder / "run"))


# ---- refusals


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
    original = bsm.train._code_fingerprint()
    monkeypatch.setattr(bsm.train, "_code_fingerprint", lambda: "changed")
    train(run, MODEL, config, tracks, device="cpu")
    assert len(read_log(run)) == 1
    assert contents(tmp_path / f"run.code-{original}") == first
    # There and back again: each run is kept under a name of its own.
    for code in (original, "changed", original):
        monkeypatch.setattr(bsm.train, "_code_fingerprint", lambda code=code: code)
        train(run, MODEL, config, tracks, device="cpu")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run", f"run.code-{original}", f"run.code-{original}-2", "run.code-changed", "run.code-changed-2"}
    assert json.loads((run / "run.json").read_text())["code"] == original


def test_the_fingerprint_covers_the_sources(small_and_steady, tmp_path, monkeypatch):
    root = Path(bsm.train.__file__).parent
    assert all((root / f"{name}.py").is_file() or (root / name).is_dir() for name in bsm.train.SOURCES)
    copied = Path(shutil.copytree(root, tmp_path / "bsm", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(bsm.train.bsm, "__file__", str(copied / "__init__.py"))
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
    refused(tmp_path / "run", tracks, "at least one sample and one item", config=CONFIG.replace(steps=0))
    assert not (tmp_path / "run").exists()


# ---- when numbers fail


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_kept(tracks, whole, tmp_path, monkeypatch, where):
    calls = 0

    def loss(estimate, target, config):
        nonlocal calls
        calls += 1
        value = bsmamba2_loss(estimate, target, config)
        if calls == 4 * CONFIG.accumulate + 2:  # validation after step 3 takes one call, too
            return value * float("nan") if where == "loss" else value + 0 * torch.sqrt(0 * estimate.sum())
        return value

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(bsm.train, "bsmamba2_loss", loss)
        with pytest.raises(FloatingPointError, match=rf"the {where} of step 5 .*the last checkpoint is kept"):
            train(run, MODEL, CONFIG, tracks, device="cpu")
    state = torch.load(run / "state.ckpt", weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not (run / "model.safetensors").exists()
    train(run, MODEL, CONFIG, tracks, device="cpu")
    assert_same_run(run, whole)


def test_bfloat16_trains_float32_weights(tracks, tmp_path):
    train(tmp_path / "run", MODEL, CONFIG.replace(steps=2, precision="bf16-mixed"), tracks, device="cpu")
    state = torch.load(tmp_path / "run" / "state.ckpt", weights_only=True)
    assert all(value.dtype == torch.float32 for value in state["model"].values())
    assert all(np.isfinite(record["loss"]) for record in read_log(tmp_path / "run"))


def test_validation_scores_songs_of_the_averaged_weights(tracks):
    from bsm.data.mixing import validation_segments
    from bsm.metrics import usdr

    trainer = bsm.train._Trainer(bsm.train._fabric("cpu", "32-true"), BSMamba2(MODEL), CONFIG)
    averaged = copy.deepcopy(trainer.averaged.module)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    segments = validation_segments([*tracks["valid"], *tracks["train"]], 2000, per_track=4)
    found = trainer.validate(segments)
    expected = []
    with torch.no_grad():
        for song in (segments[i : i + 4] for i in (0, 4, 8)):
            estimates = torch.cat([averaged(mixture[None])[0] for mixture, _ in song], dim=-1)
            expected.append(usdr(torch.cat([vocals for _, vocals in song], dim=-1), estimates))
    assert found["valid_usdr"] == pytest.approx(np.mean(expected), abs=1e-3)
