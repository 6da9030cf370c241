"""Rules on what a model is given and where it is heard: notebooks ``08_input_length`` and ``09_vocal_occurrence``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bsm.stats import Interval, crossed_interval, interval_words
from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, RE_TRAINED, REPRODUCED, Finding, rule
from bsm.study.input_length import METRICS, counted, differences, shown
from bsm.study.occurrence import AFTER, BEFORE, SDR, by_model

OURS, THEIRS = "BSMamba2", "BS-RoFormer"
REAL = "on real singing (a part of MIR-1K, models trained on it)"
SCALE = "small models trained on the songs of the result file; at the paper's scale untested"


def within(gain: Interval, margin: float) -> str:
    """Judge whether a difference lies within ``margin`` dB of zero, beyond it, or across."""
    if np.isnan(gain.low):
        return PARTLY
    if max(-gain.low, gain.high) <= margin:
        return REPRODUCED
    return CONTRADICTED if gain.low > margin or gain.high < -margin else PARTLY


def _rows(scores: Sequence[dict[str, Any]], trained: dict[str, float], metric: str) -> list[tuple[dict, Interval]]:
    """Return the differences of BSMamba2 in one metric, each with its interval."""
    own = [r for r in scores if r["model"] == OURS]
    rows = [r for r in differences(own, trained) if r["metric"] == metric]
    return [(row, Interval(*(row[name] for name in Interval._fields))) for row in rows]


@rule(RE_TRAINED, untested=SCALE)
def stable_1_16(
    scores: list[dict[str, Any]],
    trained: dict[str, float],
    real_scores: list[dict[str, Any]] | None = None,
    real_trained: dict[str, float] | None = None,
    *,
    shortest: float,
    longest: float,
    margin: float,
) -> Finding:
    """Scores of windows of ``shortest`` to ``longest`` s against the window of the training, paired over songs.

    Stable means: no interval of uSDR or cSDR leaves ``margin`` dB either way, which is what the author's scores of both
    models are apart: an advantage that a change of window could undo would not be one. Where the shortest or longest
    window was not scored, the claim holds in part at best.
    """

    def farthest(scores: list[dict[str, Any]], trained: dict[str, float]) -> tuple[str, list[tuple[dict, Interval]]]:
        gains = [
            (row, gain)
            for metric in METRICS
            for row, gain in _rows(scores, trained, metric)
            if row["hop"] == row["window"] and shortest <= row["window"] <= longest
        ]
        words = []
        for metric, label in METRICS.items():
            own = [pair for pair in gains if pair[0]["metric"] == metric]
            if own:
                row, gain = max(own, key=lambda pair: abs(pair[1].estimate))
                words.append(f"{interval_words(gain)} dB {label.split()[0]} at {row['window']:g} s ({counted(row)})")
        heard = sorted({row["window"] for row, _ in gains} | {trained[OURS]})
        cut = f"windows of {', '.join(format(w, 'g') for w in heard)} s"
        return f"{cut}: at most {', '.join(words)} away from the training's {trained[OURS]:g} s", gains

    words, found = farthest(scores, trained)
    if not found:
        return Finding(BLOCKED, "", f"no window of {shortest:g} to {longest:g} s beside the training's was scored")
    judged = [within(gain, margin) for _, gain in found]
    heard = {row["window"] for row, _ in found} | {trained[OURS]}
    if not {shortest, longest} <= heard:
        judged.append(PARTLY)
    if real_scores and real_trained:
        words += f"; {REAL}: {farthest(real_scores, real_trained)[0]}"
    return Finding(
        CONTRADICTED if CONTRADICTED in judged else REPRODUCED if set(judged) == {REPRODUCED} else PARTLY,
        words,
        f"stable means within {margin:g} dB, the author's gap between both models; of {OURS} alone, {THEIRS} is in "
        "notebook 08_input_length",
    )


@rule(RE_TRAINED, untested=SCALE)
def nonoverlap_8(scores: list[dict[str, Any]], trained: dict[str, float], *, window: float, margin: float) -> Finding:
    """uSDR of half overlapped windows of ``window`` s minus that without overlap, paired over songs."""
    found = [(r, gain) for r, gain in _rows(scores, trained, "usdr") if r["hop"] != r["window"] == window]
    if not found:
        return Finding(BLOCKED, "", f"windows of {window:g} s were not scored with overlap")
    row, gain = found[0]
    # What overlap gains is what speaks against the claim: a loss does not.
    status = PARTLY if np.isnan(gain.low) else REPRODUCED if gain.high <= margin else PARTLY
    return Finding(
        CONTRADICTED if gain.low > margin else status,
        f"overlap gains {interval_words(gain)} dB uSDR at {shown(row['window'])} ({counted(row)})",
        f"half of each window overlaps; suffices means that overlap gains no more than {margin:g} dB",
    )


@rule(RE_TRAINED, untested=SCALE)
def intermittent(
    regions: list[dict[str, Any]], real_regions: list[dict[str, Any]] | None = None, *, shorter: float
) -> Finding:
    """SDR in vocal regions shorter than ``shorter`` s, BSMamba2 minus BS-RoFormer, clustered by song.

    It holds where BSMamba2 is better in these, and more so than in longer ones: an advantage that is not greater there
    has nothing to do with vocals that come and go. Regions that the recording cuts short may have been long.
    """
    if not {OURS, THEIRS} <= {r["model"] for r in regions}:
        return Finding(BLOCKED, "", f"needs both {OURS} and {THEIRS}")

    def gained(members: list[dict[str, Any]], quantity: str) -> pd.DataFrame:
        tables = by_model(members, quantity, [OURS, THEIRS])
        return tables[OURS] - tables[THEIRS]

    def compared(regions: list[dict[str, Any]]) -> tuple[str, Interval, Interval]:
        known = [r for r in regions if r["duration"] >= shorter or not r.get("cut")]
        short = [r for r in known if r["duration"] < shorter]
        tables = {quantity: gained(short, quantity) for quantity in (SDR, BEFORE, AFTER)}
        gains = {q: crossed_interval(gain, gain.index.get_level_values("song")) for q, gain in tables.items()}
        gain = gained(known, SDR)
        long = {(r["track"], r.get("region", 0)) for r in known if r["duration"] >= shorter}
        marks = [key in long for key in gain.index.droplevel("song")]
        more = crossed_interval(gain, gain.index.get_level_values("song"), against=marks)
        seeds, songs = gain.shape[1], len(set(tables[SDR].dropna().index.get_level_values("song")))
        words = [
            f"{interval_words(gains[SDR])} dB SDR in regions shorter than {shorter:g} s ({songs} songs)",
            f"which is {interval_words(more)} dB more than in longer ones",
            *(f"{name.replace('_', ' ')} {interval_words(gains[name])} dB" for name in (BEFORE, AFTER)),
            f"{seeds} training seed(s)",
        ]
        return "; ".join(words), gains[SDR], more

    words, gain, more = compared(regions)
    holds = gain.low > 0 and more.low > 0  # neither where an end is NaN
    fails = gain.high < 0 or (gain.low > 0 and more.high < 0)
    way = "better there, but not seen to be more so than in longer regions; " if gain.low > 0 and not holds else ""
    return Finding(
        REPRODUCED if holds else CONTRADICTED if fails else PARTLY,
        way + (f"{words}; {REAL}: {compared(real_regions)[0]}" if real_regions else words),
        "paired per region, drawn by song and training seed; an advantage that is not greater in short regions than in "
        "long ones has nothing to do with their being short; less leakage is better",
    )
