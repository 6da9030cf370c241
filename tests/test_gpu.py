"""`make gpu` without a GPU: the driver with parts and a clock of the tests' own, the real parts small and on a CPU."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bsm import cue_gap
from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.mamba2 import Mamba2
from bsm.model import BSMamba2
from bsm.norm import RMSNorm
from bsm.scan import EXACT, available, chunked
from bsm.study import counts, gpu, kernel_errors
from bsm.study.claims import ledger
from bsm.study.claims.claim import GPU, ON_GPU
from bsm.study.gpu import DONE, FAILED, LEFT_OUT, STOPPED, Part
from bsm.study.records import read_result
from bsm.study.speed import official, scan, spectra, step

pytestmark = pytest.mark.usefixtures("one_thread")

# What no claim waits for.
CONTEXT = {"parity", "parity_tf32", "paper_step", "cue_gap_mamba2", "cue_gap_attention"}
SMALL = {
    "block": {"seconds": (0.02,), "repeats": 1},
    "step": {"seconds": 0.1, "batch": 1, "repeats": 1},
    "scan": {"seconds": (0.05,), "repeats": 1},
    "parity": {"seconds": 0.7, "rows": 1, "preset": "tiny"},
    "cue_gap_mamba2": {"steps": 2},
    "paper_step": {
        "cases": (("chunked", True), ("official", False)),
        "preset": "tiny",
        "seconds": 0.1,
        "batch": 1,
        "repeats": 1,
    },
    "compile": {"preset": "tiny", "seconds": 0.05, "batch": 1, "repeats": 1},
}


def part(name, seconds=10.0, **more):
    return Part(name, "nothing", dict, {}, seconds, **more)


@pytest.fixture
def run(monkeypatch):
    """Return the function that runs parts on a clock of its own, which tells the time that the parts have taken."""
    now = 0.0

    def start(parts, taken=(), **more):
        def execute(part):
            nonlocal now
            now += dict(taken).get(part.name, part.seconds)
            return (FAILED, "it broke") if "bad" in part.name else (DONE, "")

        monkeypatch.setattr(gpu, "in_a_process", execute)
        outcomes = gpu.run(parts, **more)
        return {outcome.part: outcome for outcome in outcomes}, now

    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(gpu, "lacking", lambda device: {"triton": "needs the package mamba_ssm (pip install it)"})
    return start


def test_a_part_that_fails_or_lacks_a_package_costs_only_itself(run):
    parts = [part("bad"), part("both", kernels=("triton", "other")), part("last")]
    found, _ = run(parts, {"bad": 3.0, "both": 4.0})
    assert [(o.status, o.seconds) for o in found.values()] == [(FAILED, 3), (DONE, 4), (DONE, 10)]
    assert found["bad"].note == "it broke"
    assert found["both"].note == "without triton: needs the package mamba_ssm (pip install it)"
    assert gpu.table(list(found.values()))["part"].tolist() == ["bad", "both", "last"]


def test_the_deadline_is_kept_and_what_no_longer_fits_is_named(run):
    parts = [part("long", 60), part("next", 50), part("short", 40), part("none left", 10)]
    found, now = run(parts, {"long": 55.0}, deadline=100)
    assert [o.status for o in found.values()] == [DONE, LEFT_OUT, DONE, LEFT_OUT]
    assert now <= 100
    assert found["next"].note == "it may take 50 s, and 45 s were left: bsm bench gpu next"


def test_all_parts_at_their_slowest_keep_the_deadline(run):
    assert run(gpu.PARTS)[1] <= gpu.DEADLINE <= 8 * 60


@pytest.fixture
def process(monkeypatch, tmp_path):
    """Let a part's process run a program of the test's own; return what became of it."""
    monkeypatch.setattr(gpu, "LOGS", tmp_path / "logs")

    def take(program, seconds=30.0, **more):
        monkeypatch.setattr(gpu, "COMMAND", (sys.executable, "-S", "-c", program))
        return gpu.in_a_process(part("mine", seconds, **more))

    return take


def test_a_part_has_a_process_and_an_environment_of_its_own(process):
    program = "import os, sys; assert sys.argv[1:] == ['mine'] and os.environ['MODE'] == 'ieee'"
    assert process(program, environment={"MODE": "ieee"}) == (DONE, "")


def test_a_failure_names_its_log(process, tmp_path):
    status, note = process("print('begins', flush=True); raise SystemExit('CUDA out of memory\\n')")
    log = tmp_path / "logs" / "mine.log"
    assert (status, note) == (FAILED, f"CUDA out of memory; see {log}")
    assert log.read_text().startswith("begins")
    assert process("import os; os.abort()")[1] == f"it said nothing; see {log}"  # and the log is a new one


def test_a_part_past_its_time_is_killed_with_its_children(process, tmp_path):
    child = tmp_path / "child"
    program = f"import subprocess; c = subprocess.Popen(['sleep', '60']); open({str(child)!r}, 'w').write(str(c.pid))"
    begun = time.monotonic()
    status, note = process(f"{program}; c.wait()", seconds=2.0)
    assert status == STOPPED and "longer than 2 s" in note
    assert time.monotonic() - begun < 20
    state = subprocess.run(["ps", "-o", "state=", child.read_text()], capture_output=True, text=True).stdout
    assert state.strip() in ("", "Z")


def test_the_parts_are_what_the_ledger_waits_for():
    lines = ledger.lines(wanted=lambda test: test.command == ON_GPU)
    waited = {v.result for x in lines for v in x.test.inputs.values() if GPU in (v.profile, *x.test.profiles)}
    assert waited == {part.name for part in gpu.PARTS} - CONTEXT
    assert len(lines) > 8 and len({part.name for part in gpu.PARTS}) == len(gpu.PARTS)
    assert gpu.RESULTS == ledger.REPORTS / GPU / "results"


def measured(name, folder):
    (found,) = gpu.chosen([name])
    return gpu.measure(found, folder / f"{name}.json", device="cpu", **SMALL[name.removesuffix("_tf32")])


@pytest.fixture
def shorter(monkeypatch):
    """Scan few rows, measure nothing that no claim waits for, start no processes for memory, and compile nothing."""
    monkeypatch.setattr(step.BiMamba2Block, "compile", lambda block: None)
    cases = scan.cases
    monkeypatch.setattr(scan, "cases", lambda seconds, batch, band_rows: cases(seconds, 1, 1))
    monkeypatch.setattr(scan, "fresh", lambda *_: 1000)
    monkeypatch.setattr(scan, "scaling", lambda **_: {})


def test_the_ledger_judges_what_the_parts_write(tmp_path, shorter):
    """At small sizes and on a CPU, whose results it takes for a GPU's here."""
    folder = tmp_path / "reports" / "gpu" / "results"
    for name in sorted({part.name for part in gpu.PARTS} - CONTEXT):
        path = measured(name, folder)
        path.write_text(json.dumps(record := read_result(path)).replace('"device": "cpu"', '"device": "cuda"'))
        assert record["parameters"]["device"] == "cpu" and record["provenance"]["device"]
    lines = ledger.lines(reports=tmp_path / "reports")
    found = {line.claim.id: line.finding for line in lines if line.test.on == "GPU" and line.test.command == ON_GPU}
    blocked = {name: finding.reasons for name, finding in found.items() if finding.verdict == ledger.Verdict.BLOCKED}
    assert set(found) - set(blocked) >= {"scan-8x", "memory-5-10", "bench-25ms", "compile-20", "train-5x", "scan-65pct"}
    assert set(found) - set(blocked) >= {"stft-loss-3x", "mono-halves"}
    assert blocked.pop("conv-3x") == ("The result file has no measurement of the backend `cuda`.",)
    # It compares with the CPU's own results, and this folder has none.
    assert [reason for (reason,) in blocked.values()] == ["There is no reports/demo/results/scan_backends.json yet."]


