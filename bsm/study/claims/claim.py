"""What a claim is: its text, its source, its thresholds and results, and the rule that judges them, in one function.

The claims are those of the paper and of four documents of an unofficial implementation. A new one is a function in the
room of its subject::

    @claim("conv-3x", "The causal convolution becomes 3 times faster", figure="3x", source=(Source.SUMMARY,),
           tests=[on_cpu("bsm study 02_scan_backends", conv=Values("scan_backends", "conv"))], faster=3)
    def conv_3x(conv, *, faster):
        gain = ratio(...)
        verdict = judge_ratio(gain, faster)
        return Finding(verdict, interval_words(gain, "x"), ("against Conv1d",), timings=conv)

Each test of a claim is a line of the ledger with a verdict and an evidence of its own: what a CPU shows about a claim
that means a GPU settles the algorithm without its kernel, and the GPU's line waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np

from bsm.stats import Interval
from bsm.study.speed.timer import is_quiet


class Verdict(StrEnum):
    """What a test says of a claim, from settled to open; tables list verdicts in this order."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    INCONSISTENT = "inconsistent"  # the claim contradicts itself or its own document
    INCONCLUSIVE = "inconclusive"  # it was measured, and the measurement cannot tell
    BLOCKED = "blocked"  # a file or device that a test needs is missing; the line says which

    @classmethod
    def of(cls, holds: bool, fails: bool | None = None) -> Self:
        """Return the verdict where a claim ``holds`` or ``fails``; by default it fails where it does not hold."""
        fails = not holds if fails is None else fails
        return cls.SUPPORTED if holds else cls.NOT_SUPPORTED if fails else cls.INCONCLUSIVE

    @classmethod
    def of_parts(cls, holds: Collection[bool]) -> Self:
        """Return the verdict on a claim of several parts: supported if all hold, not supported if none does."""
        return cls.of(all(holds), not any(holds))

    @classmethod
    def worst(cls, verdicts: Collection[Self]) -> Self:
        """Combine the verdicts on all parts of a claim: it fails where one part does, and is open where one is."""
        return cls.of(all(v == cls.SUPPORTED for v in verdicts), cls.NOT_SUPPORTED in verdicts)

    @classmethod
    def agreed(cls, verdicts: Collection[Self]) -> Self:
        """Return the verdict of several readings of one claim if they agree; otherwise it is open."""
        return next(iter(verdicts)) if len(set(verdicts)) == 1 else cls.INCONCLUSIVE


class Evidence(StrEnum):
    """What a verdict rests on."""

    EXACT = "exact"
    OFFICIAL = "official code on the CPU"
    CPU_TIMING = "CPU timing"
    SMALL = "small models"
    FULL = "full scale"


class Source(StrEnum):
    """Where claims come from: the paper, and Korean documents of the unofficial implementation, titles translated."""

    PAPER = "*Mamba2 Meets Silence*, arXiv 2508.14556"
    OPTIMISATION = "*Performance optimisation report on BSMamba2*"
    SUMMARY = "*Summary of changes: integration of Mamba-SSM*"
    ANALYSIS = "*Project analysis of BSMamba2 and report on the integration of Mamba-SSM*"
    GUIDE = "*Implementation guide to the vocal separation model BSMamba2*"


GPU, LONG, DEMO, PUBLISHED = "gpu", "long", "demo", "published"
"""Folders of results that the ledger reads: of a GPU, of the long study, of the default profile, and of the published
model (`make published`). :mod:`bsm.study.contributed` has one more."""
ON_GPU = "make gpu"  # measures all that waits for a GPU


