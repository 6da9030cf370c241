"""Is the instrument sensitive? The gate that every verdict about learning passes first.

Small models that learn less than a static equaliser cannot tell one design from another: all of them score alike. So a
question gets a verdict only where both arms that it compares beat the equaliser, and where its positive control, which
is known to lack what the question is about, is seen to lose. Otherwise the verdict is *inconclusive: the assay is
insensitive*, with the figures that say so. "No difference" is a finding only as equivalence (Lakens, 2017): the whole
interval lies within a margin that was stated beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bsm.stats import Interval, crossed_interval, interval_words
from bsm.study.baselines import EQUALISER
from bsm.study.compare import cluster_of
from bsm.study.published import PUBLISHED

BEATS, AT_LEAST = 2.0, 1.0
"""dB of uSDR by which an arm beats the equaliser: the estimate, and the low end of its interval."""
SEEDS = 3
"""Trainings of each arm that a verdict takes."""
MARGIN = round(PUBLISHED[0]["usdr"] - PUBLISHED[1]["usdr"], 2)
"""dB of uSDR within which a difference counts as none: the paper's own advantage over BS-RoFormer."""
INSENSITIVE = "the assay is insensitive"


@dataclass(frozen=True)
class Assay:
    """Whether an instrument is sensitive.

    Attributes:
        sensitive: whether it is.
        reasons: the figures that say so, one sentence each.
    """

    sensitive: bool
    reasons: tuple[str, ...]


def table_of(scores: pd.DataFrame, separator: str, metric: str = "usdr") -> pd.DataFrame:
    """Return a separator's scores, a row per track (index ``cluster``, ``track``), a column per seed.

    Args:
        scores: tidy: ``track``, ``separator``, ``seed`` (missing for what is not trained) and metrics, dB.
        separator: its name.
        metric: a column.
    """
    own = scores[scores["separator"] == separator]
    own = own.assign(cluster=own["track"].map(cluster_of), seed=own["seed"].astype(str))
    return own.astype({metric: float}).pivot(index=["cluster", "track"], columns="seed", values=metric)


def paired(scores: pd.DataFrame, first: str, second: str, metric: str = "usdr") -> Interval:
    """Compare two separators on the tracks that both scored: the mean of ``first - second`` over tracks and seeds.

    Seeds are paired in order; what is not trained, such as a baseline, stands against every seed.

    Args:
        scores: as in :func:`table_of`.
        first: name of a separator.
        second: of another one.
        metric: a column.
    """
    one, two = (table_of(scores, name, metric) for name in (first, second))
    tracks = one.index.intersection(two.index)
    seeds = (
        min(one.shape[1], two.shape[1]) if 1 not in (one.shape[1], two.shape[1]) else max(one.shape[1], two.shape[1])
    )
    sides = [np.broadcast_to(t.loc[tracks].to_numpy()[:, :seeds], (len(tracks), seeds)) for t in (one, two)]
    return crossed_interval(sides[0] - sides[1], tracks.get_level_values("cluster"))


def assay(scores: pd.DataFrame, arms: Sequence[str], control: str, *, metric: str = "usdr") -> Assay:
    """Judge the instrument of one question.

    Args:
        scores: as in :func:`table_of`, of the same tracks: the arms, the control and the static equaliser.
        arms: the separators that are compared; the control is set against the first.
        control: a separator that lacks what the question is about.
        metric: a column.
    """
    known, reasons, passed = set(scores["separator"]), [], []
    for arm in arms:
        if missing := [name for name in (arm, EQUALISER) if name not in known]:
            reasons.append(f"There are no scores of {' and '.join(missing)} on these songs")
            passed.append(False)
            continue
        gain, seeds = paired(scores, arm, EQUALISER, metric), table_of(scores, arm, metric).shape[1]
        passed.append(gain.estimate >= BEATS and gain.low >= AT_LEAST and seeds >= SEEDS)
        wanted = f"needs {BEATS:g} dB, its low end {AT_LEAST:g} dB, {SEEDS} seeds"
        reasons.append(f"`{arm}` minus {EQUALISER}, {seeds} seed(s): {interval_words(gain, ' dB')} ({wanted})")
    if control in known and arms[0] in known:
        loss = paired(scores, arms[0], control, metric)
        passed.append(loss.low > 0)
        seen = "is seen to lose" if passed[-1] else "is not seen to lose"
        reasons.append(f"The positive control `{control}` {seen}: {arms[0]} gains {interval_words(loss, ' dB')}")
    else:
        passed.append(False)
        reasons.append(f"The positive control `{control}` was not trained")
    return Assay(all(passed), tuple(dict.fromkeys(reasons)))


def within(gain: Interval, margin: float = MARGIN) -> bool | None:
    """Return whether a difference is one of no more than ``margin``: None where the interval cannot tell."""
    if gain.low > margin or gain.high < -margin:
        return False
    return True if -margin <= gain.low and gain.high <= margin else None
