"""Rules on scan and convolution, from the results of notebook ``02_scan_backends``.

None of the speed figures that they judge comes with a measurement, and all mean a GPU. What is measured on a CPU is
judged as a ratio, and says so.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bsm.study.claims import (
    BLOCKED,
    PARTLY,
    RE_EXECUTED,
    REPRODUCED,
    Finding,
    interval_words,
    judge_ratio,
    ratio,
    rule,
)
from bsm.study.stats import bootstrap_interval

_BOTH = "forward + backward"


@rule(RE_EXECUTED)
def scan_8x(speed: list[dict[str, Any]], *, faster: float) -> Finding:
    """Speed of the exact chunked scan against a loop that indexes its steps, and against a careful one."""
    frame = pd.DataFrame(speed)
    frame = frame[(frame.axis == "time") & (frame["pass"] == _BOTH)]
    longest = frame[frame.backend == "loop, indexed"]["length"].max()  # timed by both loops
    times = frame[frame.length == longest].set_index("backend")["seconds"]
    careful = ratio(times["sequential"], times["chunked"])
    indexed = ratio(times["loop, indexed"], times["chunked"])
    status = judge_ratio(indexed, faster)
    return Finding(
        PARTLY if status == REPRODUCED else status,  # a ratio on a CPU is not the claim's seconds on a GPU
        f"{interval_words(indexed, 'x')} against an indexed loop, {interval_words(careful, 'x')} against a careful one",
        f"exact scan, {longest} steps, {_BOTH}; part of the gain is the loop's own waste; the claim's seconds on a GPU "
        "are not tested, and its own chunked scan is not exact",
    )


@rule(RE_EXECUTED)
def conv_3x(conv: list[dict[str, Any]]) -> Finding:
    """Speed of the causal convolution by shifted multiply-adds against Conv1d; the claim is about a CUDA kernel."""
    frame = pd.DataFrame(conv)
    times = frame[frame["pass"] == _BOTH].set_index("backend")["seconds"]
    return Finding(
        BLOCKED,
        interval_words(ratio(times["conv1d"], times["shifted"]), "x"),
        "the claim's CUDA kernel needs a GPU; measured instead: shifted multiply-adds against Conv1d on the CPU",
    )


@rule(RE_EXECUTED)
def bench_25ms(block: list[dict[str, Any]]) -> Finding:
    """Time of one block at one row and at one row per band."""
    parts = [
        f"{r['rows']} row{'s' * (r['rows'] > 1)}: {1e3 * min(r['seconds']):.0f} ms, "
        f"{r['rows'] * r['length'] / min(r['seconds']):.0f} frames/s"
        for r in block
    ]
    rounds = len(block[0]["seconds"])
    return Finding(
        BLOCKED,
        f"{'; '.join(parts)} (best of n = {rounds})",
        "needs a GPU; one block on the CPU. The claim's two figures agree for one row; a model has one row per band",
    )


@rule(RE_EXECUTED)
def memory_5_10(memory: list[dict[str, Any]], *, least: float, most: float) -> Finding:
    """Peak memory of the chunked scan against that of the loop, both above their inputs."""
    frame = pd.DataFrame(memory)
    frame = frame[(frame.axis == "time") & frame.backend.isin(["sequential", "chunked"])].dropna()
    wide = frame.pivot(index="length", columns="backend", values="peak_bytes").dropna()
    if wide.empty:
        return Finding(BLOCKED, "", "this machine does not tell the peak memory of a process")
    ratios = wide["chunked"] / wide["sequential"]
    outside = int(((ratios < least) | (ratios > most)).sum())
    return Finding(
        BLOCKED,
        ", ".join(f"{r:.3f}x at {n} steps" for n, r in ratios.items()) + " (n = 1 each)",
        f"peak above the inputs, chunked against the loop, {_BOTH}: {outside} of {len(ratios)} lie outside the claim; "
        "the claim's CUDA kernels need a GPU",
    )


@rule(RE_EXECUTED)
def compile_20(compiled: dict[str, Any], *, least: float, most: float) -> Finding:
    """Speed of a block under torch.compile against the same without it."""
    gain = ratio(compiled["seconds"]["plain"], compiled["seconds"]["compiled"])
    return Finding(
        judge_ratio(gain, least, most),
        f"{interval_words(gain, 'x')}, after {compiled['compile_seconds']:.0f} s of compiling",
        f"one block at the size {compiled['preset']!r}, {_BOTH}, CPU",
    )


@rule(RE_EXECUTED)
def feedthrough_dominant(shares: list[dict[str, Any]], *, share: float) -> Finding:
    """Norm of the direct term over the output's, in the mixers of a trained model.

    Dominant: more than ``share`` of the output, by norm, in the mixers on average.
    """
    frame = pd.DataFrame(shares)
    interval = bootstrap_interval(frame[frame.weights == "trained"]["direct"])
    return Finding(
        judge_ratio(interval, share),
        f"||D u|| / ||y|| = {interval_words(interval)} over mixers",
        f"dominant = more than {share:g} of the output's norm; small trained model",
    )
