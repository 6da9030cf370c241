"""The claim about vocals that come and go; see :mod:`bsm.study.claims.learning` for the results and the gate."""

from __future__ import annotations

import pandas as pd

from bsm.stats import interval_words
from bsm.study import occurrence
from bsm.study.assay import assay
from bsm.study.claims.claim import PUBLISHED, Finding, Source, Values, Verdict, claim
from bsm.study.claims.learning import (
    ARMS,
    BASELINES,
    LAST,
    LONG_SONGS,
    NO_TIME,
    OURS,
    THEIRS,
    Records,
    gated,
    leakage,
    leakage_words,
    of_published,
    on_real_singing,
    scored,
    told_of,
    trained,
)
from bsm.study.compare import differences, folds_of, interval, table_of
from bsm.study.long.regions import WINDOW
from bsm.study.occurrence import binned, with_level

EDGES = {"duration": (1, 2, 4), "gap": (0.5, 2, 8)}
"""Edges between bins of vocal regions, by their duration and by the gap before them, s."""


@claim(
    "intermittent",
    "BSMamba2 is better than BS-RoFormer where vocals are intermittent",
    figure="better",
    source=(Source.PAPER, Source.GUIDE),
    tests=[
        trained(
            regions=Values("vocal_occurrence", "regions"),
            scores=Values("scores"),
            baselines=BASELINES,
            long={"regions": Values("songs-1s-regions", "regions", runs=True, arms=tuple(ARMS))} | LONG_SONGS,
        ),
        on_real_singing(
            LAST,
            f"trainings of {THEIRS} on real singing: clips of MIR-1K, two hours of a core",
            regions=Values(LAST, "regions", runs=True, arms=tuple(ARMS)),
            scores=Values(LAST, "scores", runs=True, arms=tuple(ARMS)),
        ),
        of_published(
            f"a {THEIRS} of the same training, beside the weights (193 MB) and excerpts (147 MB)",
            regions=Values("vocal_occurrence", "regions", profile=PUBLISHED),
        ),
    ],
    shorter=2.0,
)
def intermittent(
    regions: Records,
    scores: Records = (),
    baselines: Records = (),
    *,
    shorter: float,
    published: bool = False,
    tried: int = 1,
) -> Finding:
    """Compare both networks in vocal regions shorter than ``shorter`` s, and BSMamba2's gain there with that elsewhere.

    A gain that is not larger in short regions has nothing to do with vocals that come and go. ``published`` models have
    no control.
    """
    measure = "sdr_in_window" if any(record.get("sdr_in_window") is not None for record in regions) else "sdr"
    gains = advantage(regions, measure)
    if gains.empty:
        alone = [by_bin(sdr_of(regions, level), f"{OURS}'s SDR by {level}", level) for level in EDGES if published]
        return Finding(Verdict.BLOCKED, "", (f"Both {OURS} and {THEIRS} are needed.", *alone))
    short = gains.index.get_level_values("duration") < shorter
    frame = scored(regions)
    folds = folds_of(frame)
    gain, more = interval(gains[short], folds), interval(gains, folds, against=~short)
    holds, fails = gain.low > 0 and more.low > 0, gain.high < 0 or more.high < 0
    reasons = [
        f"This is {interval_words(more, ' dB')} more than in longer regions; an advantage everywhere says nothing "
        "about intermittent vocals.",
        by_bin(gains, "By duration of the region"),
        by_bin(sdr_of(regions, "duration", measure), f"{OURS}'s own SDR, where silence has 0 dB"),
        *told_of(tried),
    ]
    if {occurrence.BEFORE, occurrence.AFTER} <= set(frame):
        reasons.insert(1, f"{leakage_words(leakage(frame, OURS, THEIRS))}, {OURS} minus {THEIRS}, in all regions.")
    if measure != "sdr":
        whole = advantage(regions)
        far = interval(whole[whole.index.get_level_values("duration") < shorter], folds)
        reasons.append(
            f"In windows of {WINDOW:g} s. In whole songs, many times as long as a training segment, the short regions' "
            f"difference is {interval_words(far, ' dB')}: {THEIRS} loses in inputs of such a length."
        )
    where = f"{short.sum()} regions under {shorter:g} s"
    found = Finding(Verdict.of(holds, fails), f"{interval_words(gain, ' dB')} in {where}", reasons)
    if published:
        return found
    whole = [record for record in scores if record.get("window") is None]  # not those of windows
    return gated(found, assay(scored(whole, baselines), [OURS, THEIRS], NO_TIME))


def advantage(regions: Records, measure: str = "sdr") -> pd.DataFrame:
    """Return BSMamba2's SDR minus BS-RoFormer's, dB, a row per vocal region and a column per seed.

    A region that the recording cuts short may have been long: it counts only where it is in the last bin of durations.

    Args:
        regions: records of vocal regions by model and seed.
        measure: ``sdr`` of the whole song, or ``sdr_in_window`` of windows of :data:`~bsm.study.long.regions.WINDOW` s.
    """
    frame = scored(regions)
    gains = differences(table_of(frame, OURS, measure), table_of(frame, THEIRS, measure))
    return with_level(gains, frame, "duration", EDGES["duration"][-1])


def sdr_of(regions: Records, level: str, measure: str = "sdr") -> pd.DataFrame:
    """Return BSMamba2's SDR in dB: a row per vocal region whose ``level``, ``duration`` or ``gap`` in s, is known.

    As in :func:`advantage`, a region that is cut short counts where it is in the last bin of durations.
    """
    frame = scored(regions)
    return with_level(table_of(frame, OURS, measure), frame, level, EDGES[level][-1])


def by_bin(values: pd.DataFrame, title: str, level: str = "duration") -> str:
    """List the mean of an advantage or a score in each bin of durations or gaps, and say whether it grows or falls."""
    place = binned(values.index.get_level_values(level), EDGES[level])
    found = values.mean(axis=1).groupby(place, observed=True).mean()
    each = found.to_list()
    rises = [b > a for a, b in zip(each, each[1:], strict=False)]
    way = f"it grows with the {level}" if all(rises) else "it falls with it" if not any(rises) else "no one direction"
    way = f"; {way}" * (len(each) > 1)
    return f"{title}: {', '.join(f'{name} {value:.2f} dB' for name, value in found.items())}{way}."
