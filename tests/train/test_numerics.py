"""Losses that are not finite, precision, gradients computed twice, validation."""

import copy
import json
import math

import numpy as np
import pytest
import torch

import bsm.mamba2
import bsm.train.trainer
from bsm.data.mixing import validation_segments
from bsm.loss import bsmamba2_loss
from bsm.metrics import usdr
from bsm.model import BSMamba2
from bsm.networks import build
from bsm.train import read_log, train
from bsm.train.distributed import make_fabric
from bsm.train.trainer import recompute_blocks
from runs import CONFIG, MODEL, ROFORMER, assert_same_run


def fail_in(monkeypatch, where, passes):
    """Make the loss or its gradient NaN in some forward passes of the training, counted from 0."""
    calls = 0

    def loss(estimate, target, config):
        nonlocal calls
        value = bsmamba2_loss(estimate, target, config)
        if not torch.is_grad_enabled():
            return value
        calls += 1
        if calls - 1 not in passes:
            return value
        return value * math.nan if where == "loss" else value + 0 * torch.sqrt(0 * estimate.sum())

    monkeypatch.setattr(bsm.train.trainer, "bsmamba2_loss", loss)


@pytest.mark.parametrize(("where", "segments"), [("loss", [[18, 20]]), ("gradient", [[16, 20]])])
def test_a_loss_that_is_not_finite_is_skipped(tracks, tmp_path, monkeypatch, caplog, where, segments):
    run = tmp_path / "run"
    fail_in(monkeypatch, where, passes={9})  # the second of the fifth update
    train(run, MODEL, CONFIG.replace(checkpoint_every=1, ema_decay=0.0), tracks, device="cpu")
    records = read_log(run)
    assert [record.get("skipped") for record in records] == [None] * 4 + [segments] + [None] * 2
    assert math.isnan(records[4]["loss"]) == (where == "loss")
    assert math.isnan(records[4]["grad_norm"])
    assert all(np.isfinite([r["loss"], r["grad_norm"]]).all() for r in records if r["step"] != 5)
    assert f"step 5 skipped: loss or gradient not finite, segments {segments}" in caplog.text
    json.loads((run / "log.jsonl").read_text().splitlines()[4], parse_constant=pytest.fail)  # plain JSON: no NaN
    card = json.loads((run / "model.json").read_text())
    assert (card["step"], card["skipped"]) == (7, 1)
    state = torch.load(run / "state.ckpt", weights_only=True)
    assert state["skipped"] == 1
    assert {int(value["step"]) for value in state["optimizer"]["state"].values()} == {6}


def test_a_skipped_update_leaves_the_weights(tracks, tmp_path, monkeypatch):
    fail_in(monkeypatch, "loss", passes={1})
    config = CONFIG.replace(steps=1)
    train(tmp_path / "run", MODEL, config, tracks, device="cpu")
    torch.manual_seed(CONFIG.seed)
    expected = BSMamba2(MODEL).state_dict()
    found = bsm.load_model(tmp_path / "run" / "model.safetensors").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_too_many_in_a_row_stop_with_the_last_good_checkpoint_kept(tracks, whole, tmp_path, monkeypatch):
    run, config = tmp_path / "run", CONFIG.replace(max_skipped=3)
    train(tmp_path / "whole", MODEL, config, tracks, device="cpu")
    with monkeypatch.context() as patch:
        fail_in(patch, "loss", passes=set(range(8, 99)))  # from the fifth update on; a checkpoint would be due at 6
        told = "not finite in 3 updates in a row, steps 5 to 7; the checkpoint before them is kept"
        with pytest.raises(FloatingPointError, match=told):
            train(run, MODEL, config, tracks, device="cpu")
    assert [record["step"] for record in read_log(run) if "skipped" in record] == [5, 6, 7]
    state = torch.load(run / "state.ckpt", weights_only=True)
    assert (state["step"], state["skipped"]) == (4, 0)
    assert not (run / "model.safetensors").exists()
    train(run, MODEL, config, tracks, device="cpu")
    assert_same_run(run, tmp_path / "whole")


def test_scattered_failures_do_not_stop(tracks, tmp_path, monkeypatch):
    fail_in(monkeypatch, "loss", passes={0, 2, 6, 8, 12})  # updates 1, 2, 4, 5, 7
    train(tmp_path / "run", MODEL, CONFIG.replace(max_skipped=3), tracks, device="cpu")
    assert json.loads((tmp_path / "run" / "model.json").read_text())["skipped"] == 5


def test_under_bfloat16_scan_states_stay_float32(monkeypatch):
    states, steps = [], []

    def spy(**inputs):
        y, _ = scan(**inputs)
        _, state = scan(**inputs | {"final_state": True})
        states.append(state.dtype)
        steps.append((inputs["x"].dtype, inputs["dt"].dtype, inputs["A"].dtype))
        return y, None

    scan = bsm.mamba2.scan
    monkeypatch.setattr(bsm.mamba2, "scan", spy)
    with torch.autocast("cpu", torch.bfloat16):
        BSMamba2(MODEL)(torch.randn(1, 1, 2000)).sum().backward()
    assert set(states) == {torch.float32}
    assert set(steps) == {(torch.bfloat16, torch.float32, torch.float32)}


@pytest.mark.parametrize("config", [MODEL, ROFORMER], ids=["bsmamba2", "bs-roformer"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_recomputing_leaves_the_gradients(config, precision):
    """Bit for bit, with noise inside the blocks too; and less is kept for the backward pass."""
    torch.manual_seed(0)
    plain = build(config.replace(depth=2))
    recomputed = copy.deepcopy(plain)
    recompute_blocks(recomputed)
    mixture, kept = torch.randn(2, 1, 3000), []
    for model in (plain, recomputed):
        for module in model.modules():
            if type(module) is torch.nn.Linear and module.in_features != module.out_features:
                module.register_forward_hook(lambda _, __, output: torch.dropout(output, 0.1, True))
        torch.manual_seed(1)
        kept.append(0)

        def count(tensor):
            kept[-1] += tensor.numel()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision != torch.float32):
            loss = model(mixture).square().mean()
        loss.backward()
    pairs = list(zip(plain.parameters(), recomputed.parameters(), strict=True))
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs if a.requires_grad)
    assert any(a.grad.any() for a, _ in pairs if a.requires_grad)
    assert kept[1] < 0.7 * kept[0]


def test_bfloat16_trains_float32_weights(tracks, tmp_path):
    train(tmp_path / "run", MODEL, CONFIG.replace(steps=2, precision="bf16-mixed"), tracks, device="cpu")
    state = torch.load(tmp_path / "run" / "state.ckpt", weights_only=True)
    assert all(value.dtype == torch.float32 for value in state["model"].values())
    assert all(np.isfinite(record["loss"]) for record in read_log(tmp_path / "run"))


def test_validation_scores_songs_of_the_averaged_weights(tracks):
    trainer = bsm.train.trainer.Trainer(make_fabric("cpu", "32-true"), BSMamba2(MODEL), CONFIG)
    averaged = copy.deepcopy(trainer.averaged.network)
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
    # A song with silent vocals has no uSDR, but its loss counts.
    silent = [(mixture, torch.zeros_like(vocals)) for mixture, vocals in segments[:4]] + segments[4:]
    without = trainer.validate(silent)
    assert without["valid_usdr"] == pytest.approx(np.mean(expected[1:]), abs=1e-3)
    assert without["valid_loss"] != found["valid_loss"]
    assert np.isnan(trainer.validate(silent[:4])["valid_usdr"])
