"""Rules on separation scores."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, RE_EXECUTED, REPRODUCED, Finding, interval_words, rule
from bsm.study.stats import bootstrap_interval


@rule(RE_EXECUTED)
def sdr_1103(published: dict[str, Any], *, csdr: float, usdr: float, tolerance: float) -> Finding:
    """The published model's scores on the published songs, notebook ``04_published_model``.

    uSDR is a mean over songs; a cSDR may be mean or median, as the author does not say which. Within ``tolerance`` dB
    counts as the same: the scores are published with two digits, by another machine.
    """
    if published["status"] != "measured":
        return Finding(BLOCKED, "", " ".join(published["missing"]))
    scores = pd.DataFrame(published["scores"])
    scores = scores[scores.separator != "mixture"]
    means = {name: bootstrap_interval(scores[name].astype(float)) for name in ("csdr", "usdr")}
    median = float(scores["csdr"].astype(float).median())
    met = [
        min(abs(means["csdr"].estimate - csdr), abs(median - csdr)) <= tolerance,
        abs(means["usdr"].estimate - usdr) <= tolerance,
    ]
    return Finding(
        REPRODUCED if all(met) else PARTLY if any(met) else CONTRADICTED,
        f"cSDR mean {interval_words(means['csdr'])}, median {median:.2f}; uSDR {interval_words(means['usdr'])}; dB",
        f"within {tolerance:g} dB counts as the same; intervals over songs",
    )
