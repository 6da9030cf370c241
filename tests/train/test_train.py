"""The training loop, on songs of noise and tones, with a model of a few thousand weights."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bsm.baseline import BSRoformer
from bsm.config import LossConfig, TrainConfig
from bsm.data.mixing import MixingDataset
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.model import BSMamba2
from bsm.train import read_log, train
from bsm.train.journal import Ranking
from bsm.train.trainer import AveragedWeights
from bsm.versions import RECIPE
from bsm.weights.files import load_model
from runs import CONFIG, MODEL, RATE, ROFORMER, assert_same_run, scalars


def test_a_run_leaves_weights_log_and_board(whole):
    records = read_log(whole)
    assert [record["step"] for record in records] == list(range(1, 8))
    assert [r["step"] for r in records if "valid_usdr" in r] == [3, 6, 7]
    assert all(np.isfinite(list(record.values())).all() and record["seconds"] > 0 for record in records)
    state = torch.load(whole / "state.ckpt", weights_only=True)
    assert state["step"] == 7
    # The published weights are the averages.
    model = load_model(whole / "model.safetensors")
    assert model.config == MODEL
    assert all(torch.equal(v, state["averaged"][k]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, state["model"][k]) for k, v in model.state_dict().items())
    card = json.loads((whole / "model.json").read_text())
    assert card["train"] == json.loads(json.dumps(CONFIG.to_dict()))
    songs = {split: [(s["name"], s["samples"]) for s in songs] for split, songs in card["data"].items()}
    assert songs == {"train": [("a", 2 * RATE), ("b", 2 * RATE)], "valid": [("c", 2 * RATE)]}
    assert card["recipe"] == RECIPE
    assert (card["valid_usdr"], card["valid_loss"]) == (records[-1]["valid_usdr"], records[-1]["valid_loss"])
    assert set(card["git"]) == {"revision", "dirty"}
    assert not [path for path in whole.iterdir() if path.name.startswith(".")]
    assert scalars(whole, "loss") == [(r["step"], np.float32(r["loss"])) for r in records]


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
        torch.testing.assert_close(state["averaged"][name], averaged[name], rtol=1e-3, atol=1e-4)


def test_averaged_weights_are_pytorch_s():
    """They equal those of ``AveragedModel`` bit for bit."""
    model = BSMamba2(MODEL)
    ours = AveragedWeights(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    before = copy.deepcopy(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in ours.network.state_dict().items())
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        ours.update()
        theirs.update_parameters(model)
        expected = theirs.module.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in ours.network.state_dict().items())


def test_the_baseline_trains_through_the_same_loop(tracks, tmp_path, train_interrupted):
    config, run = CONFIG.replace(steps=4), tmp_path / "run"
    train_interrupted(run, ROFORMER, config, after=3)
    for folder in (run, tmp_path / "whole"):
        train(folder, ROFORMER, config, tracks, device="cpu")
    assert_same_run(run, tmp_path / "whole")
    model = load_model(run / "model.safetensors")
    assert type(model) is BSRoformer
    assert model.config == ROFORMER
    assert json.loads((run / "model.json").read_text())["network"] == "bs-roformer"
    with pytest.raises(InputError, match="holds another run: network was 'bs-roformer', is 'bsmamba2'; choose"):
        train(run, MODEL, config, tracks, device="cpu")


# ---- the recipe


def test_the_paper_preset_is_the_author_s_recipe():
    """The settings of the author's code, number for number."""
    config = TrainConfig.preset("paper")
    assert (config.batch_size, config.processes, config.accumulate, config.update_segments) == (5, 2, 6, 60)
    epoch = 6000 // config.update_segments
    assert (epoch, config.steps) == (100, 2000 * epoch)
    assert (config.validate_every, config.checkpoint_every) == (epoch, epoch)
    assert (config.lr, config.schedule, config.warmup) == (5e-4, "constant", 0)
    assert (config.clip, config.ema_decay, config.precision, config.segment_seconds) == (3, 0.999, "bf16-mixed", 8)
    assert (config.silence_probability, config.gain, config.transpose) == (0.1, (0.5, 1.5), 0)
    loss = config.loss
    assert (loss.windows, loss.hop_length, loss.min_fft) == ((4096, 2048, 1024, 512, 256), 147, 2048)
    assert (loss.waveform_weight, loss.magnitude, loss.mean, loss.center) == (10, False, False, True)
    assert config.loss == LossConfig()


