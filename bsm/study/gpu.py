"""Measure what needs a GPU: ``make gpu`` runs the parts one after another, within a deadline.

Each part has a process of its own, and saves its result as it ends: a part that fails, hangs or runs out of memory
costs only itself. The ledger's tests on a GPU (:func:`bsm.study.claims.claim.on_gpu`) read the results.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from bsm import conv
from bsm.cue_gap import Probe
from bsm.errors import InputError, known
from bsm.scan import available
from bsm.study import kernel_errors, step_profile
from bsm.study.commands import process_group
from bsm.study.long import probe
from bsm.study.records import ROOT, mark, write_result
from bsm.study.speed import blocks, official, scan, step
from bsm.study.speed.timer import SEED

log = logging.getLogger(__name__)

RESULTS, LOGS = ROOT / "reports" / "gpu" / "results", ROOT / "runs" / "gpu"
COMMAND = (sys.executable, "-m", "bsm.study.gpu")  # takes the part of the name that follows, and writes its result
DEADLINE = 480.0  # s
MODULES = "mamba-ssm's modules"  # with which the author's code computes
DONE, FAILED, STOPPED, LEFT_OUT = "done", "failed", "stopped", "left out"


@dataclass(frozen=True)
class Part:
    """A measurement.

    Attributes:
        name: name of the part and of its result file.
        measured: what the values are, for the result file.
        function: the function that measures. It takes the settings and ``device``, and returns the values.
        settings: keyword arguments of the function.
        seconds: time limit of the process, s. Most of it is Triton compiling its kernels on their first run.
        kernels: optional kernels that the part measures where they are installed (:func:`lacking`).
        environment: environment variables of the process.
        data: what the inputs are, for the result file.
    """

    name: str
    measured: str
    function: Callable[..., Any]
    settings: Mapping[str, Any]
    seconds: float
    kernels: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    data: str = "random inputs, official initial values"


class Outcome(NamedTuple):
    """What became of a part: its name, its status (:data:`DONE` to :data:`LEFT_OUT`), its seconds, and a reason."""

    part: str
    status: str
    seconds: float = 0.0
    note: str = ""


_STEP = {"preset": "tiny", "seconds": 4.0, "batch": 2, "precision": "32-true", "repeats": 5}
PARTS = (
    Part(
        "block",
        "seconds of the convolution backends, and of one block of the network",
        blocks.measure,
        {"seconds": (4.0,), "repeats": 10},
        seconds=60,
        kernels=("triton", "causal-conv1d"),
    ),
    Part(
        "step",
        "seconds of a training step by part, of losses and of transforms",
        step_profile.measure,
        # The size at which the described loop's states fit (step.LARGEST), as on the CPU.
        _STEP | {"sizes": ()},
        seconds=75,
    ),
    Part(
        "scan",
        "errors, seconds and bytes of the scan backends",
        scan.measure,
        {"seconds": (4.0, 8.0), "repeats": 5},
        seconds=180,
        kernels=("triton", "selective"),
    ),
    *(
        Part(
            name,
            f"relative errors of all backends, float32 {words} TF32 and bfloat16",
            kernel_errors.measure,
            {"seconds": 4.0, "rows": 2, "preset": "paper", "tf32": tf32},
            seconds=100,
            kernels=("triton", "selective", "causal-conv1d"),
            environment={"TRITON_F32_DEFAULT": "tf32" if tf32 else "ieee"},
        )
        for name, words, tf32 in (("parity", "without", False), ("parity_tf32", "with", True))
    ),
    Part(
        "paper_step",
        "seconds and bytes of the paper's training step: by scan, and with mamba-ssm's modules",
        step.compared,
        # The author's batch and precision, on each GPU.
        {"preset": "paper", "seconds": 8.0, "batch": 5, "precision": "bf16-mixed", "repeats": 3}
        | {"cases": (("triton", True), (step.OFFICIAL, True), (step.OFFICIAL, False), ("chunked", True))},
        seconds=200,
        kernels=("triton", "causal-conv1d", MODULES),
    ),
    Part(
        "compile",
        "seconds of a training step with torch.compile and without it",
        step.compiled,
        _STEP | {"preset": "small"},
        seconds=120,
    ),
    *(
        Part(
            f"cue_gap_{arm}",
            probe.MEASURED,
            probe.measure,
            {"arm": arm, "seed": 2, "lr": lr, "longest_gap": 0.5, "steps": 2000},  # a run of reports/long on CPUs
            seconds=120,
            data=probe.data_title(Probe(0.5)),
        )
        for arm, lr in (("mamba2", 0.002), ("attention", 0.004))
    ),
)
"""In order of importance: the parts that settle most claims come first."""


def chosen(names: Sequence[str]) -> list[Part]:
    """Return the parts of these names, or all of them if none is named.

    Raises:
        InputError: there is no such part.
    """
    found = {part.name: part for part in PARTS}
    return [found[known("part", name, found)] for name in names] or list(PARTS)


def check() -> None:
    """Refuse to measure where there is no GPU.

    Raises:
        InputError: PyTorch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError(
            f"PyTorch {torch.__version__} sees no CUDA device, so there is nothing to measure here; run this on a "
            "machine with an NVIDIA GPU, and with a CUDA build of PyTorch (docs/install.md, On a GPU)"
        )


