"""Claims about the scan, the convolution and a block. None of their speed figures comes with a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bsm.stats import Interval, bootstrap_interval, interval_words, ratio
from bsm.study.claims.claim import (
    DEMO,
    GPU,
    LONG,
    ON_GPU,
    Evidence,
    Finding,
    Source,
    Test,
    Values,
    Verdict,
    claim,
    judge_ratio,
    on_cpu,
    on_gpu,
)
from bsm.study.claims.exact import TENSORS
from bsm.study.speed.scan import worst_errors

NOTEBOOK = "bsm study 02_scan_backends"
BOTH = "forward + backward"
LOOP = "loop, indexed"  # the described loop
KERNEL, CONV_KERNEL = "selective", "cuda"
"""The backends that call the claims' kernels: Mamba-1's scan, causal-conv1d."""
GPUS = {"T4": 8.1, "RTX 3090": 35.6, "RTX 4090": 82.6}
"""Peak TFLOP/s in float32, as :data:`DATA_SHEETS` give them."""
DATA_SHEETS = (
    "data sheet *NVIDIA T4 Tensor Core GPU*; white papers *NVIDIA Ampere GA102 GPU Architecture* and *NVIDIA Ada GPU "
    "Architecture*"
)


def beside_the_loop(speed: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the timings at the longest length at which the described loop was timed, by backend; empty without it."""
    own = [r for r in speed if r["axis"] == "time" and r["pass"] == BOTH]
    longest = max((r["length"] for r in own if r["backend"] == LOOP), default=None)
    return {r["backend"]: r for r in own if r["length"] == longest}


@claim(
    "scan-8x",
    "The selective scan becomes 8 times faster, 40 s to 5 s of a training step",
    figure="8x",
    source=(Source.OPTIMISATION, Source.SUMMARY, Source.ANALYSIS),
    tests=[
        on_cpu(NOTEBOOK, speed=Values("scan_backends", "speed")),
        on_gpu("scan", packages="mamba-ssm", kernel=KERNEL, speed="speed"),
    ],
    faster=8,
)
def scan_8x(speed: list[dict[str, Any]], *, faster: float, fast: str = "chunked") -> Finding:
    """Compare the exact chunked scan, or the kernel, with a loop that indexes its steps, and with a careful loop."""
    timed = beside_the_loop(speed)
    longest = timed[LOOP]["length"]
    if fast not in timed:
        return _lacks(fast)
    loop, exact = timed[LOOP], timed[fast]
    gain, careful = (ratio(slow["seconds"], exact["seconds"]) for slow in (loop, timed["sequential"]))
    listed = [ratio(loop["seconds"], timed[name]["seconds"]) for name in ("textbook",) if name in timed]
    reasons = (
        f"Against the described loop, which indexes its steps; {longest} steps, {BOTH}, {rounds(gain)}.",
        f"Against a careful loop: {interval_words(careful, 'x')}. Part of the gain is the loop's own waste.",
        "The scan here is exact; the described chunked scan is not, and was not timed.",
        *("The chunked scan as the Mamba-2 paper lists it is the second figure." for _ in listed),
    )
    also = "".join(f"; as the Mamba-2 paper lists it {interval_words(own, 'x')}" for own in listed)
    return Finding(judge_ratio(gain, faster), interval_words(gain, "x") + also, reasons, (loop, exact))


@claim(
    "conv-3x",
    "The causal convolution becomes 3 times faster, 3 s to 1 s of a training step",
    figure="3x",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[
        on_cpu(NOTEBOOK, conv=Values("scan_backends", "conv")),
        on_gpu("block", packages="causal-conv1d", kernel=CONV_KERNEL, conv="conv"),
    ],
    faster=3,
)
def conv_3x(conv: list[dict[str, Any]], *, faster: float, fast: str = "numba") -> Finding:
    """Compare the causal convolution by the kernel, or by one compiled loop without a kernel, with Conv1d."""
    timed = {r["backend"]: r for r in conv if r["pass"] == BOTH}
    if fast not in timed:
        return _lacks(fast)
    pair = timed["conv1d"], timed[fast]
    gain = ratio(*(record["seconds"] for record in pair))
    how = (
        "by the kernel"
        if fast == CONV_KERNEL
        else "by one compiled loop each way, what can be gained without the kernel"
    )
    reasons = (f"Against Conv1d, {how}; {BOTH}, {rounds(gain)}.",)
    return Finding(judge_ratio(gain, faster), interval_words(gain, "x"), reasons, pair)


@claim(
    "bench-25ms",
    "4 s of audio take 25.3 ms, 15,810 frames per second",
    figure="25.3 ms",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[
        on_cpu(
            NOTEBOOK,
            block=Values("scan_backends", "block"),
            operations=Values("tensors", "block", profile=TENSORS, optional=True),
        ),
        on_gpu("block", packages="mamba-ssm", block="block"),
    ],
    milliseconds=25.3,
)
def bench_25ms(
    block: list[dict[str, Any]], operations: dict[str, int] | None = None, *, milliseconds: float
) -> Finding:
    """Time one block, forward, with one row alone and with one row per band: the document does not say which it means.

    Where the two readings disagree, the test is inconclusive.
    """
    times = {r["rows"]: 1e3 * np.asarray(r["seconds"]) for r in block}
    lengths = {r["rows"]: r["length"] for r in block}
    one, every = min(times), max(times)
    frames = {rows: 1e3 * lengths[rows] / t.min() for rows, t in times.items()}
    read = {Verdict.of(t.max() <= milliseconds, t.min() > milliseconds) for t in (times[one], times[every])}
    reasons = [
        f"One block, {lengths[every]} frames, the best of {len(times[every])} rounds.",
        f"A model has a row for each band: {frames[every]:,.0f} frames/s.",
        f"One row alone takes {times[one].min():.2f} ms, {frames[one]:,.0f} frames/s.",
        "The document gives them as the output to expect, and names no GPU.",
    ]
    if operations:
        needed = operations[str(every)] / milliseconds / 1e9
        shares = ", ".join(f"{100 * needed / peak:.0f} % of a {name}'s" for name, peak in GPUS.items())
        reasons.append(
            f"{every} rows take {operations[str(every)] / 1e9:.0f} GFLOP of matrix products: in {milliseconds:g} ms "
            f"{needed:.1f} TFLOP/s, {shares} peak in float32 ({DATA_SHEETS}). So a large GPU can reach the figure."
        )
    measured = f"{times[every].min():,.0f} ms for {every} rows, {times[one].min():.1f} ms for one"
    return Finding(Verdict.agreed(read), measured, reasons, block)


