"""The benchmark of whole models: what it measures, and that its tables say what the records hold."""

import json

import matplotlib.pyplot as plt
import pytest
import torch
from click.testing import CliRunner

from bsm.cli import cli
from bsm.config import ModelConfig
from bsm.mamba2 import Mamba2
from bsm.model import BSMamba2
from bsm.study.bench import separation as bench
from bsm.study.bench.model import direct_share
from bsm.study.records import plain, read_result

GIB = 2**30
SPEED = [
    {"audio_seconds": s, "model": m, "seconds": t, "peak_bytes": [p, p // 2], "base_bytes": [b, b]}
    for s, m, t, p, b in (
        (8.0, "BSMamba2", [30.0, 32.0], GIB, GIB // 2),
        (8.0, "BS-RoFormer", [45.0, 36.0], 3 * GIB, GIB),
        (16.0, "BSMamba2", [64.0, 66.0], GIB, GIB // 2),
        (16.0, "BS-RoFormer", [96.0, 99.0], 5 * GIB, GIB),
    )
]


def cost(model, operation, seconds, span=8.0):
    return {
        "model": model,
        "audio_seconds": span,
        "operation": operation,
        "kind": bench.kind(operation),
        "calls": 1,
        "seconds": seconds,
        "operations": 0,
    }


@pytest.fixture
def in_this_process(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "_fresh", lambda function, *args: function(*args))
    monkeypatch.setattr(bench, "WARM_UP", 0.05)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mm", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("aten::addcmul_", bench.ELEMENTWISE),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_fft_r2c", "Fourier transforms"),
        ("aten::copy_", "copies"),
        ("aten::silu", bench.ELEMENTWISE),
    ],
)
def test_kinds(operation, kind):
    assert bench.kind(operation) == kind


def test_speed_table():
    table = bench.speed_table(SPEED).set_index(["audio (s)", "model"])
    ours = table.loc[("8", "BSMamba2")]
    assert ours["best (s)"] == 30
    assert ours["seconds per second of audio"] == 30 / 8
    assert ours["BS-RoFormer takes, times"] == 36 / 30
    assert ours["memory in all (GiB)"] == 1
    assert ours["above libraries and weights (GiB)"] == 0.5
    assert table.loc[("16", "BS-RoFormer"), "above libraries and weights (GiB)"] == 4
    assert table.loc[("16", "BS-RoFormer"), "BS-RoFormer takes, times"] == 1


def test_memory_that_the_system_does_not_tell_is_a_gap():
    records = [r | {"peak_bytes": [None], "base_bytes": [None]} for r in SPEED]
    assert bench.speed_table(records)["memory in all (GiB)"].isna().all()


def test_costs_are_each_models_largest_and_their_shares_are_of_everything():
    costs = [cost("BSMamba2", f"aten::op{i}", 10.0 - i / 2) for i in range(12)] + [cost("BS-RoFormer", "aten::mm", 4.0)]
    costs += [cost("BSMamba2", "aten::mm", 100.0, span=16.0)]
    table = bench.cost_table(costs, 8.0)
    ours = table[table["model"] == "BSMamba2"]
    assert list(ours["operation"]) == [f"op{i}" for i in range(bench.TOP)]
    assert ours["share (%)"].iloc[0] == pytest.approx(100 * 10 / sum(10 - i / 2 for i in range(12)))
    assert table[table["model"] == "BS-RoFormer"]["share (%)"].tolist() == [100]


def test_the_difference_is_read_off_the_profile():
    costs = [
        cost("BSMamba2", "aten::mm", 20.0),
        cost("BSMamba2", "aten::mul", 5.0),
        cost("BS-RoFormer", "aten::mm", 18.0),
        cost("BS-RoFormer", "aten::_scaled_dot_product_flash_attention_for_cpu", 9.0),
    ]
    kinds = bench.kind_table(costs).set_index("kind")
    assert kinds.loc["attention", "BSMamba2"] == 0
    text = bench.difference(costs)
    assert "attention: 0.0 s against 9.0 s" in text
    assert "BSMamba2 take 25.0 s and those of BS-RoFormer 27.0 s" in text


def test_both_curves_are_drawn():
    figure, axes = plt.subplots(1, 2)
    bench.draw(axes, SPEED)
    assert [line.get_label() for line in axes[0].lines] == list(bench.MODELS)
    assert axes[1].lines[1].get_ydata().tolist() == [2, 4]
    plt.close(figure)


def test_the_models_take_turns(monkeypatch):
    calls = []

    def fresh(function, *args):
        if function is bench._measure:
            calls.append((args[0], args[2]))
            return {"seconds": float(len(calls)), "peak_bytes": 2, "base_bytes": 1}
        return [] if function is bench._profile else 1e9

    monkeypatch.setattr(bench, "_fresh", fresh)
    values = bench.separation((1.0, 2.0), preset="tiny", repeats=2, profile_seconds=())
    names = list(bench.MODELS)
    assert calls == [(name, span) for span in (1.0, 2.0) for _ in range(2) for name in names]
    assert [r["seconds"] for r in values["speed"]] == [[1, 3], [2, 4], [5, 7], [6, 8]]
    alone = bench.separation((1.0,), preset="tiny", repeats=1, profile_seconds=(), models=names[:1])
    assert [r["model"] for r in alone["speed"]] == list(alone["parameters"]) == names[:1]


def test_command(tmp_path, in_this_process):
    """A run of next to nothing: every field is there, and the tables take it."""
    command = ["bench", "model", "--json", str(tmp_path / "speed.json"), "--preset", "tiny", "--repeats", "1"]
    command += ["--seconds", "0.1", "--profile-seconds", "0.1", "--threads", "1"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    record = read_result(tmp_path / "speed.json")
    values = record["values"]
    assert record["parameters"]["threads"] == 1
    assert [(r["model"], r["audio_seconds"]) for r in values["speed"]] == [(m, 0.1) for m in bench.MODELS]
    assert all(r["peak_bytes"][0] >= r["base_bytes"][0] > 0 for r in values["speed"])
    assert values["parameters"].keys() == bench.MODELS.keys()
    assert values["matmul_rate"] > 1e8
    assert any(r["operation"] == "aten::mm" and r["operations"] > 0 for r in values["costs"])
    kinds = bench.kind_table(values["costs"]).set_index("kind")
    assert kinds.loc["attention", "BS-RoFormer"] > 0 == kinds.loc["attention", "BSMamba2"]
    assert len(bench.cost_table(values["costs"], 0.1)) == 2 * bench.TOP
    json.dumps(plain(values), allow_nan=False)


def test_a_fresh_process_measures_memory():
    if not bench._CLEAR.exists():
        pytest.skip("the system does not tell a process its memory")
    measured = bench._fresh(bench._measure, "BSMamba2", "tiny", 4.0, 1)
    assert measured["peak_bytes"] > measured["base_bytes"] > 0
    assert measured["seconds"] > 0


def test_the_direct_terms_share_is_that_of_the_scans_output():
    """Of every mixer, from what it is given in a pass: nothing without D, nearly all with a large one."""
    torch.manual_seed(0)
    model, mixture = BSMamba2(ModelConfig.preset("tiny")), torch.randn(1, 2, 4410)
    mixers = [module for module in model.modules() if isinstance(module, Mamba2)]
    found = {}
    for weight in (0.0, 1.0, 1e4):
        for mixer in mixers:
            torch.nn.init.constant_(mixer.D, weight)
        found[weight] = direct_share(model, mixture)
    assert len(found[1.0]) == len(mixers)
    assert all(record["direct"] == 0 for record in found[0.0])
    assert all(record["direct"] > 0 for record in found[1.0])
    assert all(record["direct"] == pytest.approx(1, abs=1e-2) for record in found[1e4])
    assert all(record["length"] < 128 and record["without_state"] < 1e-5 for record in found[1.0])  # a single chunk