def lacking(device: str) -> dict[str, str]:
    """Return by optional kernel why it cannot run on a device, with the fix; kernels that can run are left out."""
    found = {name: available(device)[name] for name in ("triton", "selective")}
    found |= {"causal-conv1d": conv.unavailable("cuda", device), MODULES: official.unavailable(device)}
    return {name: reason for name, reason in found.items() if reason}


def measure(part: Part, path: Path, *, device: str, **changed: Any) -> Path:
    """Measure a part in this process and write its result; ``changed`` overrides its settings."""
    started, settings = mark(), {**part.settings, **changed}
    values = part.function(**settings, device=device)
    return write_result(
        path,
        measured=part.measured,
        parameters=settings | dict(part.environment) | {"device": device},
        values=values,
        seed=settings.get("seed", SEED),
        started=started,
        data=part.data,
        inputs=(),
    )


def run(parts: Sequence[Part], *, deadline: float = DEADLINE) -> list[Outcome]:
    """Run parts in order (:func:`in_a_process`), and tell what became of each.

    A part whose time limit does not fit before the ``deadline``, s from now, is left out. All parts end by then.
    """
    started, absent, outcomes = time.monotonic(), lacking("cuda"), []
    for part in parts:
        begun = time.monotonic()
        left = deadline - (begun - started)
        if left < part.seconds:
            note = f"it may take {part.seconds:g} s, and {max(0.0, left):.0f} s were left: bsm bench gpu {part.name}"
            outcome = Outcome(part.name, LEFT_OUT, note=note)
        else:
            log.info("%s begins; it may take %g s", part.name, part.seconds)
            status, note = in_a_process(part)
            without = [f"without {name}: {absent[name]}" for name in part.kernels if name in absent]
            outcome = Outcome(part.name, status, time.monotonic() - begun, "; ".join([note] * bool(note) + without))
        log.info("%s: %s%s", part.name, outcome.status, f" ({outcome.note})" if outcome.note else "")
        outcomes.append(outcome)
    return outcomes


def in_a_process(part: Part) -> tuple[str, str]:
    """Run a part in a process of its own, which is killed with its children when its time is up.

    Returns:
        :data:`DONE`, :data:`FAILED` or :data:`STOPPED`, and the reason. Unless it is done, an earlier result stays.
    """
    path = LOGS / f"{part.name}.log"
    options = {"cwd": ROOT, "env": os.environ | part.environment, "stdin": subprocess.DEVNULL}
    with process_group([*COMMAND, part.name], path, **options) as process:
        try:
            status = process.wait(part.seconds)
        except subprocess.TimeoutExpired:
            return STOPPED, f"it took longer than {part.seconds:g} s; see {path}"
    if status == 0:
        return DONE, ""
    lines = path.read_text(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return FAILED, f"{said}; see {path}"


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """List what became of each part."""
    return pd.DataFrame(outcomes).round({"seconds": 0}).astype({"seconds": int}).replace({"note": {"": "–"}})


if __name__ == "__main__":
    (the_part,) = chosen(sys.argv[1:2])
    measure(the_part, RESULTS / f"{the_part.name}.json", device="cuda")
