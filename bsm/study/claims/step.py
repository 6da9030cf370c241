"""Claims about a whole training step and its parts, from a profile of the step.

What was claimed means a GPU and the unofficial implementation's model. What a CPU measures is this model, with the
described loop, losses and mono transform put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bsm.stats import bootstrap_interval, interval_words, ratio
from bsm.study.claims.claim import Finding, Source, Values, Verdict, claim, judge_ratio, on_cpu, on_gpu
from bsm.study.claims.scan import LOOP, beside_the_loop, rounds
from bsm.study.speed.parts import SCAN
from bsm.study.speed.spectra import AFTER_LOSS, AVERAGED, COMPLEX_LOSS, DESCRIBED_LOSS, EACH, EXACT_LOSS
from bsm.study.speed.step import BEFORE, LOOPS, OURS, REDUCED, named, size
from bsm.study.step_profile import shares

NOTEBOOK = "bsm study 03_training_step"
STEPS = {
    "variants": Values("step_profile", "variants"),
    "backends": Values("step_profile", "backends", optional=True),
}


def _where(record: dict[str, Any]) -> str:
    return f"preset {record['preset']}, {size(record)}"


@claim(
    "train-5x",
    "Training becomes 5 to 10 times faster",
    figure="5 to 10x",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[
        on_cpu(NOTEBOOK, **STEPS, speed=Values("scan_backends", "speed", optional=True)),
        on_gpu("step", variants="variants"),
    ],
    faster=5,
)
def train_5x(
    variants: list[dict[str, Any]],
    backends: Sequence[dict[str, Any]] = (),
    speed: Sequence[dict[str, Any]] = (),
    *,
    faster: float,
) -> Finding:
    """Compare a whole step by the documents' changes, with an exact scan, with the step before them.

    The step is a small model's. At the paper's size, whole steps with the described loop take too long to be timed. So
    the gain there is estimated from the scan's share and the loop's time. If both disagree, the test is inconclusive.
    """
    slow, reduced, ours = (named(variants, v.name) for v in (BEFORE, REDUCED, OURS))
    theirs = ratio(slow["seconds"], reduced["seconds"])
    exact = ratio(slow["seconds"], ours["seconds"])
    found, estimated = {judge_ratio(theirs, faster)}, []
    whole = next((r for r in backends if r["preset"] == "paper" and r["scan"] == "chunked"), None)
    timed = beside_the_loop(speed)
    if whole and timed:
        share, loop = shares(whole, SCAN), ratio(timed[LOOP]["seconds"], timed["chunked"]["seconds"])
        ends = (share.low, loop.low), (share.high, loop.high)
        low, high = (1 + part / 100 * (longer - 1) for part, longer in ends)
        found.add(Verdict.of(low >= faster, high < faster))
        estimated = [
            f"Estimated at the paper's size: {low:.1f} to {high:.1f}x. There the scan takes "
            f"{interval_words(share, ' %')} of a chunked step, and the described loop {loop.low:.1f} to "
            f"{loop.high:.1f} times as long as the scan."
        ]
    reasons = (
        *estimated,
        f"With the reduced loss and mono; {_where(slow)}, {rounds(theirs)}.",
        f"With the paper's loss and stereo: {interval_words(exact, 'x')}.",
        "The faster scan here is exact; the documents' is not. The gain grows with the length of the loop.",
    )
    return Finding(Verdict.agreed(found), interval_words(theirs, "x"), reasons, (slow, reduced))


@claim(
    "scan-65pct",
    "The scan takes about 65 % of a training step",
    figure="65 %",
    source=(Source.ANALYSIS,),
    tests=[
        on_cpu(NOTEBOOK, **STEPS),
        on_gpu("step", variants="variants"),
    ],
    least=60,
    most=70,
)
def scan_65pct(
    variants: list[dict[str, Any]], backends: Sequence[dict[str, Any]] = (), *, least: float, most: float
) -> Finding:
    """Measure the share of the scan in a step, with the described loop, with careful loops, and with our scan."""
    before, careful_steps = named(variants, BEFORE.name), [r for r in backends if r["scan"] in LOOPS]
    loop, ours = (shares(record, SCAN) for record in (before, named(variants, OURS.name)))
    careful = {_where(r): shares(r, SCAN) for r in careful_steps}
    found = {judge_ratio(share, least, most) for share in (loop, *careful.values())}
    reasons = (
        f"With the described loop, forward and backward; {_where(before)}, {rounds(loop)}.",
        *(f"With a careful loop ({where}): {interval_words(share, ' %')}." for where, share in careful.items()),
        f"With the chunked scan: {interval_words(ours, ' %')}.",
        "The described loop's share grows with its length, because its backward pass is quadratic.",
    )
    return Finding(Verdict.agreed(found), interval_words(loop, " %"), reasons, (before, *careful_steps))


@claim(
    "stft-loss-3x",
    "The STFT loss becomes 3 times faster, 15 s to 5 s of a training step",
    figure="3x",
    source=(Source.OPTIMISATION, Source.SUMMARY, Source.ANALYSIS),
    tests=[
        on_cpu(NOTEBOOK, losses=Values("step_profile", "losses")),
        on_gpu("step", losses="losses"),
    ],
    faster=3,
    least=2,
)
def stft_loss_3x(losses: list[dict[str, Any]], *, faster: float, least: float) -> Finding:
    """Compare the documents' reduced loss with their first one; and with the paper's exact loss as computed here."""
    times = {r["loss"]: r["seconds"] for r in losses}
    before, after = times[DESCRIBED_LOSS], times[AFTER_LOSS]
    gain, complex_gain = ratio(before, after), ratio(times[COMPLEX_LOSS], after)
    exact = ratio(before, times[EXACT_LOSS])
    reasons = (
        f"From magnitude, real and imaginary part in 5 windows to magnitudes in 3; value and gradient, {rounds(gain)}.",
        f"From one complex comparison a window: {interval_words(complex_gain, 'x')}.",
        f"The paper's loss, value for value, in this package: {interval_words(exact, 'x')} the speed of the first.",
        f"The report's text expects {least:g} to {faster:g} times, its table {faster:g}.",
    )
    timings = [r for r in losses if r["loss"] in (DESCRIBED_LOSS, AFTER_LOSS)]
    return Finding(judge_ratio(gain, faster), interval_words(gain, "x"), reasons, timings)


@claim(
    "mono-halves",
    "Averaging stereo to mono halves the cost of the STFTs",
    figure="50 %",
    source=(Source.OPTIMISATION,),
    tests=[
        on_cpu(NOTEBOOK, stft=Values("step_profile", "stft"), sides=Values("step_profile", "sides")),
        on_gpu("step", stft="stft"),
    ],
    least=1.8,
)
def mono_halves(stft: dict[str, Any], sides: Sequence[dict[str, Any]] = (), *, least: float) -> Finding:
    """Compare a transform of each channel with one of their average; say what the average leaves out."""
    times = stft["seconds"]
    gain, together = ratio(times[EACH], times[AVERAGED]), ratio(times["stereo"], times["mono"])
    left_out = []
    if sides:
        mixture, vocals = (bootstrap_interval([100 * s[name] for s in sides]) for name in ("mixture", "vocals"))
        left_out.append(
            f"The average leaves out {interval_words(mixture, ' %')} of the mixtures' energy and "
            f"{interval_words(vocals, ' %')} of the vocals', which no mask can bring back."
        )
    reasons = (
        f"A call for each channel against one of their average; halved means at least {least:g}x; {rounds(gain)}.",
        f"From both channels in one call: {interval_words(together, 'x')}.",
        *left_out,
    )
    return Finding(judge_ratio(gain, least), interval_words(gain, "x"), reasons, (stft,))
