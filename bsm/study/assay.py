"""Is the instrument sensitive? The gate that every verdict about learning passes first.

Small models that learn less than a static equaliser cannot tell one design from another: all of them score alike. So a
question gets a verdict under two conditions. Both systems that it compares beat the equaliser. And its positive control
is seen to lose: a system known to lack what the question is about. Otherwise the verdict is *inconclusive: the assay is
insensitive*, with the figures that show it. "No difference" is a finding only as equivalence (Lakens, 2017): the whole
interval lies within a margin that was stated beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bsm.stats import Interval, interval_words
from bsm.study.baselines import EQUALISER
from bsm.study.compare import differences, folds_of, how_many, interval, table_of
from bsm.study.published import PUBLISHED

BEATS, AT_LEAST = 2.0, 1.0
"""dB of uSDR by which a system must beat the equaliser: the estimate, and the low end of its interval."""
TRAININGS = 3
"""The least number of trainings of each system for a verdict."""
MARGIN = round(PUBLISHED[0]["usdr"] - PUBLISHED[1]["usdr"], 2)
"""dB of uSDR within which a difference counts as none: the paper's own advantage over BS-RoFormer."""
INSENSITIVE = "the assay is insensitive"


@dataclass(frozen=True)
class Assay:
    """Whether an instrument is sensitive.

    Attributes:
        reasons: the figures that say so, one sentence each.
        lacks: the first condition that fails, in a few words; empty if none does.
    """

    reasons: tuple[str, ...]
    lacks: str = ""

    @property
    def sensitive(self) -> bool:
        """Whether it is."""
        return not self.lacks


def gain_of(scores: pd.DataFrame, first: str, second: str) -> Interval:
    """Compare two systems by uSDR: the mean of ``first - second`` over tracks and trainings.

    Args:
        scores: of :func:`bsm.study.compare.tidy`.
        first: name of a system.
        second: name of another system. A baseline is not trained, so it is compared with every seed of the other.
    """
    return interval(differences(table_of(scores, first), table_of(scores, second)), folds_of(scores))


def trainings(scores: pd.DataFrame) -> int:
    """Count the trainings behind one arm's scores: one per seed, or per seed and fold of a cross-validation."""
    return len(scores[[name for name in ("seed", "fold") if name in scores]].drop_duplicates())


def beats(gain: Interval) -> bool:
    """Tell whether a system's gain over the static equaliser is large enough for verdicts on what it learned."""
    return gain.estimate >= BEATS and gain.low >= AT_LEAST


def assay(scores: pd.DataFrame, arms: Sequence[str], control: str) -> Assay:
    """Judge the instrument of one question.

    Args:
        scores: of :func:`bsm.study.compare.tidy`: the arms, the control and the static equaliser on the same tracks.
        arms: names of the systems that are compared; the first must beat the control.
        control: name of a system that lacks what the question is about.
    """
    known, reasons, lacks = set(scores["system"]), [], []
    for arm in arms:
        if missing := [name for name in (arm, EQUALISER) if name not in known]:
            reasons.append(f"There are no scores of {' and '.join(missing)} on these songs")
            lacks.append("an arm is missing")
            continue
        gain, runs = gain_of(scores, arm, EQUALISER), trainings(scores[scores["system"] == arm])
        lacks += ["below the gate"] * (not beats(gain)) + ["too few trainings"] * (runs < TRAININGS)
        wanted = f"a verdict needs {BEATS:g} dB, a low end of {AT_LEAST:g} dB, and {TRAININGS} trainings"
        measured = f"{how_many(runs, 'training')}: {interval_words(gain, ' dB')}"
        reasons.append(f"`{arm}` minus {EQUALISER}, {measured} ({wanted})")
    if control in known and arms[0] in known:
        loss = gain_of(scores, arms[0], control)
        lacks += ["the control is not seen to lose"] * (not loss.low > 0)
        seen = "is seen to lose" if loss.low > 0 else "is not seen to lose"
        reasons.append(f"The positive control `{control}` {seen}: {arms[0]} gains {interval_words(loss, ' dB')}")
    else:
        lacks.append("the control is missing")
        reasons.append(f"The positive control `{control}` was not trained")
    return Assay(tuple(dict.fromkeys(reasons)), lacks[0] if lacks else "")
