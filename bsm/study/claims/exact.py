"""Claims that definitions, counts and arithmetic settle, the same on every machine.

The unofficial implementation was read in its source; what is counted, compared and run is a literal model of that
description (:mod:`bsm.study.structure`). Memory is counted from tensors without values (:mod:`bsm.study.counts`).
"""

from __future__ import annotations

from typing import Any

from bsm.study.claims.claim import Evidence, Finding, Source, Test, Values, Verdict, claim, computed, on_gpu
from bsm.study.counts import GIB
from bsm.study.speed.parts import CONV, DATA, LOSS, SCAN, STFT

STEP_SECONDS = {"optimisation report": (60, 12), "summary": (61, 12.5), "analysis": (63, 13)}
"""Seconds of a training step before and after, by document."""
PARTS = {SCAN: (40, 5), CONV: (3, 1), LOSS: (15, 5), STFT: (3, 1.5), DATA: (2, 0.5)}
"""Seconds of its parts before and after, as the documents list them. Their "data processing" is the STFT. The
optimisation report has no convolution."""
EPOCHS, STEPS = 100, 430  # what the documents plan with
TENSORS = "exact"  # the profile of results that depend on no machine and no songs


def counted(**inputs: Values) -> Test:
    """Return a test by counting tensors without values."""
    return Test("counted", Evidence.EXACT, inputs, command="bsm claims count")


@claim(
    "params-48",
    "The paper's model has about 48.1 million parameters",
    figure="48.1 million",
    source=(Source.GUIDE,),
    tests=[computed(parameters=Values("structure", "parameters.paper"))],
    millions=48.1,
)
def params_48(parameters: int, *, millions: float) -> Finding:
    """Count the parameters of the model at the paper's sizes, and round as the claim does."""
    reasons = ("Names and shapes of the weights are those of the author's code.",)
    return Finding(Verdict.of(round(parameters / 1e6, 1) == millions), f"{parameters:,}", reasons)


@claim(
    "arch-100",
    "The unofficial implementation's architecture is 100 % that of the paper",
    figure="100 %",
    source=(Source.ANALYSIS,),
    tests=[computed(properties=Values("structure", "properties"))],
)
def arch_100(properties: list[dict[str, Any]]) -> Finding:
    """Compare structural properties of the described model with the paper's: one that differs is not 100 %."""
    differ = [p["property"] for p in properties if p["paper"] != p["seed"]]
    reasons = [f"These differ: {'; '.join(differ)}."] * bool(differ)
    return Finding(Verdict.of(not differ), f"{len(differ)} of {len(properties)} properties differ", reasons)


@claim(
    "checkpoints-compat",
    "Checkpoints from before the CUDA scan still load",
    figure="all",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[
        computed(
            mismatches=Values("structure", "checkpoint.mismatches"),
            tensors=Values("structure", "checkpoint.tensors"),
        )
    ],
)
def checkpoints_compat(mismatches: list[dict[str, Any]], tensors: int) -> Finding:
    """Load the weights of the mixer before the change into the mixer after it, both as described."""
    shown = "; ".join(f"{m['key']}: {m['before'] or 'absent'} to {m['after'] or 'absent'}" for m in mismatches)
    reasons = [f"Loading is refused ({shown})."] * bool(mismatches)
    measured = f"{len(mismatches)} of {tensors} weights of a mixer do not fit"
    return Finding(Verdict.of(not mismatches), measured, reasons)


@claim(
    "loss-exact",
    "The loss with three windows is exactly the paper's",
    figure="exact",
    source=(Source.ANALYSIS,),
    tests=[computed(losses=Values("structure", "losses"))],
    tolerance=1e-6,
)
def loss_exact(losses: list[dict[str, Any]], *, tolerance: float) -> Finding:
    """Compare the values of the three-window loss with the paper's for the same estimates."""
    differ = [r for r in losses if abs(r["seed"] - r["paper"]) > tolerance * max(abs(r["paper"]), tolerance)]
    values = "; ".join(f"{r['case']}: {r['seed']:.3g} against {r['paper']:.3g}" for r in losses)
    reasons = (
        f"The described loss against the paper's, on random signals: {values}.",
        "The described loss has three windows, magnitudes and a mean; the paper's has five, complex values and a sum.",
    )
    return Finding(Verdict.of(not differ), f"{len(differ)} of {len(losses)} values differ", reasons)