def test_every_tensor_of_a_step_lies_on_the_device(monkeypatch):
    """On ``meta``, which every machine has and where nothing is computed: a tensor elsewhere would fail."""
    monkeypatch.setattr(step.nn.utils, "clip_grad_norm_", lambda *_, **__: None)  # it knows no meta, nor does the next
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda _: None)
    spectra.losses(0.1, batch=1, repeats=1, device="meta")
    spectra.transforms(0.1, batch=1, repeats=1, device="meta")
    with counts.Allocations():  # the step's inverse transform asks for values without it
        (record,) = step.breakdown([step.BEFORE], "tiny", seconds=0.1, batch=1, repeats=1, device="meta")
    assert record["variant"] == step.BEFORE.name


@pytest.fixture
def as_before():
    """Let PyTorch use TF32 as by default once the test is over."""
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True


def test_parity(tmp_path, as_before):
    record = read_result(measured("parity_tf32", tmp_path))
    assert record["parameters"]["tf32"] and record["parameters"]["TRITON_F32_DEFAULT"] == "tf32"
    scans, convs = record["values"]["scan"], record["values"]["conv"]
    here = {name for name in EXACT if available("cpu")[name] is None}
    assert {r["backend"] for r in scans} == here and {r["backend"] for r in convs} == {"shifted", "conv1d", "numba"}
    assert len(scans) == 4 * len(here) and len(convs) == 4 * 2 + 2  # precisions and directions
    assert all(set(r["gradient_errors"]) == {"x", "dt", "A", "B", "C", "D"} for r in scans)
    for r in scans + convs:
        worst = max(r["output_error"], *r["gradient_errors"].values())
        low, high = {"float32": (1e-9, 1e-5), "bfloat16": (1e-4, 3e-2)}[r["precision"]]
        assert low < worst < high, r
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32


