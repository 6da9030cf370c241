"""What a rule is: it turns measured values into a finding about one claim.

The claims are those of the paper's guide, of an optimisation report and of two integration reports of an unofficial
implementation. They stand in ``reports/claims.yaml``, each with the name of its rule and of the values that the rule is
given (:mod:`bsm.study.ledger` reads them). The rules are in :mod:`bsm.study.rules`, a file per subject. A new one is a
function there and a row in the ledger::

    @rule(RE_EXECUTED)
    def conv_3x(conv: list[dict[str, Any]], *, faster: float) -> Finding:
        gain = ratio(...)
        return Finding(judge_ratio(gain, faster), interval_words(gain, "x"), "CPU, forward + backward")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from bsm.stats import Interval

REPRODUCED, CONTRADICTED, PARTLY = "reproduced", "contradicted", "partly"
BLOCKED, UNTESTED = "blocked", "untested"
STATUSES = (REPRODUCED, CONTRADICTED, PARTLY, BLOCKED, UNTESTED)
"""``partly``: some of the claim holds, or what was measured cannot tell. ``blocked``: what a test needs is not at hand.
``untested``: it could be tested here, and has not been."""

RE_EXECUTED, RE_TRAINED, COMPUTED, READ = "re-executed", "re-trained small", "computed", "read from source"
"""Evidence: code was run and measured; a small model was trained; it follows from definitions; it was read."""
AT_SCALE = "re-trained at the paper's scale"
"""Evidence of the rules on trainings where the result is comparable with the paper's: its data and its model."""

WENT = {REPRODUCED: "it holds", CONTRADICTED: "it does not hold"}
"""Which way a measurement went that settles no claim."""


@dataclass(frozen=True)
class Finding:
    """What measured values say about one claim.

    Attributes:
        status: one of ``STATUSES``.
        measured: our figure in words, with its interval and number of values.
        why: why it differs from the claim, and what the measurement does not cover.
    """

    status: str
    measured: str
    why: str


@dataclass(frozen=True)
class Rule:
    """A function from values of result files and thresholds to a finding, and the kind of evidence that it weighs.

    Attributes:
        judge: the function.
        evidence: its kind.
        at_scale: the rule for results that are comparable with the paper's, where that is another.
        comparable_only: whether no other results count.
    """

    judge: Callable[..., Finding]
    evidence: str
    at_scale: Rule | None = None
    comparable_only: bool = False

    def of(self, comparable: bool) -> Rule:
        """Return the rule for results that are, or are not, comparable with the paper's."""
        return self.at_scale if comparable and self.at_scale else self


RULES: dict[str, Rule] = {}


def rule(
    evidence: str, *, on_cpu: bool = False, untested: str = "", comparable_only: bool = False
) -> Callable[[Callable[..., Finding]], Callable[..., Finding]]:
    """Register a function as a rule under its own name.

    Its arguments are the values of result files and, keyword-only, the thresholds that a row of the ledger names.
    What small models show settles no claim about the paper's, and what a CPU shows (``on_cpu``) none about a GPU: a
    verdict becomes ``partly``, for and against alike, and the words say which way it went. A result that is comparable
    with the paper's is not of small models: there, the verdict stands (:meth:`Rule.of`).

    Args:
        evidence: what the rule weighs.
        on_cpu: the claim is about a GPU, and the measurement is a CPU's.
        untested: what a finding on small models adds to its reasons.
        comparable_only: results that are not comparable with the paper's are as good as missing.
    """

    def register(judge: Callable[..., Finding]) -> Callable[..., Finding]:
        if judge.__name__ in RULES:
            raise ValueError(f"there are two rules named {judge.__name__!r}")
        settled, at_scale = judge, None
        if on_cpu:
            settled = _capped(judge, "on this CPU", "; the GPU that the claim means was not tested")
        elif evidence == RE_TRAINED:
            settled, at_scale = _capped(judge, "small models", f"; {untested}" * bool(untested)), Rule(judge, AT_SCALE)
        RULES[judge.__name__] = Rule(settled, evidence, at_scale, comparable_only)
        return judge

    return register


def _capped(judge: Callable[..., Finding], where: str, untested: str = "") -> Callable[..., Finding]:
    @wraps(judge)
    def capped(*values: Any, **options: Any) -> Finding:
        found = judge(*values, **options)
        if found.status in WENT:
            found = replace(found, status=PARTLY, measured=f"{where}: {WENT[found.status]}; {found.measured}")
        return replace(found, why=found.why + untested) if found.status == PARTLY else found

    return capped


def judge_ratio(interval: Interval, low: float, high: float = np.inf) -> str:
    """Judge a claimed ratio: its interval lies within [low, high], outside, or across an end."""
    if np.isnan(interval.low):
        return PARTLY
    if interval.low >= low and interval.high <= high:
        return REPRODUCED
    return CONTRADICTED if interval.high < low or interval.low > high else PARTLY
