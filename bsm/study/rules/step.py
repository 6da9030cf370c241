"""Rules on a whole training step, from the results of notebook ``07_step_profile``.

What was claimed means a GPU and the unofficial implementation's model; what was measured is this model on a CPU, with
the described loop, losses and mono transform put in. So a ratio that fits is a part of the claim, never all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bsm.study.ablation import gain_of
from bsm.study.bench.memory import GIB, predicted_bytes
from bsm.study.bench.parts import SCAN
from bsm.study.bench.step import BEFORE, OURS, REDUCED, named
from bsm.study.claims import (
    COMPUTED,
    CONTRADICTED,
    PARTLY,
    RE_EXECUTED,
    REPRODUCED,
    Finding,
    interval_words,
    judge_ratio,
    ratio,
    rule,
)
from bsm.study.plan import EPOCHS, STEPS
from bsm.study.stats import bootstrap_interval
from bsm.study.step_profile import REST, shares

STEP_SECONDS = {"000": (60, 12), "001": (61, 12.5), "002": (63, 13)}  # before and after, by document


def _at_most_partly(status: str) -> str:
    return PARTLY if status == REPRODUCED else status


def _where(record: dict[str, Any]) -> str:
    return f"preset {record['preset']}, {record['batch']} x {record['audio_seconds']:g} s"


@rule(RE_EXECUTED)
def train_5x(variants: list[dict[str, Any]], *, faster: float) -> Finding:
    """Speed of a whole step by the documents' changes, with an exact scan, and by ours, which leave the loss alone."""
    slow, reduced, ours = (named(variants, v.name) for v in (BEFORE, REDUCED, OURS))
    theirs = ratio(slow["seconds"], reduced["seconds"])
    exact = ratio(slow["seconds"], ours["seconds"])
    return Finding(
        _at_most_partly(judge_ratio(theirs, faster)),
        f"{interval_words(theirs, 'x')} with the reduced loss and mono; {interval_words(exact, 'x')} without",
        f"{_where(slow)}; the scan after is exact, theirs is not; the gain grows with the length of the loop",
    )


@rule(RE_EXECUTED)
def step_60_12(variants: list[dict[str, Any]], *, unlisted: float) -> Finding:
    """Share of a step that goes into what the documents do not list, though their parts add up to the whole step."""
    before, after = (shares(named(variants, v.name), *sum(REST.values(), ())) for v in (BEFORE, REDUCED))
    return Finding(
        CONTRADICTED if after.low > unlisted else PARTLY,
        f"projections, norms and optimiser take {interval_words(before, ' %', 1)} of a step before and "
        f"{interval_words(after, ' %', 1)} after",
        "the listed parts add up to 60 and 12 s (000), 63 and 13 s with the convolution (002): nothing is left for "
        "the rest of the model, whose time no change of theirs shortens; 61 and 12.5 s (001) are no sum of parts; the "
        f"seconds themselves were not tested; {_where(named(variants, BEFORE.name))}",
    )


@rule(COMPUTED)
def epochs_750_150(*, before: float, after: float, tolerance: float) -> Finding:
    """Hours of 100 epochs x 430 steps from each document's seconds of a step."""
    hours = {name: [EPOCHS * STEPS * s / 3600 for s in pair] for name, pair in STEP_SECONDS.items()}
    fits = {n: (abs(b / before - 1) <= tolerance, abs(a / after - 1) <= tolerance) for n, (b, a) in hours.items()}
    both = any(all(pair) for pair in fits.values())
    each = all(any(pair[i] for pair in fits.values()) for i in (0, 1))
    return Finding(
        REPRODUCED if both else PARTLY if each else CONTRADICTED,
        "; ".join(f"{n}: {b:.0f} to {a:.0f} h" for n, (b, a) in hours.items()) + " (exact)",
        "both figures in one document"
        if both
        else "each figure fits the step of another document; why an epoch has "
        "430 steps is not explained (an epoch of the author's is 100 updates)",
    )


@rule(RE_EXECUTED)
def scan_65pct(variants: list[dict[str, Any]], *, least: float, most: float) -> Finding:
    """Share of the scan in a step with the loop, and with the chunked scan."""
    loop, ours = (shares(named(variants, v.name), SCAN) for v in (BEFORE, OURS))
    return Finding(
        _at_most_partly(judge_ratio(loop, least, most)),
        f"{interval_words(loop, ' %', 1)} with the loop, {interval_words(ours, ' %', 1)} with the chunked scan",
        f"forward and backward, {_where(named(variants, BEFORE.name))}; the loop's share grows with its length, for "
        "its backward pass is quadratic",
    )


@rule(RE_EXECUTED)
def stft_loss_3x(losses: list[dict[str, Any]], *, faster: float) -> Finding:
    """Speed of the documents' reduced loss against their first one, and of the paper's exact loss as computed here."""
    before, after, _, exact = (r["seconds"] for r in losses)
    gain, exactly = ratio(before, after), ratio(before, exact)
    return Finding(
        _at_most_partly(judge_ratio(gain, faster)),
        f"{interval_words(gain, 'x')}; the paper's loss, value for value, in bsm: {interval_words(exactly, 'x')}",
        "value and gradient; the documents' transforms are as long as their windows, the paper's at least 2048",
    )


@rule(RE_EXECUTED)
def mono_halves(
    stft: dict[str, list[float]],
    sides: list[dict[str, Any]],
    trained: Sequence[dict[str, Any]] = (),
    *,
    least: float,
    most: float,
) -> Finding:
    """Time of a stereo over a mono transform, what the average of the channels leaves out, and what that costs."""
    gain = ratio(stft["stereo"], stft["mono"])
    score = gain_of(trained, "mono")
    beside = f"; trained on mono: {interval_words(score)} dB uSDR" if score else ""
    lost = {name: bootstrap_interval([100 * s[name] for s in sides]) for name in ("mixture", "vocals")}
    return Finding(
        judge_ratio(gain, least, most),
        f"{interval_words(gain, 'x')}; left out: {interval_words(lost['mixture'], ' %', 1)} of the mixtures' energy, "
        f"{interval_words(lost['vocals'], ' %', 1)} of the vocals'{beside}",
        "averaging included; songs of the profile and one real recording; a mask cannot bring back what the average "
        "leaves out",
    )


@rule(RE_EXECUTED)
def vram_32gb(memory: list[dict[str, Any]], *, gigabytes: float) -> Finding:
    """Memory of the paper's model in 32 GB, one segment at a time, with and without checkpointing."""
    precision = memory[0]["precision"]

    def size(preset: str, checkpointing: bool, seconds: float, batch: int) -> float:
        return predicted_bytes(memory, (preset, precision, checkpointing), seconds, batch)

    room = gigabytes * 1e9
    kept, again = size("paper", False, 4, 1), size("paper", True, 8, 1)
    reduced = size("vram", False, 4, 2)
    if np.isnan([kept, again, reduced]).any():
        return Finding(PARTLY, "", "too few measurements to predict from")
    return Finding(
        CONTRADICTED if min(kept, again) < room else REPRODUCED if reduced < room else PARTLY,
        f"paper's model: {again / GIB:.1f} GiB for 8 s with checkpointing, {kept / GIB:.1f} GiB for 4 s without, one "
        f"segment at a time; reduced one: {reduced / GIB:.1f} GiB for 4 s, batch 2 (n = 2 measured lengths each)",
        f"computed from measurements in {precision} on the CPU; {room / GIB:.1f} GiB are there; accumulation gives any "
        "batch; half precision and fused kernels take less",
    )
