"""What the results say about the claims under test: a rule beside each claim turns measurements into a verdict.

The claims are those of an optimisation report and two integration reports of an unofficial implementation; none of
their speed figures comes with a measurement, and all mean a GPU. What is measured on a CPU is judged as a ratio, and
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bsm.study.stats import Interval, bootstrap_interval, interval_text

REPRODUCED, CONTRADICTED, PARTLY, BLOCKED = "reproduced", "contradicted", "partly", "blocked"


@dataclass(frozen=True)
class Verdict:
    """One claim, what was measured, and what follows."""

    id: str
    claim: str
    measured: str
    status: str
    why: str


def scan_verdicts(benchmark: dict[str, Any], direct: dict[str, Any] | None) -> list[Verdict]:
    """Judge the claims about scan and convolution from the results of notebook ``02_scan_backends``.

    Args:
        benchmark: values of ``scan_backends.json``.
        direct: values of ``direct_term.json``, or None.
    """
    verdicts = [_scan_8x(benchmark), _conv_3x(benchmark), _bench_25ms(benchmark), _memory(benchmark)]
    if benchmark.get("compile"):
        verdicts.append(_compile(benchmark["compile"]))
    if direct:
        verdicts.append(_direct(direct))
    verdicts.append(
        Verdict("parity-1e5", "CUDA agrees with PyTorch within 1e-5", "–", BLOCKED, "needs a GPU with mamba-ssm")
    )
    return verdicts


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return the verdicts as a table."""
    return pd.DataFrame([vars(v) for v in verdicts])


def judge_ratio(interval: Interval, low: float, high: float = np.inf) -> str:
    """Judge a claimed ratio: its interval lies within [low, high], outside, or across an end."""
    if np.isnan(interval.low):
        return PARTLY
    if interval.low >= low and interval.high <= high:
        return REPRODUCED
    return CONTRADICTED if interval.high < low or interval.low > high else PARTLY


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    return bootstrap_interval(np.divide(slow, fast))


def _text(interval: Interval, unit: str = "x") -> str:
    return f"{interval.estimate:.2f}{unit} ({interval_text(interval.low, interval.high)}; n = {interval.n})"


def _scan_8x(benchmark: dict[str, Any]) -> Verdict:
    frame = pd.DataFrame(benchmark["speed"])
    frame = frame[(frame.axis == "time") & (frame["pass"] == "forward + backward")]
    both = frame[frame.backend == "loop, indexed"]["length"].max()
    times = frame[frame.length == both].set_index("backend")["seconds"]
    careful = _ratio(times["sequential"], times["chunked"])
    indexed = _ratio(times["loop, indexed"], times["chunked"])
    status = judge_ratio(indexed, 8)
    return Verdict(
        "scan-8x",
        "a chunked scan is 8x faster than the loop",
        f"{_text(indexed)} against an indexed loop, {_text(careful)} against a careful one",
        PARTLY if status == REPRODUCED else status,
        f"exact scan, CPU, {both} steps, forward + backward; part of the gain is the loop's own waste; the claim's "
        "seconds on a GPU are not tested, and its own chunked scan is not exact",
    )


def _conv_3x(benchmark: dict[str, Any]) -> Verdict:
    frame = pd.DataFrame(benchmark["conv"])
    times = frame[frame["pass"] == "forward + backward"].set_index("backend")["seconds"]
    gain = _ratio(times["conv1d"], times["shifted"])
    return Verdict(
        "conv-3x",
        "the causal convolution becomes 3x faster",
        _text(gain),
        BLOCKED,
        "the claim's CUDA kernel needs a GPU; measured instead: shifted multiply-adds against Conv1d on the CPU",
    )


def _bench_25ms(benchmark: dict[str, Any]) -> Verdict:
    parts = [
        f"{r['rows']} row{'s' * (r['rows'] > 1)}: {1e3 * min(r['seconds']):.0f} ms, "
        f"{r['rows'] * r['length'] / min(r['seconds']):.0f} frames/s"
        for r in benchmark["block"]
    ]
    return Verdict(
        "bench-25ms",
        "4 s of audio in 25.3 ms, 15,810 frames/s",
        "; ".join(parts),
        BLOCKED,
        "needs a GPU; one block on the CPU. The claim's two figures agree for one row; a model has one row per band",
    )


def _memory(benchmark: dict[str, Any]) -> Verdict:
    frame = pd.DataFrame(benchmark["memory"])
    frame = frame[(frame.axis == "time") & frame.backend.isin(["sequential", "chunked"])].dropna()
    wide = frame.pivot(index="length", columns="backend", values="peak_bytes").dropna()
    if wide.empty:
        return Verdict("memory-5-10", "fast kernels use 5-10 % more memory", "–", BLOCKED, "not measurable here")
    ratios = wide["chunked"] / wide["sequential"]
    return Verdict(
        "memory-5-10",
        "fast kernels use 5-10 % more memory",
        ", ".join(f"{r:.3f}x at {n} steps" for n, r in ratios.items()),
        CONTRADICTED if (ratios < 1).all() else PARTLY,
        "peak above the inputs, chunked against the loop, forward + backward, CPU; CUDA kernels not tested",
    )


def _compile(compiled: dict[str, Any]) -> Verdict:
    gain = _ratio(compiled["seconds"]["plain"], compiled["seconds"]["compiled"])
    return Verdict(
        "compile-20",
        "torch.compile gains 10-20 %",
        f"{_text(gain)}, after {compiled['compile_seconds']:.0f} s of compiling",
        judge_ratio(gain, 1.1, 1.2),
        f"one block at the size {compiled['preset']!r}, forward + backward, CPU",
    )


def _direct(direct: dict[str, Any]) -> Verdict:
    frame = pd.DataFrame(direct["shares"])
    shares = frame[frame.weights == "trained"]["direct"]
    interval = bootstrap_interval(shares)
    # Dominant: the direct term is most of the output, by norm, in the mixers on average.
    status = REPRODUCED if interval.low > 0.5 else CONTRADICTED if interval.high < 0.5 else PARTLY
    return Verdict(
        "feedthrough-dominant",
        "D u is the dominant term of the scan",
        f"||D u|| / ||y|| = {_text(interval, '')} over mixers",
        status,
        "dominant = more than half of the output's norm; small trained model",
    )