def test_schedules():
    constant = CONFIG.replace(steps=10, lr=1.0, warmup=4)
    assert [constant.learning_rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = constant.replace(schedule="cosine", steps=12)
    found = [cosine.learning_rate(step) for step in (3, 4, 8, 11, 12)]
    assert found == pytest.approx([1, 1, 0.5, (1 + np.cos(np.pi * 7 / 8)) / 2, 0])


def test_a_schedule_is_followed_and_resumed(tracks, tmp_path, train_interrupted):
    config = CONFIG.replace(schedule="cosine", warmup=2)
    train(tmp_path / "whole", MODEL, config, tracks, device="cpu")
    rates = [record["lr"] for record in read_log(tmp_path / "whole")]
    assert rates == [config.learning_rate(step) for step in range(7)]
    state = torch.load(tmp_path / "whole" / "state.ckpt", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["lr"] == rates[-1]
    train_interrupted(tmp_path / "run", MODEL, config, after=5)
    train(tmp_path / "run", MODEL, config, tracks, device="cpu")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---- which weights are kept


def test_ranking():
    ranking = Ranking(keep=2)
    entered = [ranking.enter(score, step) for step, score in enumerate([1.0, 3.0, 2.0, 0.5, 3.0], start=1)]
    assert entered == [True, True, True, False, True]
    assert ranking.best == [(3.0, 2), (3.0, 5)]  # of equal scores the earlier comes first
    assert ranking.since_best == 3
    assert not ranking.enter(float("nan"), 6)
    ranking.enter(4.0, 7)
    assert (ranking.best, ranking.since_best) == ([(4.0, 7), (3.0, 2)], 0)


def test_the_best_validations_keep_their_weights(tracks, tmp_path):
    config, run = CONFIG.replace(validate_every=1, keep_best=2, lr=0.1), tmp_path / "run"
    train(run, MODEL, config, tracks, device="cpu")
    scores = {record["step"]: record["valid_usdr"] for record in read_log(run)}
    best = sorted(scores, key=lambda step: -scores[step])[:2]
    kept = {path.name for path in (run / "best").iterdir()}
    assert kept == {f"step-{step:07d}.{suffix}" for step in best for suffix in ("safetensors", "json")}
    for step in best:
        path = run / "best" / f"step-{step:07d}.safetensors"
        card = json.loads(path.with_suffix(".json").read_text())
        assert (card["step"], card["valid_usdr"]) == (step, scores[step])
        trained = TrainConfig.from_dict(card["train"])
        again = tmp_path / f"until {step}"
        train(again, MODEL, trained.replace(steps=step), tracks, device="cpu")
        first, second = load_model(path).state_dict(), load_model(again / "model.safetensors").state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_early_stop(tracks, tmp_path):
    """Weights that do not change are not better after two validations than after one."""
    config, run = CONFIG.replace(lr=0.0, validate_every=2, checkpoint_every=100, patience=1), tmp_path / "run"
    weights = train(run, MODEL, config, tracks, device="cpu")
    assert [record["step"] for record in read_log(run)] == [1, 2, 3, 4]
    assert json.loads((run / "model.json").read_text())["step"] == 4
    assert torch.load(run / "state.ckpt", weights_only=True)["step"] == 4
    first = weights.read_bytes()
    weights.unlink()
    assert train(run, MODEL, config, tracks, device="cpu").read_bytes() == first  # no update is made
    assert len(read_log(run)) == 4
