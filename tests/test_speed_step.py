"""The profile of a training step: every moment is counted once, to the right part, and the step is a real one."""

import json
from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from bsm import audio
from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.data.tracks import folder_tracks
from bsm.loss import bsmamba2_loss
from bsm.mamba2 import Mamba2
from bsm.model import BSMamba2
from bsm.scan import scan
from bsm.study import step_profile
from bsm.study.records import read_result
from bsm.study.speed import parts, spectra, step
from bsm.study.speed.scan import frames, inputs
from bsm.study.speed.yardsticks import MonoSTFT, OtherScan, indexed_loop, plain_loss
from bsm.study.unofficial import REDUCED_LOSS

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 0.1


def test_scans_that_cannot_run_are_named_and_the_others_measured(monkeypatch, caplog):
    monkeypatch.setattr(
        step_profile, "available", lambda _: {"triton": "needs mamba-ssm", "chunked": None, "quadratic": None}
    )
    tried = []
    monkeypatch.setattr(step, "breakdown", lambda variants, *_, **__: tried.append([v.scan for v in variants]) or [])
    for name in ("losses", "transforms"):
        monkeypatch.setattr(spectra, name, lambda *_, **__: [])
    options = {"preset": "tiny", "seconds": 1.0, "repeats": 1, "batch": 1}
    step_profile.measure(**options, sizes=[("tiny", 1.0, 1)], device="cuda")
    assert tried[0] == ["chunked", "quadratic"]
    assert [record.getMessage() for record in caplog.records] == ["without the scan triton: it needs mamba-ssm"]


@pytest.fixture(scope="module")
def values(tmp_path_factory, invoke):
    """What `bsm bench step` measures of next to nothing."""
    path = tmp_path_factory.mktemp("bench") / "step.json"
    command = ["bench", "step", "--preset", "tiny", "--seconds", SECONDS, "--repeats", "2", "--json", path]
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    record = read_result(path)
    assert record["parameters"]["device"] == "cpu"
    assert json.loads(done.stdout) == record["values"]
    return record["values"]


class Slow(torch.autograd.Function):
    """Doubles; takes 2 s forward and 5 s backward on :func:`moments`, where all else takes no time."""

    now = 0.0

    @staticmethod
    def forward(ctx, x):
        Slow.now += 2
        return x * 2

    @staticmethod
    def backward(ctx, dy):
        Slow.now += 5
        return dy * 2


@pytest.fixture
def moments(monkeypatch):
    """The time of the clock is that of :class:`Slow`, so that a loaded machine changes nothing."""
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=lambda: Slow.now))


@pytest.mark.usefixtures("moments")
def test_a_clock_counts_forward_and_backward_to_the_part():
    class Inner(nn.Module):
        def forward(self, x, *, y):
            return Slow.apply(x) + y

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x * 3, y=x) * 5

    clock, outer = parts.Clock(), Outer()
    x = torch.ones(3, requires_grad=True)
    with clock.follow(outer, "outer"), clock.follow(outer.inner, "inner"):
        clock.switch("before")
        y = outer(x)
        y.sum().backward()
        clock.switch(None)
    assert x.grad.tolist() == [35.0] * 3  # (2 * 3 + 1) * 5
    outer(x).sum().backward()  # is not counted
    assert {key: seconds for key, seconds in clock.seconds.items() if seconds} == {
        ("inner", "forward"): 2,
        ("inner", "backward"): 5,
    }


def test_the_clock_changes_no_gradient():
    torch.manual_seed(0)
    model = BSMamba2(ModelConfig.preset("tiny")).double()
    mixture, vocals = torch.randn(2, 1, 2, 4000, dtype=torch.float64)

    def gradients(clock):
        model.zero_grad()
        with parts.timed_parts(model, clock) if clock else nullcontext():
            bsmamba2_loss(model(mixture), vocals).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain, clock = gradients(None), parts.Clock()
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(clock), strict=True))
    directions = {part: {d for p, d in clock.seconds if p == part} for part in parts.PARTS}
    for part in (parts.SCAN, parts.CONV, parts.PRODUCTS, parts.ELEMENTWISE):
        assert directions[part] == {"forward", "backward"}, part
    counted = dict(clock.seconds)
    gradients(None)
    assert clock.seconds == counted  # the hooks are gone


