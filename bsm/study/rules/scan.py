"""Rules on scan and convolution, from the results of notebook ``02_scan_backends``.

None of the speed figures that they judge comes with a measurement, and all mean a GPU. What is measured on a CPU is
judged as a ratio, and settles none of them. A claim about CUDA kernels waits for results of a GPU, which stand in
``reports/gpu/results``: ``scan.json`` and ``block.json``, which ``bsm bench scan --device cuda`` and ``bsm bench block
--device cuda`` write. The ledger passes over files there that were measured on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bsm.stats import bootstrap_interval, gain_words, interval_words, paired_difference, ratio
from bsm.study.claims import (
    BLOCKED,
    CONTRADICTED,
    PARTLY,
    RE_EXECUTED,
    RE_TRAINED,
    REPRODUCED,
    Finding,
    judge_ratio,
    rule,
)

_BOTH = "forward + backward"
_KERNEL, _CONV_KERNEL = "selective", "cuda"  # the backends that call the claims' kernels: Mamba-1's scan, causal-conv1d
_PYTORCH = "sequential"  # the scan that the kernels replaced
_MISSING = "needs results of a GPU with mamba-ssm and causal-conv1d"


def _all_or_none(within: Sequence[bool]) -> str:
    return REPRODUCED if all(within) else PARTLY if any(within) else CONTRADICTED


@rule(RE_EXECUTED, on_cpu=True)
def scan_8x(speed: list[dict[str, Any]], *, faster: float) -> Finding:
    """Speed of the exact chunked scan against a loop that indexes its steps, and against a careful one."""
    frame = pd.DataFrame(speed)
    frame = frame[(frame.axis == "time") & (frame["pass"] == _BOTH)]
    longest = frame[frame.backend == "loop, indexed"]["length"].max()  # timed by both loops
    times = frame[frame.length == longest].set_index("backend")["seconds"]
    careful = ratio(times["sequential"], times["chunked"])
    indexed = ratio(times["loop, indexed"], times["chunked"])
    return Finding(
        judge_ratio(indexed, faster),
        f"{interval_words(indexed, 'x')} against an indexed loop, {interval_words(careful, 'x')} against a careful one",
        f"exact scan, {longest} steps, {_BOTH}; part of the gain is the loop's own waste; the claim's own chunked scan "
        "is not exact",
    )


@rule(RE_EXECUTED)
def conv_3x(conv: list[dict[str, Any]], gpu: list[dict[str, Any]] | None = None, *, faster: float) -> Finding:
    """Speed of the causal convolution by the CUDA kernel against Conv1d; without one, by shifted multiply-adds."""

    def gain(records: list[dict[str, Any]], name: str) -> Any:
        times = {r["backend"]: r["seconds"] for r in records if r["pass"] == _BOTH}
        return ratio(times["conv1d"], times[name]) if name in times else None

    beside = f"shifted multiply-adds without a kernel: {interval_words(gain(conv, 'shifted'), 'x')}"
    if (kernel := gain(gpu or [], _CONV_KERNEL)) is None:
        return Finding(BLOCKED, beside, f"{_MISSING}; measured instead: what stands in for the kernel, against Conv1d")
    return Finding(judge_ratio(kernel, faster), f"{interval_words(kernel, 'x')}; {beside}", f"against Conv1d, {_BOTH}")


@rule(RE_EXECUTED)
def bench_25ms(block: list[dict[str, Any]], gpu: list[dict[str, Any]] | None = None, *, milliseconds: float) -> Finding:
    """Time of one block at one row and at one row per band; at most as long as claimed is as claimed."""
    parts = []
    for r in gpu or block:
        best = min(r["seconds"])
        rows = f"{r['rows']} row{'s' * (r['rows'] > 1)}"
        parts.append(f"{rows}: {1e3 * best:.0f} ms, {r['length'] / best:.0f} frames/s")
    words = f"{'; '.join(parts)} (best of n = {len((gpu or block)[0]['seconds'])})"
    why = (
        "one block, forward; the claim's two figures agree for one row, a model has one row per band; the document "
        "gives them as the output to expect, and names no GPU"
    )
    if not gpu:
        return Finding(BLOCKED, words, f"{_MISSING}; measured instead: the exact scan without kernels; {why}")
    return Finding(_all_or_none([1e3 * min(r["seconds"]) <= milliseconds for r in gpu]), words, why)


@rule(RE_EXECUTED)
def memory_5_10(
    memory: list[dict[str, Any]], gpu: list[dict[str, Any]] | None = None, *, least: float, most: float
) -> Finding:
    """Peak memory of the kernel's scan against that of the loop, both above their inputs; else of the chunked scan."""
    name = _KERNEL if gpu else "chunked"
    frame = pd.DataFrame(gpu or memory)
    frame = frame[(frame.axis == "time") & frame.backend.isin([_PYTORCH, name])].dropna()
    wide = frame.pivot(index="length", columns="backend", values="peak_bytes")
    if not {_PYTORCH, name} <= set(wide) or (wide := wide.dropna()).empty:
        return Finding(BLOCKED, "", f"{_MISSING}; the peak memory of both scans is not known")
    ratios = wide[name] / wide[_PYTORCH]
    within = list((ratios >= least) & (ratios <= most))
    words = ", ".join(f"{r:.3f}x at {n} steps" for n, r in ratios.items()) + " (n = 1 each)"
    what = f"peak above the inputs, {name} against the loop, {_BOTH}"
    if not gpu:
        return Finding(BLOCKED, words, f"{_MISSING}; measured instead: {what}")
    return Finding(_all_or_none(within), words, f"{what}: {sum(within)} of {len(within)} lie within the claim")