@dataclass(frozen=True)
class Finding:
    """What measured values say: a verdict, our figure in a few words, and reasons, a sentence each.

    ``timings`` are the records that the verdict rests on. On a CPU they count only where no other work ran.
    """

    verdict: Verdict
    measured: str
    reasons: Sequence[str] = ()
    timings: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Values:
    """Values of a result file, ``reports/<profile>/results/<result>.json``.

    Attributes:
        result: the file's name without suffix; for contributed results, the name of their weights.
        field: the key in its ``values``, or several with dots between them; by default all values.
        profile: the profile that the file belongs to; by default the one that is judged.
        optional: whether the rule can judge without these values.
        runs: gather the records of a campaign's runs, ``<result>-<arm>-seed<seed>.json``, with their arm and seed.
        arms: arms that must have runs.
    """

    result: str
    field: str = ""
    profile: str = ""
    optional: bool = False
    runs: bool = False
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Test:
    """A way to test a claim: a line of the ledger.

    Attributes:
        on: the device or scale that its verdict is about.
        evidence: what its verdict rests on.
        inputs: the rule's values, by the name of its argument.
        long: values that replace ``inputs`` where the long study is judged.
        profiles: profiles whose results count; the first that has them. By default the one that is judged.
        needs: the file or device that is missing while there are no results, in a few words.
        command: the command that makes the results once it is there.
        options: further keyword arguments of the rule.
        comparable_only: results that are not comparable with the paper's do not count.
    """

    on: str
    evidence: Evidence
    inputs: Mapping[str, Values] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    needs: str = ""
    command: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    comparable_only: bool = False
    long: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim under test: the arguments of :func:`claim`, and the function that judges."""

    id: str
    text: str
    figure: str
    source: tuple[str, ...]
    tests: tuple[Test, ...]
    thresholds: Mapping[str, Any]
    judge: Callable[..., Finding]


CLAIMS: dict[str, Claim] = {}


def claim(
    name: str, text: str, *, figure: str, source: tuple[str, ...], tests: Sequence[Test], **thresholds: Any
) -> Callable[[Callable[..., Finding]], Callable[..., Finding]]:
    """Register the rule that judges a claim.

    The name is short and unique. The text is a sentence without its full stop, ``figure`` the claimed figure with its
    unit, ``source`` the titles of the documents. Each of the tests is a line of the ledger. The thresholds are keyword
    arguments of the rule.
    """

    def register(judge: Callable[..., Finding]) -> Callable[..., Finding]:
        if name in CLAIMS:
            raise ValueError(f"there are two claims {name!r}")
        CLAIMS[name] = Claim(name, text, figure, source, tuple(tests), thresholds, judge)
        return judge

    return register


def computed(**inputs: Values) -> Test:
    """Return a test of what follows from definitions and counts, the same on every machine."""
    return Test("by definition", Evidence.EXACT, inputs)


def on_cpu(command: str, *, needs: str = "", **inputs: Values) -> Test:
    """Return a test by a command's timings on a CPU: of the algorithm, without the kernels of a GPU."""
    return Test("CPU", Evidence.CPU_TIMING, inputs, needs=needs, command=command)


def on_gpu(result: str, *, packages: str = "", kernel: str = "", **fields: str) -> Test:
    """Return the test of a claim on the GPU that it means, from the result of a part of :mod:`bsm.study.gpu`.

    Args:
        result: the part's name.
        packages: the packages of the kernels.
        kernel: the backend that the rule gets as its argument ``fast``.
        fields: for each argument of the rule, the field of the result's values; an empty field stands for all of them.
    """
    inputs = {name: Values(result, field) for name, field in fields.items()}
    needs = "a CUDA GPU" + f" with {packages}" * bool(packages)
    return Test("GPU", Evidence.FULL, inputs, (GPU,), needs, ON_GPU, {"fast": kernel} if kernel else {})


def judge_ratio(interval: Interval, low: float, high: float = np.inf) -> Verdict:
    """Judge a claimed ratio or difference: its interval lies within [low, high], outside it, or across an end.

    An interval without ends (NaN) tells nothing. "No difference" is a finding only as equivalence (Lakens, 2017):
    within ``[-margin, margin]``.
    """
    return Verdict.of(interval.low >= low and interval.high <= high, interval.high < low or interval.low > high)


def undisturbed(finding: Finding, test: Test) -> Finding:
    """Return a finding whose CPU timings count; no verdict rests on a timing during which other work ran."""
    if test.evidence != Evidence.CPU_TIMING or all(map(is_quiet, finding.timings)):
        return finding
    reason = f"It was measured while other work ran; run `{test.command}` again on a quiet machine."
    return replace(finding, verdict=Verdict.INCONCLUSIVE, reasons=(reason, *finding.reasons))