@pytest.mark.usefixtures("moments")
@pytest.mark.parametrize(("name", "part"), [("ssm", parts.SCAN), ("conv1d", parts.CONV), ("out_proj", parts.PRODUCTS)])
def test_each_layers_time_is_its_parts(name, part):
    """A slow layer shows up under its part's name, in both directions."""
    model = BSMamba2(ModelConfig.preset("tiny"))
    mixers = [module for module in model.modules() if isinstance(module, Mamba2)]
    for mixer in mixers:
        getattr(mixer, name).register_forward_hook(lambda _, __, y: Slow.apply(y))
    clock = parts.Clock()
    with parts.timed_parts(model, clock):
        model(torch.randn(1, 2, 2000)).square().mean().backward()
    assert len(mixers) == 8
    counted = {key: seconds for key, seconds in clock.seconds.items() if seconds}
    assert counted == {(part, "forward"): 8 * 2, (part, "backward"): 8 * 5}


def test_a_step_is_the_sum_of_its_parts(values):
    before, _, ours = values["variants"]
    assert [r["variant"] for r in values["variants"]] == [v.name for v in step.VARIANTS]
    assert [r["scan"] for r in values["backends"]] == ["chunked", "quadratic", "sequential"]
    for record in values["variants"] + values["backends"]:
        total = sum(step.part_seconds(record, part) for part in parts.PARTS)
        np.testing.assert_allclose(total, record["seconds"])
        assert len(record["seconds"]) == 2
        for part in parts.PARTS:
            assert (step.part_seconds(record, part) > 0).all(), part
    assert (step.part_seconds(before, parts.SCAN) > step.part_seconds(ours, parts.SCAN)).all()


def test_a_case_that_does_not_fit_is_left_out(monkeypatch):
    config = ModelConfig.preset("tiny")
    length = frames(config, 1.0)
    assert length == BSMamba2(config).stft(torch.zeros(1, 2, 44100)).shape[-1]
    # Three float32 states of every head, row and step, in eight mixers.
    assert step.state_bytes(config, 1.0, 2) == 3 * 4 * 2 * 62 * length * 2 * 32 * 32 * 8
    monkeypatch.setattr(step, "LARGEST", 1)
    variants = [step.Variant(name, name) for name in ("sequential", "chunked")]
    kept = step.breakdown(variants, "tiny", seconds=SECONDS, batch=1, repeats=1)
    assert [r["variant"] for r in kept] == ["chunked"]


