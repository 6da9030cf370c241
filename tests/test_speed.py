"""The benchmarks of scans, blocks and whole models: what and where they measure, and what their tables say."""

import json
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch

from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.mamba2 import Mamba2
from bsm.model import BSMamba2
from bsm.scan import EXACT, available
from bsm.study import records
from bsm.study.records import plain, read_result
from bsm.study.scans import direct_share
from bsm.study.speed import blocks, scan, timer, yardsticks
from bsm.study.speed import model as bench

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
    return {"model": model, "audio_seconds": span, "operation": operation, "calls": 1, "seconds": seconds}


@pytest.fixture
def in_this_process(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "fresh", lambda function, *args: function(*args))
    monkeypatch.setattr(bench, "WARM_UP", 0.05)
    yield
    torch.set_num_threads(threads)


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
    untold = [r | {"peak_bytes": [None], "base_bytes": [None]} for r in SPEED]  # as outside Linux
    assert bench.speed_table(untold)["memory in all (GiB)"].isna().all()


def test_costs_are_each_models_largest_and_their_shares_are_of_everything():
    costs = [cost("BSMamba2", f"aten::op{i}", 10.0 - i / 2) for i in range(12)] + [cost("BS-RoFormer", "aten::mm", 4.0)]
    costs += [cost("BSMamba2", "aten::mm", 100.0, span=16.0)]
    table = bench.cost_table(costs, 8.0)
    ours = table[table["model"] == "BSMamba2"]
    assert list(ours["operation"]) == [f"op{i}" for i in range(bench.TOP)]
    assert ours["share (%)"].iloc[0] == pytest.approx(100 * 10 / sum(10 - i / 2 for i in range(12)))
    assert table[table["model"] == "BS-RoFormer"]["share (%)"].tolist() == [100]


def test_operations_are_summed_by_kind_of_work():
    operations = {
        "matrix products": ["aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"],
        "attention": ["aten::_scaled_dot_product_flash_attention_for_cpu"],
        "Fourier transforms": ["aten::_fft_r2c"],
        "copies": ["aten::copy_", "mkldnn::_reorder_linear_weight"],
        bench.ELEMENTWISE: ["aten::addcmul_", "aten::silu"],
    }
    costs = [cost("BSMamba2", name, 2.0) for names in operations.values() for name in names]
    costs.append(cost("BS-RoFormer", "aten::mm", 18.0))
    kinds = bench.kind_table(costs).set_index("kind")
    assert kinds["BSMamba2"].to_dict() == {kind: 2 * len(names) for kind, names in operations.items()}
    assert kinds["BS-RoFormer"].to_dict() == dict.fromkeys(operations, 0) | {"matrix products": 18}


def test_both_curves_are_drawn():
    figure, axes = plt.subplots(1, 2)
    bench.draw(axes, SPEED)
    assert [line.get_label() for line in axes[0].lines] == list(bench.MODELS)
    assert axes[1].lines[1].get_ydata().tolist() == [2, 4]


def test_the_models_take_turns_in_processes_of_their_own(monkeypatch):
    calls = []

    def fresh(function, name, preset, span, threads):
        calls.append((name, span))
        return 10 + len(calls) / 10, 10 + len(calls) / 10, 1, 2

    monkeypatch.setattr(bench, "fresh", fresh)
    values = bench.separation((1.0, 2.0), preset="tiny", repeats=2, profile_seconds=())
    assert calls == [(name, span) for span in (1.0, 2.0) for _ in range(2) for name in bench.MODELS]
    assert [r["seconds"] for r in values["speed"]] == [[10.1, 10.3], [10.2, 10.4], [10.5, 10.7], [10.6, 10.8]]
    assert all(r["peak_bytes"] == [2, 2] and r["base_bytes"] == [1, 1] for r in values["speed"])