@claim(
    "stft-15",
    "The loss takes 15 STFTs per batch, 5 windows by 3 kinds of loss",
    figure="15",
    source=(Source.OPTIMISATION,),
    tests=[computed(stfts=Values("structure", "stfts"))],
    claimed=15,
)
def stft_15(stfts: dict[str, int], *, claimed: int) -> Finding:
    """Count the transforms in one evaluation of a literal loss."""
    measured = f"{stfts['as described']} as described, {stfts['three windows']} after the cut, {stfts['here']} here"
    reasons = (
        "The kinds of loss share the transforms of estimate and target. "
        "Here, one transform of their difference is enough.",
    )
    return Finding(Verdict.of(stfts["as described"] == claimed), measured, reasons)


@claim(
    "bands-equal-mel",
    "The spectrum is split into equal or Mel bands",
    figure="equal or Mel",
    source=(Source.GUIDE,),
    tests=[computed(bands=Values("structure", "bands"))],
)
def bands_equal_mel(bands: dict[str, list[int]]) -> Finding:
    """Compare the widths of the author's bands with equal and Mel bands of the same number."""
    author = bands["author"]
    others = {name: widths for name, widths in bands.items() if name != "author"}
    shared = {n: sum(a == b for a, b in zip(author, widths, strict=True)) for n, widths in others.items()}
    measured = f"of {len(author)} widths, {', '.join(f'{count} as {name}' for name, count in shared.items())}"
    reasons = (f"The author's code has a table of its own, from {min(author)} to {max(author)} bins.",)
    return Finding(Verdict.of(author in others.values()), measured, reasons)


@claim(
    "step-60-12",
    "A training step goes from 60 to 12 s, from 61 to 12.5 s, from 63 to 13 s",
    figure="60 to 12 s",
    source=(Source.OPTIMISATION, Source.SUMMARY, Source.ANALYSIS),
    tests=[computed()],
)
def step_60_12() -> Finding:
    """Compare the documents' totals with each other, and with the sums of the parts that they list."""
    totals = [tuple(sorted({pair[i] for pair in STEP_SECONDS.values()})) for i in (0, 1)]
    every = tuple(map(sum, zip(*PARTS.values(), strict=True)))
    listed = {every, tuple(whole - part for whole, part in zip(every, PARTS[CONV], strict=True))}
    without = [name for name, pair in STEP_SECONDS.items() if pair not in listed]
    verdict = Verdict.INCONSISTENT if max(map(len, totals)) > 1 or without else Verdict.INCONCLUSIVE
    reasons = (
        "The same step has another length in each document.",
        f"The listed parts add up to {' and '.join(f'{b:g} to {a:g} s' for b, a in sorted(listed))}.",
        f"The totals in the {', '.join(without)} are not a sum of listed parts.",
        "No time is left for projections, norms and the optimiser, which no change of theirs makes faster.",
    )
    return Finding(verdict, " against ".join(", ".join(map(str, values)) + " s" for values in totals), reasons)