def test_a_step_is_the_trainings_step():
    """One step moves the weights as the same update written out does."""
    config = TrainConfig(batch_size=1, precision="32-true", lr=1e-3, clip=0.5)
    mixture, vocals = 0.1 * torch.randn(2, 1, 2, 4000)
    taken = step.Step(step.OURS, ModelConfig.preset("tiny"), config, [(mixture, vocals)])
    torch.manual_seed(config.seed)
    model = BSMamba2(ModelConfig.preset("tiny"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    taken(parts.Clock())
    bsmamba2_loss(model(mixture), vocals).backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    for got, want in zip(taken.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-7)
    assert all(p.grad is None for p in taken.model.parameters())


@pytest.mark.parametrize("reverse", [False, True])
def test_the_indexed_loop_takes_the_place_of_a_scan(reverse):
    values = inputs(2, 9, ModelConfig.preset("tiny"))
    want, _ = scan(**values, reverse=reverse, backend="sequential")
    torch.testing.assert_close(OtherScan(indexed_loop, reverse)(**values), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [LossConfig(), spectra.SEED_LOSS, REDUCED_LOSS])
def test_the_plain_loss_is_the_loss(config):
    estimate, target = torch.randn(2, 1, 2, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = bsmamba2_loss(estimate, target, config)
    got = plain_loss(estimate.float(), target.float(), config)
    torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-6)


def test_the_described_loss_adds_up_its_kinds():
    estimate, target = torch.randn(2, 1, 2, 5000, generator=torch.Generator().manual_seed(0))
    described = spectra.LOSSES[spectra.DESCRIBED_LOSS](estimate, target)
    alone = [plain_loss(estimate, target, spectra.SEED_LOSS, [kind]) for kind in (torch.abs, torch.real, torch.imag)]
    waveform = spectra.SEED_LOSS.waveform_weight * (estimate - target).abs().mean()
    torch.testing.assert_close(described, sum(alone) - 2 * waveform)
    flipped = plain_loss(-target, target, spectra.SEED_LOSS.replace(waveform_weight=0), [torch.abs])
    assert flipped == pytest.approx(0, abs=1e-5) and described > alone[0]


def test_mono_feeds_the_average_to_both_channels():
    stft = BSMamba2(ModelConfig.preset("tiny")).stft
    wave = torch.randn(1, 2, 4000)
    spec = MonoSTFT(stft)(wave)
    torch.testing.assert_close(spec[:, 0], stft(wave.mean(1)))
    assert torch.equal(spec[:, 0], spec[:, 1])


def test_losses_and_transforms(values, monkeypatch):
    cases = ["stereo", "mono", spectra.ANEW, spectra.EACH, spectra.AVERAGED]
    assert sorted(values["stft"]["seconds"]) == sorted(cases)
    assert [r["loss"] for r in values["losses"]] == list(spectra.LOSSES)
    assert [r["transforms"] for r in values["losses"]] == [10, 10, 6, 10, 5]
    calls, windows = (mock.Mock(wraps=function) for function in (torch.stft, torch.hann_window))
    monkeypatch.setattr(torch, "stft", calls)
    monkeypatch.setattr(torch, "hann_window", windows)
    rounds = 3 + spectra.transforms(0.2, repeats=2)["rounds_repeated"]  # with the first
    # One call, or one a channel; a window for each but for the two cases that keep one.
    assert (calls.call_count, windows.call_count) == (rounds * (1 + 1 + 2 + 2 + 1), rounds * (1 + 1 + 2) + 1)


def test_side_shares(tmp_path):
    left = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    (tmp_path / "song").mkdir()
    for name, right in (("vocals", left), ("other", -left)):
        audio.write(tmp_path / "song" / f"{name}.wav", np.stack([left, right]), 44100)
    (shares,) = spectra.side_shares(folder_tracks(tmp_path, "test"))
    assert shares["vocals"] == pytest.approx(0, abs=1e-9)
    assert shares["mixture"] == pytest.approx(0.5)  # the left channel alone


def test_tables_and_figure(values):
    records = values["variants"]
    table = step_profile.memory_table(["tiny"])
    assert len(table) == 2 * len(step_profile.LOADS)
    off, on = (table[table["checkpointing"] == way]["at the peak (GiB)"].to_numpy() for way in ("off", "on"))
    assert (on < off).all() and (on > table["between steps (GiB)"].iloc[0]).all()
    claims = step_profile.claims_table(records).set_index("part")
    assert claims.loc[parts.SCAN, "claimed before (s)"] == "40"
    assert "whole step" in claims.index
    table = step_profile.breakdown_table(records)
    shares = table[[f"{part} (%)" for part in parts.PARTS]].sum(axis=1)
    np.testing.assert_allclose(shares, 100)
    assert spectra.loss_table(values["losses"])["times the speed of the first"].iloc[0].startswith("1.00x")
    for percent, whole in ((False, [np.mean(r["seconds"]) for r in records]), (True, 100)):
        _, ax = plt.subplots()
        step_profile.draw(ax, records, percent=percent)
        ends = [max(bar.get_x() + bar.get_width() for bar in row) for row in zip(*ax.containers[:8], strict=True)]
        np.testing.assert_allclose(ends, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_the_loss_is_a_small_part_of_a_step(seconds):
    (record,) = step.breakdown([step.OURS], "small", seconds=seconds, batch=2, repeats=3)
    assert step_profile.shares(record, parts.LOSS).estimate <= 15
