"""Rules on a whole training step, from the results of notebook ``07_step_profile``.

What was claimed means a GPU and the unofficial implementation's model; what was measured is this model on a CPU, with
the described loop, losses and mono transform put in. So a ratio settles no such claim, whether it fits or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bsm.study.ablation import gain_of
from bsm.study.claims import (
    BLOCKED,
    COMPUTED,
    CONTRADICTED,
    PARTLY,
    RE_EXECUTED,
    REPRODUCED,
    WENT,
    Finding,
    judge_ratio,
    rule,
)
from bsm.study.rules.data import AGAIN
from bsm.study.speed.memory import GIB, predicted_bytes
from bsm.study.speed.parts import SCAN
from bsm.study.speed.plan import EPOCHS, STEPS
from bsm.study.speed.spectra import AFTER_LOSS, AVERAGED, COMPLEX_LOSS, DESCRIBED_LOSS, EACH, EXACT_LOSS
from bsm.study.speed.step import BEFORE, LOOPS, OURS, REDUCED, named
from bsm.study.stats import bootstrap_interval, gain_words, interval_words, ratio
from bsm.study.step_profile import REST, shares

STEP_SECONDS = {"000": (60, 12), "001": (61, 12.5), "002": (63, 13)}  # before and after, by document


def _where(record: dict[str, Any]) -> str:
    return f"preset {record['preset']}, {record['batch']} x {record['audio_seconds']:g} s"


@rule(RE_EXECUTED, on_cpu=True)
def train_5x(variants: list[dict[str, Any]], *, faster: float) -> Finding:
    """Speed of a whole step by the documents' changes, with an exact scan, and by ours, which leave the loss alone."""
    slow, reduced, ours = (named(variants, v.name) for v in (BEFORE, REDUCED, OURS))
    theirs = ratio(slow["seconds"], reduced["seconds"])
    exact = ratio(slow["seconds"], ours["seconds"])
    return Finding(
        judge_ratio(theirs, faster),
        f"{interval_words(theirs, 'x')} with the reduced loss and mono; {interval_words(exact, 'x')} without",
        f"{_where(slow)}; the loss before compares complex values alone, theirs magnitudes, too; the scan after is "
        "exact, theirs is not; the gain grows with the length of the loop",
    )