@rule(RE_EXECUTED)
def parity_1e5(speed: list[dict[str, Any]], *, tolerance: float) -> Finding:
    """Errors of the kernel's outputs and gradients against the definition in float64, relative to their norms."""
    own = [r for r in speed if r["backend"] == _KERNEL]
    if not own:
        return Finding(BLOCKED, "", f"{_MISSING}: the file has none of the backend {_KERNEL!r}")
    outputs = [r["output_error"] for r in own]
    gradients = [error for r in own for error in r["gradient_errors"].values()]
    within = [error <= tolerance for error in outputs + gradients]
    return Finding(
        _all_or_none(within),
        f"outputs at most {max(outputs):.1e}, gradients at most {max(gradients, default=float('nan')):.1e} "
        f"({sum(within)} of {len(within)} within)",
        "relative errors in float32 on the scan's own random inputs; the claim does not say of what its difference is",
    )


@rule(RE_EXECUTED, on_cpu=True)
def compile_20(compiled: dict[str, Any], *, least: float, most: float) -> Finding:
    """Speed of a block under torch.compile against the same without it."""
    gain = ratio(compiled["seconds"]["plain"], compiled["seconds"]["compiled"])
    return Finding(
        judge_ratio(gain, least, most),
        f"{interval_words(gain, 'x')}, after {compiled['compile_seconds']:.0f} s of compiling",
        f"one block at the size {compiled['preset']!r}, {_BOTH}",
    )


@rule(RE_TRAINED)
def feedthrough_dominant(shares: list[dict[str, Any]], usdr: Sequence[dict[str, Any]] = (), *, share: float) -> Finding:
    """Norm of the direct term over the output's, in the mixers of a trained model; beside it, what the rest is for.

    Dominant: more than ``share`` of the output, by norm, in the mixers on average. Random weights have such a share,
    too, so that it is no fruit of the training. What leaving out the state between chunks costs is told by the error
    over the longest sequences (shorter ones fit in a chunk) and by the score.
    """
    frame = pd.DataFrame(shares)
    trained, random = (frame[frame.weights == kind] for kind in ("trained", "random"))
    interval = bootstrap_interval(trained["direct"])
    lost = bootstrap_interval(100 * trained[trained.length == trained.length.max()]["without_state"])
    words = (
        f"||D u|| / ||y|| = {interval_words(interval)} over mixers, with random weights "
        f"{interval_words(bootstrap_interval(random['direct']))}; without the state between chunks, an error of "
        f"{interval_words(lost, ' %', 1)} on the time path"
    )
    if usdr:
        words += f" and {gain_words(paired_difference(*([r[s] for r in usdr] for s in ('feedthrough', 'chunked'))))}"
    return Finding(
        judge_ratio(interval, share),
        words,
        f"dominant = more than {share:g} of the output's norm; one small model, one training seed",
    )