def test_command(tmp_path, in_this_process, invoke):
    """A run of next to nothing: every field is there, and the tables take it."""
    command = ["bench", "model", "--json", str(tmp_path / "speed.json"), "--preset", "tiny", "--repeats", "1"]
    command += ["--seconds", "0.1", "--profile-seconds", "0.1", "--threads", "1"]
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    record = read_result(tmp_path / "speed.json")
    values = record["values"]
    assert record["parameters"]["threads"] == 1
    assert [(r["model"], r["audio_seconds"]) for r in values["speed"]] == [(m, 0.1) for m in bench.MODELS]
    assert all(r["peak_bytes"][0] >= r["base_bytes"][0] > 0 for r in values["speed"])
    assert any(r["operation"] == "aten::mm" and r["seconds"] > 0 for r in values["costs"])
    kinds = bench.kind_table(values["costs"]).set_index("kind")
    assert kinds.loc["attention", "BS-RoFormer"] > 0 == kinds.loc["attention", "BSMamba2"]
    assert len(bench.cost_table(values["costs"], 0.1)) == 2 * bench.TOP
    json.dumps(plain(values), allow_nan=False)
    alone = json.loads(invoke(*command[:2], *command[4:], "--model", "BSMamba2").stdout)
    assert {r["model"] for r in alone["speed"] + alone["costs"]} == {"BSMamba2"}


def test_a_fresh_process_measures_memory():
    wall, processor, before, peak = bench.fresh(bench._measure, "BSMamba2", "tiny", 4.0, 1)
    assert wall > 0 < processor
    if peak is None:
        pytest.skip("the system does not tell a process its memory")
    assert peak > before > 0


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


SCAN_PARTS = ("speed", "memory", "scaling")
BLOCK_PARTS = ("conv", "block")


