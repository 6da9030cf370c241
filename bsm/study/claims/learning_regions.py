"""The claim about vocals that come and go; see :mod:`bsm.study.claims.learning` for the results and the gate."""

from __future__ import annotations

import pandas as pd

from bsm.stats import crossed_interval, interval_words
from bsm.study.assay import assay
from bsm.study.claims.claim import BLOCKED, GUIDE, INCONCLUSIVE, MIR, NOT_SUPPORTED, SUPPORTED, Finding, Values, claim
from bsm.study.claims.learning import BASELINES, NO_TIME, OURS, THEIRS, Records, gated, scored, trained
from bsm.study.compare import ROWS, table_of, tidy
from bsm.study.occurrence import bins

EDGES = (1, 2, 4)
"""Edges between bins of the durations of vocal regions, s."""


@claim(
    "intermittent",
    "It is better than BS-RoFormer where vocals are intermittent",
    figure="better",
    source=(GUIDE,),
    tests=[
        trained(
            regions=Values("vocal_occurrence", "regions"),
            scores=Values("scores"),
            baselines=BASELINES,
            real=Values("vocal_occurrence", "regions", profile=MIR, optional=True),
        )
    ],
    shorter=2.0,
)
def intermittent(
    regions: Records, scores: Records, baselines: Records = (), real: Records = (), *, shorter: float
) -> Finding:
    """Compare both networks in vocal regions shorter than ``shorter`` s, and their difference there with longer ones.

    An advantage that is not greater in short regions has nothing to do with vocals that come and go. Regions that the
    recording cuts short may have been long.
    """
    gains = advantage(regions)
    if gains.empty:
        return Finding(BLOCKED, "", (f"Both {OURS} and {THEIRS} are needed.",))
    short = gains.index.get_level_values("duration") < shorter
    owners = gains.index.get_level_values("song")
    gain, more = crossed_interval(gains[short], owners[short]), crossed_interval(gains, owners, against=~short)
    holds, fails = gain.low > 0 and more.low > 0, gain.high < 0 or more.high < 0
    reasons = [
        f"Which is {interval_words(more, ' dB')} more than in longer regions; an advantage everywhere says nothing of "
        "intermittent vocals.",
        by_duration(gains, "By duration of the region"),
    ]
    if real:
        reasons.append(by_duration(advantage(real), "On real singing (MIR-1K, one seed), by duration"))
    verdict = SUPPORTED if holds else NOT_SUPPORTED if fails else INCONCLUSIVE
    found = Finding(verdict, f"{interval_words(gain, ' dB')} in regions under {shorter:g} s", reasons)
    return gated(found, assay(scored(scores, baselines), [OURS, THEIRS], NO_TIME))


def advantage(regions: Records) -> pd.DataFrame:
    """Return BSMamba2's SDR minus BS-RoFormer's, dB, a row per vocal region and a column per seed.

    A region that the recording cuts short is in the last, open bin of :data:`EDGES`, or in none.

    Args:
        regions: records of vocal regions by model and seed.
    """
    frame = tidy([r for r in regions if not r["cut"] or r["duration"] >= EDGES[-1]])
    gains = (table_of(frame, OURS, "sdr") - table_of(frame, THEIRS, "sdr")).dropna()
    durations = frame.groupby(ROWS)["duration"].first().reindex(gains.index)
    return gains.set_index(pd.Index(durations, name="duration"), append=True)


def by_duration(gains: pd.DataFrame, title: str) -> str:
    """Say what the advantage is in each bin of durations, and which way it goes."""
    names, place = bins(EDGES)
    means = gains.mean(axis=1).groupby(lambda row: place(row[-1])).mean()  # the duration is the index's last level
    found = {name: means[name] for name in names if name in means}
    values = list(found.values())
    rises = [b > a for a, b in zip(values, values[1:], strict=False)]
    way = "it grows with the duration" if all(rises) else "it falls with it" if not any(rises) else "no one direction"
    return f"{title}: {', '.join(f'{name} {value:.2f} dB' for name, value in found.items())}; {way}."
