"""Rules on separation scores."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bsm.stats import bootstrap_interval, interval_words
from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, RE_EXECUTED, REPRODUCED, Finding, rule


@rule(RE_EXECUTED)
def sdr_1103(published: dict[str, Any], *, csdr: float, usdr: float, tolerance: float) -> Finding:
    """The published model's scores on the published songs, notebook ``04_published_model``.

    uSDR is a mean over songs; a cSDR may be mean or median, as the author does not say which. Within ``tolerance`` dB
    counts as the same: the scores are published with two digits, by another machine.
    """
    if published["status"] != "measured":
        return Finding(BLOCKED, "", " ".join(published["missing"]))
    mean, median, uncut, words = _scores(published["scores"])
    return Finding(
        _both(min(abs(mean - csdr), abs(median - csdr)) <= tolerance, abs(uncut - usdr) <= tolerance),
        words,
        f"within {tolerance:g} dB counts as the same; intervals over songs",
    )


@rule(RE_EXECUTED, comparable_only=True)
def ten_epochs(scores: list[dict[str, Any]], *, csdr: float, usdr: float, tolerance: float) -> Finding:
    """Scores of the paper's model on the test songs after ten epochs, as ``bsm evaluate`` writes them.

    Reached: no more than ``tolerance`` dB below the paper's; a cSDR may be mean or median.
    """
    mean, median, uncut, words = _scores(scores)
    return Finding(
        _both(max(mean, median) >= csdr - tolerance, uncut >= usdr - tolerance),
        words,
        f"reached = at most {tolerance:g} dB below; intervals over songs; one training",
    )


def _both(first: bool, second: bool) -> str:
    return REPRODUCED if first and second else PARTLY if first or second else CONTRADICTED


def _scores(records: list[dict[str, Any]]) -> tuple[float, float, float, str]:
    """Return cSDR over songs, mean and median, mean uSDR, dB, and all of them in words."""
    scores = pd.DataFrame(records)
    scores = scores[scores.separator != "mixture"]
    means = {name: bootstrap_interval(scores[name].astype(float)) for name in ("csdr", "usdr")}
    median = float(scores["csdr"].astype(float).median())
    words = f"cSDR mean {interval_words(means['csdr'])}, median {median:.2f}; uSDR {interval_words(means['usdr'])}; dB"
    return means["csdr"].estimate, median, means["usdr"].estimate, words
