"""Rules on variants of the model and its loss that were trained alike: notebook ``05_ablation_stft``."""

from __future__ import annotations

from typing import Any

import numpy as np

from bsm.stats import Interval, interval_words
from bsm.study.ablation import differences, gain_of
from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, RE_TRAINED, REPRODUCED, Finding, rule

REDUCED = "loss-3-magnitude"
PARTS = {
    "loss-3-windows": "three windows alone",
    "loss-magnitude": "magnitudes alone",
    "loss-mean": "the mean over windows alone",
    "loss-reduced": "all of the optimisation report's loss, with that mean and frames not centred",
}


def cost(gain: Interval) -> Interval:
    """Return a gain as a loss."""
    return gain._replace(estimate=-gain.estimate, low=-gain.high, high=-gain.low)


@rule(RE_TRAINED)
def slight_loss(scores: list[dict[str, Any]], *, margin: float, seeds: int) -> Finding:
    """What the reduced loss costs in uSDR: slight means no more than ``margin`` dB, told by ``seeds`` trainings."""
    rows = differences(scores)
    gain = gain_of(rows, REDUCED)
    if gain is None:
        return Finding(BLOCKED, "", f"the variant {REDUCED} was not trained")
    lost, trained = cost(gain), next(r["seeds"] for r in rows if r["variant"] == REDUCED)
    status = REPRODUCED if lost.high <= margin else CONTRADICTED if lost.low > margin else PARTLY
    if np.isnan(lost.low) or trained < seeds:
        status = PARTLY
    parts = {name: gain_of(rows, variant) for variant, name in PARTS.items()}
    beside = "".join(f"; {name}: {interval_words(cost(part))} dB" for name, part in parts.items() if part)
    return Finding(
        status,
        f"costs {interval_words(lost)} dB uSDR{beside}",
        f"three windows and magnitudes against the paper's loss; slight means at most {margin:g} dB, "
        f"the author's gap between both models; {trained} training seed(s), of {seeds} that a verdict takes; the "
        "waveform's term, which both losses have, is not blind to phase, and weighs more where the mean is taken; "
        "small models and short trainings",
    )