@pytest.fixture
def devices(monkeypatch):
    """Where each part of the benchmarks was asked to measure; none of them is measured."""
    asked = {}

    def ask(name, *_, device, **__):
        asked[name] = device
        return {}

    for module, names in ((scan, SCAN_PARTS), (blocks, BLOCK_PARTS)):
        for name in names:
            monkeypatch.setattr(module, name, partial(ask, name))
    return asked


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("subject", "parts"), [("scan", SCAN_PARTS), ("block", BLOCK_PARTS)])
def test_a_benchmark_measures_on_the_device_that_its_result_names(
    tmp_path, monkeypatch, devices, subject, parts, device, invoke
):
    monkeypatch.setattr("bsm.devices.choose_device", str)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    done = invoke("bench", subject, "--device", device, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert devices == dict.fromkeys(parts, device)
    record = read_result(tmp_path / "r.json")
    assert record["parameters"]["device"] == device
    assert (record["provenance"]["device"] == "a GPU") == (device == "cuda")


def test_a_benchmark_refuses_a_device_that_it_does_not_measure_on(monkeypatch, devices, invoke):
    monkeypatch.setattr(torch, "empty", lambda *_, device: (_ for _ in ()).throw(RuntimeError(device)))
    done = invoke("bench", "scan", "--device", "cuda")
    assert isinstance(done.exception, InputError) and "'cuda' is not available" in str(done.exception)
    for subject in ("model", "data"):  # measured on the CPU alone
        done = invoke("bench", subject, "--device", "cuda")
        assert done.exit_code == 2 and "No such option" in done.output
    assert not devices


def test_every_tensor_lies_on_the_device(monkeypatch):
    """On ``meta``, which every machine has and where nothing is computed: a tensor elsewhere would fail or be seen."""
    seen = []

    def called(x, *rest, **more):
        seen.extend(v.device.type for v in (x, *rest, *more.values()) if isinstance(v, torch.Tensor))
        return x * 1, None

    monkeypatch.setattr(scan, "scan", called)
    monkeypatch.setattr(blocks, "causal_conv", lambda x, **more: called(x, **more)[0])
    monkeypatch.setattr(blocks, "_block", lambda config: torch.nn.Linear(config.dim, config.dim))
    # Every input has to have a gradient, and this scan uses but the first.
    monkeypatch.setattr(torch.autograd, "grad", lambda y, leaves, weight: [torch.zeros_like(v) for v in leaves])
    scan.scaling((4, 8), seconds=0.1, batch=1, repeats=1, device="meta")
    blocks.conv([0.1], batch=1, repeats=1, device="meta")
    blocks.block(0.1, repeats=1, device="meta")
    assert len(seen) > 20 and set(seen) == {"meta"}


def test_a_gpus_memory_is_read_off_a_second_run(monkeypatch):
    """The first tunes kernels, which takes memory of its own."""
    runs = []
    monkeypatch.setattr(scan, "inputs", lambda *_, **__: {"x": torch.zeros(4)})
    monkeypatch.setattr(scan, "run", lambda *prepared: runs.append(prepared))
    monkeypatch.setattr(scan, "peak_memory_cuda", lambda work: (work(), len(runs))[1])
    monkeypatch.setattr(scan, "exact_backends", lambda device: ["chunked"])
    found = scan.memory([0.1], device="cuda")
    assert [r["peak_bytes"] for r in found] == [2, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scans_and_blocks_on_a_gpu():
    exact = {name for name in EXACT if available("cuda")[name] is None}
    speed = scan.speed([0.5], batch=1, band_rows=2, repeats=1, device="cuda")
    assert exact <= {r["backend"] for r in speed} and all(r["output_error"] < 1e-2 for r in speed)
    memory = scan.memory([0.5], batch=1, band_rows=2, device="cuda")
    assert {r["backend"] for r in memory} == exact and all(r["peak_bytes"] > 0 for r in memory)
    assert timer.peak_memory_cuda(lambda: torch.zeros(2**20, device="cuda")) == 4 * 2**20
    found = scan.scaling((8, 16), seconds=0.5, repeats=1, device="cuda")
    assert found["matmul_share"]["floor"] > 0 and len(found["scaling"]) == 2
    assert {"shifted", "conv1d"} <= {r["backend"] for r in blocks.conv([0.5], repeats=1, device="cuda")}
    assert [r["rows"] for r in blocks.block(0.5, repeats=1, device="cuda")] == [1, 62]


@pytest.mark.parametrize("name", ["", "file/r.json"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, devices, name, invoke):
    (tmp_path / "file").write_text("")
    done = invoke("bench", "block", "--json", tmp_path / name)
    assert isinstance(done.exception, InputError), done.output
    assert not devices


def test_what_was_measured_is_said_even_if_it_cannot_be_written(tmp_path, monkeypatch, devices, invoke):
    def full(*_, **__):
        raise InputError("the disk is full")

    monkeypatch.setattr(records, "write_result", full)
    done = invoke("bench", "block", "--json", tmp_path / "r.json")
    assert isinstance(done.exception, InputError)
    assert json.loads(done.stdout) == {"conv": {}, "block": {}}


@pytest.mark.parametrize("name", ["loop, indexed", "textbook", *yardsticks.PEERS])
def test_a_yardsticks_scan_is_the_scan(name):
    if name not in yardsticks.scans():
        pytest.skip(f"needs {name}: pip install {name}")
    for length in (7, 130):  # 130: more than two chunks of the textbook's
        values = scan.inputs(2, length, ModelConfig.preset("tiny"))
        weights = scan.weights_like(values["x"])
        want, got = (scan.run(scan.function_of(backend), values, weights) for backend in ("sequential", name))
        for key, value in want.items():
            torch.testing.assert_close(got[key], value, rtol=1e-3, atol=1e-3)


def test_packages_that_are_missing_are_named(monkeypatch, caplog, devices):
    monkeypatch.setattr(yardsticks, "find_spec", lambda module: None)
    with caplog.at_level("INFO"):
        scan.measure([0.1], repeats=1, device="cpu")
    assert "pip install mamba-scan-lite niverel-mamba transformers" in caplog.text