@claim(
    "parity-1e5",
    "The CUDA kernels agree with plain PyTorch within 1e-5",
    figure="1e-5",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[
        Test(
            "GPU",
            Evidence.FULL,
            {
                "own": Values("scan_backends", "speed"),
                "kernels": Values("scan", "speed", profile=GPU, optional=True),
            },
            needs="a CUDA GPU with mamba-ssm",
            command=ON_GPU,
        )
    ],
    tolerance=1e-5,
)
def parity_1e5(own: list[dict[str, Any]], kernels: list[dict[str, Any]] | None = None, *, tolerance: float) -> Finding:
    """Take the errors of the kernel's outputs and gradients against the definition in float64, relative to norms."""
    plain = worst_errors(own)
    reasons = (
        "Errors are relative, in float32 against float64; the claim does not say what its difference is relative to.",
        f"Without kernels, outputs of PyTorch's own scans err by at most {plain[0]:.1e}, their gradients by "
        f"{plain[1]:.1e}.",
        "Where PyTorch's own gradients miss the bound, a kernel's failure proves nothing: a fair bound is twice "
        "PyTorch's error.",
        "As context, the tests compare every scan with mamba-ssm's plain references and with its Triton kernels in "
        "Triton's interpreter.",
    )
    found = [r for r in kernels or () if r["backend"] == KERNEL]
    if not found:
        return Finding(Verdict.BLOCKED, "", reasons)
    outputs, gradients = worst_errors(found)
    measured = f"outputs at most {outputs:.1e}, gradients at most {gradients:.1e}"
    return Finding(Verdict.of(max(outputs, gradients) <= tolerance), measured, reasons)


@claim(
    "compile-20",
    "torch.compile gains 10 to 20 %",
    figure="10 to 20 %",
    source=(Source.SUMMARY,),
    tests=[
        on_cpu(NOTEBOOK, compiled=Values("scan_backends", "compile")),
        on_gpu("compile", compiled=""),
    ],
    least=1.1,
    most=1.2,
)
def compile_20(compiled: dict[str, Any], *, least: float, most: float) -> Finding:
    """Compare a block, or on a GPU a step, under torch.compile with the same without it."""
    gain = ratio(compiled["seconds"]["plain"], compiled["seconds"]["compiled"])
    compiling = f"after {compiled['compile_seconds']:.0f} s of compiling"
    reasons = [f"At the size `{compiled['preset']}`, {BOTH}, {rounds(gain)}, {compiling}."]
    if compiled.get("loops"):
        reasons.append("Without torch.compile, numba compiles some loops of the block: this leaves less to gain.")
    return Finding(judge_ratio(gain, least, most), interval_words(gain, "x"), tuple(reasons), (compiled,))


@claim(
    "feedthrough-dominant",
    "The direct feedthrough D u is the dominant term of the scan",
    figure="dominant",
    source=(Source.OPTIMISATION,),
    tests=[Test("small models", Evidence.SMALL, {"shares": Values("direct_term", "shares")}, (LONG, DEMO))],
    share=0.5,
)
def feedthrough_dominant(shares: list[dict[str, Any]], *, share: float) -> Finding:
    """Compare ||D u|| / ||y|| in the mixers of a trained model and of random weights, the control.

    The share says something about trained scans only where random weights do not have it: they have learned nothing.
    """
    frame = pd.DataFrame(shares)
    trained, random = (bootstrap_interval(frame[frame.weights == kind]["direct"]) for kind in ("trained", "random"))
    long = frame[(frame.weights == "trained") & (frame.length == frame.length.max())]
    lost = bootstrap_interval(100 * long["without_state"])
    verdict = judge_ratio(trained, share)
    told = judge_ratio(random, share) != verdict
    same = (
        "Random weights have it, too: it comes from the initial values, D = 1 and small steps dt. It does not tell "
        "what a trained scan needs its state for."
    )
    if not told and verdict != Verdict.NOT_SUPPORTED:
        verdict = Verdict.INCONCLUSIVE
    reasons = (
        f"The share is ||D u|| / ||y||, over the mixers of a small model; dominant means more than {share:g}.",
        "Random weights would get another verdict." if told else same,
        f"Leaving out the state between chunks changes the time path by {interval_words(lost, ' %')}. Whether that "
        "costs quality, only a network that needs its memory can tell.",
    )
    return Finding(verdict, f"a share of {interval_words(trained)}; random weights {interval_words(random)}", reasons)


def rounds(gain: Interval) -> str:
    """Say of how many rounds an interval is, and whether it is their range."""
    return f"{'range' if gain.method == 'range' else '95 % interval'} of {gain.n} rounds"


def _lacks(backend: str) -> Finding:
    return Finding(Verdict.BLOCKED, "", (f"The result file has no measurement of the backend `{backend}`.",))