@claim(
    "epochs-750-150",
    "100 epochs of 430 steps go from 750 to 150 hours",
    figure="750 to 150 h",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[computed()],
    before=750,
    after=150,
    tolerance=0.01,
)
def epochs_750_150(*, before: float, after: float, tolerance: float) -> Finding:
    """Compute the hours from each document's seconds of a step: one document's own step must give both."""
    documents = {name: STEP_SECONDS[name] for name in ("summary", "analysis")}
    hours = {name: [EPOCHS * STEPS * seconds / 3600 for seconds in pair] for name, pair in documents.items()}
    fits = any(abs(b / before - 1) <= tolerance and abs(a / after - 1) <= tolerance for b, a in hours.values())
    measured = "; ".join(f"{n}: {b:.0f} to {a:.0f} h" for n, (b, a) in hours.items())
    reasons = (
        f"Within {100 * tolerance:g} %, each figure fits the step of another document.",
        f"Why an epoch has {STEPS} steps is not explained; an epoch of the author's code has 100 updates.",
    )
    return Finding(Verdict.SUPPORTED if fits else Verdict.INCONSISTENT, measured, reasons)


@claim(
    "memory-5-10",
    "The fast kernels use 5 to 10 % more memory",
    figure="5 to 10 %",
    source=(Source.SUMMARY, Source.ANALYSIS),
    tests=[
        counted(scans=Values("tensors", "scans", profile=TENSORS)),
        on_gpu("scan", packages="mamba-ssm", peaks="memory"),
    ],
    least=1.05,
    most=1.1,
)
def memory_5_10(
    scans: dict[str, int] | None = None, peaks: list[dict[str, Any]] | None = None, *, least: float, most: float
) -> Finding:
    """Compare what Mamba-1's kernel and the loop keep for the backward pass; on a GPU, the peaks above their inputs."""
    if scans is not None:
        ratio = scans["selective"] / scans["loop"]
        kept = {name: f"{size / GIB:.2f} GiB" for name, size in scans.items()}
        reasons = (
            "Counted from the tensors that each saves for its backward pass: one mixer, 62 bands, 8 s, float32.",
            f"The loop keeps {kept['loop']}, Mamba-1's kernel {kept['selective']}, Mamba-2's {kept['triton']}.",
        )
        measured = f"the kernel keeps {100 * ratio:.1f} % of what the loop keeps"
        return Finding(Verdict.of(least <= ratio <= most), measured, reasons)
    peak = {(r["length"], r["backend"]): r["peak_bytes"] for r in peaks if r["axis"] == "time"}
    pairs = [(n, size / peak[n, "sequential"]) for (n, name), size in peak.items() if name == "selective"]
    if not pairs:
        return Finding(Verdict.BLOCKED, "", ("The file has no peaks of the backend `selective`.",))
    inside = [least <= ratio <= most for _, ratio in pairs]
    return Finding(Verdict.of_parts(inside), ", ".join(f"{ratio:.3f}x at {n} steps" for n, ratio in pairs))


@claim(
    "vram-32gb",
    "32 GB of GPU memory force hidden 192, 4 layers, 48 bands, segments of 4 s, batch 2",
    figure="32 GB",
    source=(Source.ANALYSIS,),
    tests=[counted(steps=Values("tensors", "steps", profile=TENSORS))],
    gigabytes=32,
)
def vram_32gb(steps: list[dict[str, Any]], *, gigabytes: float) -> Finding:
    """Count the memory of a training step of the paper's model: if one with its segments fits, nothing is forced."""
    size = {(s["preset"], s["batch"], s["checkpointing"]): s["bytes"] for s in steps}
    full = size["paper", 1, True]
    shown = {case: f"{value / GIB:.1f} GiB" for case, value in size.items()}
    measured = f"the paper's model takes {shown['paper', 1, True]} of {1e9 * gigabytes / GIB:.1f}"
    reasons = (
        "Segments of 8 s, one at a time, blocks recomputed, float32, weights and optimiser included; accumulation "
        "gives any batch.",
        f"The author's five segments at a time take {shown['paper', 5, True]}.",
        f"Without recomputing, one takes {shown['paper', 1, False]}.",
        f"The reduced configuration takes {shown['vram', 2, False]}.",
        "Counted from tensors at these sizes, mamba-ssm's kernels included; a GPU's own workspaces come on top.",
    )
    return Finding(Verdict.of(full >= 1e9 * gigabytes), measured, reasons)