@rule(RE_EXECUTED, on_cpu=True)
def step_60_12(variants: list[dict[str, Any]], *, unlisted: float) -> Finding:
    """Share of a step that goes into what the documents do not list, though their parts add up to the whole step."""
    before, after = (shares(named(variants, v.name), *sum(REST.values(), ())) for v in (BEFORE, REDUCED))
    return Finding(
        CONTRADICTED if after.low > unlisted else PARTLY,
        f"projections, norms and optimiser take {interval_words(before, ' %', 1)} of a step before and "
        f"{interval_words(after, ' %', 1)} after",
        "the listed parts add up to 60 and 12 s (000), 63 and 13 s with the convolution (002): nothing is left for "
        "the rest of the model, whose time no change of theirs shortens; 61 and 12.5 s (001) are no sum of parts; "
        f"{_where(named(variants, BEFORE.name))}",
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


@rule(RE_EXECUTED, on_cpu=True)
def scan_65pct(
    variants: list[dict[str, Any]], backends: Sequence[dict[str, Any]] = (), *, least: float, most: float
) -> Finding:
    """Share of the scan in a step with the described loop and with careful ones, and with the chunked scan."""
    loop, ours = (shares(named(variants, v.name), SCAN) for v in (BEFORE, OURS))
    careful = {_where(r): shares(r, SCAN) for r in backends if r["scan"] in LOOPS}
    loops = [loop, *careful.values()]
    found = {(judge_ratio(share, least, most), share.low > most) for share in loops}
    low, high = min(s.estimate for s in loops), max(s.estimate for s in loops)
    straddle = f"the loops' shares, {low:.1f} to {high:.1f} %, straddle it; " * (low < (least + most) / 2 < high)
    beside = "".join(f"{interval_words(share, ' %', 1)} with a careful one ({w}), " for w, share in careful.items())
    return Finding(
        found.pop()[0] if len(found) == 1 else PARTLY,  # one share above the claim and one below settle nothing
        f"{interval_words(loop, ' %', 1)} with the described loop, {beside}{interval_words(ours, ' %', 1)} with the "
        "chunked scan",
        f"{straddle}forward and backward, {_where(named(variants, BEFORE.name))}; the described loop's share grows "
        "with its length, for its backward pass is quadratic",
    )


@rule(RE_EXECUTED, on_cpu=True)
def stft_loss_3x(losses: list[dict[str, Any]], *, faster: float, least: float) -> Finding:
    """Speed of the documents' reduced loss against their first one, and of the paper's exact loss as computed here.

    The optimisation report has two figures for this change: ``faster`` in its table, ``least`` to that in its text.
    """
    times = {r["loss"]: r["seconds"] for r in losses}
    after, exact = times[AFTER_LOSS], times[EXACT_LOSS]
    beside = f"from one complex comparison a window: {interval_words(ratio(times[COMPLEX_LOSS], after), 'x')}"
    why = "value and gradient; the documents' transforms are as long as their windows, the paper's at least 2048"
    if DESCRIBED_LOSS not in times:
        return Finding(BLOCKED, beside, f"{AGAIN}, with magnitude, real and imaginary part of every window; {why}")
    gain, exactly = ratio(times[DESCRIBED_LOSS], after), ratio(times[DESCRIBED_LOSS], exact)
    text = WENT.get(judge_ratio(gain, least), "cannot be told")
    return Finding(
        judge_ratio(gain, faster),
        f"{interval_words(gain, 'x')}; {beside}; the paper's loss, value for value, in bsm: "
        f"{interval_words(exactly, 'x')}",
        f"000's text expects {least:g} to {faster:g} times of this change, its table {faster:g}; {least:g} times or "
        f"more: {text}; {why}",
    )


@rule(RE_EXECUTED, on_cpu=True)
def mono_halves(
    stft: dict[str, list[float]],
    sides: list[dict[str, Any]],
    trained: Sequence[dict[str, Any]] = (),
    *,
    least: float,
    most: float,
) -> Finding:
    """Time of a transform of each channel over one of their average, what that leaves out, and what it costs."""
    score = gain_of(trained, "mono")
    lost = {name: bootstrap_interval([100 * s[name] for s in sides]) for name in ("mixture", "vocals")}
    beside = (
        f"from both channels in one call: {interval_words(ratio(stft['stereo'], stft['mono']), 'x')}; left out: "
        f"{interval_words(lost['mixture'], ' %', 1)} of the mixtures' energy, "
        f"{interval_words(lost['vocals'], ' %', 1)} of the vocals'"
    ) + (f"; small models trained on mono: {gain_words(score)}" if score else "")
    why = (
        "averaging included; songs of the profile and one real recording; a mask cannot bring back what the average "
        "leaves out"
    )
    if EACH not in stft:
        return Finding(BLOCKED, beside, f"{AGAIN}, a call for each channel; {why}")
    gain = ratio(stft[EACH], stft[AVERAGED])
    return Finding(judge_ratio(gain, least, most), f"{interval_words(gain, 'x')} from a call a channel; {beside}", why)


@rule(COMPUTED, on_cpu=True)
def vram_32gb(memory: list[dict[str, Any]], *, gigabytes: float) -> Finding:
    """Memory of the paper's model in 32 GB, one segment of 8 s at a time, with checkpointing.

    Computed by a line through the measured lengths. Without checkpointing, the line ends too near the limit to count.
    """
    precision = memory[0]["precision"]
    spans = sorted({r["audio_seconds"] for r in memory})

    def size(preset: str, checkpointing: bool, seconds: float, batch: int) -> float:
        return predicted_bytes(memory, (preset, precision, checkpointing), seconds, batch)

    room = gigabytes * 1e9
    again = size("paper", True, 8, 1)
    reduced = size("vram", False, 4, 2)
    if np.isnan([again, reduced]).any():
        return Finding(PARTLY, "", "too few measurements to predict from")
    return Finding(
        CONTRADICTED if again < room else REPRODUCED if reduced < room else PARTLY,
        f"paper's model: {again / GIB:.1f} GiB for 8 s with checkpointing, one segment at a time; reduced one without: "
        f"{reduced / GIB:.1f} GiB for 4 s, batch 2; of {room / GIB:.1f} GiB",
        f"a line through the memory of {' and '.join(f'{s:g}' for s in spans)} s, in {precision}, carried on to "
        f"{8 / spans[-1]:.0f} times the longest; accumulation gives any batch; half precision and fused kernels take "
        "less",
    )