def test_a_backend_that_fails_is_in_the_result_and_the_others_are_measured(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(chunked, "scan", broken)
    found = kernel_errors.measure(tf32=False, seconds=0.05, rows=1, preset="tiny", device="cpu")["scan"]
    failed = [r for r in found if r["backend"] == "chunked"]
    assert {r["failed"] for r in failed} == {"RuntimeError: out of resource: shared memory"}
    assert all(r["output_error"] < 0.1 for r in found if r["backend"] != "chunked")


class Block(nn.Module):
    """mamba-ssm's, as far as the author's code uses it."""

    def __init__(self, dim, mixer_cls, mlp_cls, norm_cls):
        super().__init__()
        assert mlp_cls is nn.Identity
        self.norm, self.mixer = norm_cls(dim), mixer_cls(dim)

    def forward(self, hidden):
        return self.mixer(self.norm(hidden)), hidden


@pytest.fixture
def modules(monkeypatch):
    """Stand-ins for mamba-ssm's modules, which need a GPU."""

    def mixer(dim, **sizes):
        return Mamba2(ModelConfig(dim=dim, **sizes))

    stand_ins = SimpleNamespace(Block=Block, Mamba2=mixer, RMSNorm=RMSNorm)
    monkeypatch.setattr(official._mamba_ssm, "load", lambda _: stand_ins)
    monkeypatch.setattr(official, "unavailable", lambda _: None)


def test_whole_steps_with_the_authors_modules_and_without_them(tmp_path, modules):
    record = read_result(measured("paper_step", tmp_path))
    ours, authors = record["values"]
    assert (ours["scan"], ours["recomputed"]) == ("chunked", True)
    assert (authors["scan"], authors["recomputed"]) == ("official", False)
    assert all(len(r["seconds"]) == 1 and r["peak_bytes"] is None for r in (ours, authors))
    assert record["parameters"]["precision"] == "bf16-mixed"


def test_without_the_authors_modules_the_others_are_measured(tmp_path):
    (ours,) = read_result(measured("paper_step", tmp_path))["values"]
    assert ours["scan"] == "chunked"
    assert gpu.lacking("cpu")[gpu.MODULES] == "needs a CUDA device"


def test_a_step_that_runs_out_of_memory_costs_only_itself(tmp_path, modules, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(official.OfficialDirection, "forward", full)
    ours, authors = read_result(measured("paper_step", tmp_path))["values"]
    assert authors == {"scan": "official", "recomputed": False, "failed": "CUDA out of memory"} and ours["seconds"]


def test_the_authors_modules_take_the_place_of_ours_with_their_weights(modules, small_model, small_config):
    theirs = BSMamba2(small_config).eval()
    theirs.load_state_dict(small_model.state_dict())
    official.put_into(theirs)
    replaced = [m for m in theirs.modules() if isinstance(m, official.OfficialDirection)]
    assert len(replaced) == 4 and [m.reverse for m in replaced] == [False, True] * 2
    mixture = torch.randn(1, 2, 4000)
    assert torch.allclose(theirs(mixture), small_model(mixture), atol=1e-6)
    replaced[1].reverse = False  # the comparison would tell
    assert not torch.allclose(theirs(mixture), small_model(mixture), atol=1e-6)


def test_cue_and_gap_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr(cue_gap, "questions", lambda _: [cue_gap.Question("gap", cue_gap.Condition(0.25), 2)])
    record = read_result(measured("cue_gap_mamba2", tmp_path))
    assert [len(answer["sdr"]) for answer in record["values"]["answers"]] == [2]
    assert [row["update"] for row in record["values"]["history"]] == [1, 2]
    assert record["parameters"]["arm"] == "mamba2" and record["parameters"]["steps"] == 2
    assert record["seed"] == record["parameters"]["seed"] == 2 and record["data"].startswith("cue and gap, tones")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path, monkeypatch, invoke):
    monkeypatch.setattr(gpu, "in_a_process", lambda *_: pytest.fail("something was measured"))
    done = invoke("bench", "gpu")
    assert isinstance(done.exception, InputError) and "no CUDA device" in str(done.exception)
    assert "machine with an NVIDIA GPU" in str(done.exception) and "\n" not in str(done.exception)
    wrong = invoke("bench", "gpu", "speed")
    assert "unknown part 'speed'; choose one of block, step, scan" in str(wrong.exception)


@pytest.mark.parametrize(("status", "exit_code"), [(DONE, 0), (LEFT_OUT, 0), (FAILED, 1), (STOPPED, 1)])
def test_the_command_ends_with_a_table(monkeypatch, status, exit_code, invoke):
    monkeypatch.setattr(gpu, "check", lambda: None)
    monkeypatch.setattr(gpu, "lacking", lambda device: {})
    monkeypatch.setattr(gpu, "in_a_process", lambda part: (status, "a note"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    done = invoke("bench", "gpu", "block", "scan", "--deadline", "1000")
    assert done.exit_code == exit_code
    assert "| part | status | seconds | note |" in done.stdout and f"| scan | {status} | 0 | a note |" in done.stdout


@pytest.mark.parametrize(("status", "judged"), [(0, True), (1, True), (2, False)])
def test_make_gpu_judges_the_claims_unless_nothing_could_begin(tmp_path, status, judged):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stand_in = tmp_path / ".venv" / "bin" / "bsm"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> said\n[ "$1" = bench ] && exit {status}\nexit 0\n')
    stand_in.chmod(0o755)
    makefile = gpu.ROOT / "Makefile"
    command = ["make", "-o", "env", "-f", makefile, "gpu", "ARGS=scan block"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode != 0) == (status != 0)
    assert (tmp_path / "said").read_text().splitlines() == ["bench gpu scan block"] + ["claims render"] * judged
