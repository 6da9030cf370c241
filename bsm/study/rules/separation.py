"""Rules on what a model is given and where it is heard: notebooks ``08_input_length`` and ``09_vocal_occurrence``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, RE_TRAINED, REPRODUCED, Finding, interval_words, rule
from bsm.study.input_length import differences, shown
from bsm.study.occurrence import AFTER, BEFORE, SDR, pairs
from bsm.study.stats import Interval, clustered_interval

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


@rule(RE_TRAINED)
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
    """uSDR of windows of ``shortest`` to ``longest`` s against the window of the training, paired over songs.

    Stable means: no interval leaves ``margin`` dB either way, which is what the author's scores of both models are
    apart: an advantage that a change of window could undo would not be one.
    """

    def farthest(scores: list[dict[str, Any]], trained: dict[str, float]) -> tuple[str, list[tuple[dict, Interval]]]:
        gains = [
            (row, gain)
            for row, gain in _rows(scores, trained, "usdr")
            if row["hop"] == row["window"] and shortest <= row["window"] <= longest
        ]
        worst = max(gains, key=lambda pair: abs(pair[1].estimate), default=None)
        words = f"at most {interval_words(worst[1])} dB uSDR away, at {worst[0]['window']:g} s" if worst else ""
        return words, gains

    words, found = farthest(scores, trained)
    if not found:
        return Finding(BLOCKED, "", f"no window of {shortest:g} to {longest:g} s beside the training's was scored")
    judged = [within(gain, margin) for _, gain in found]
    if real_scores and real_trained:
        words += f"; {REAL}: {farthest(real_scores, real_trained)[0]}"
    return Finding(
        CONTRADICTED if CONTRADICTED in judged else REPRODUCED if set(judged) == {REPRODUCED} else PARTLY,
        words,
        f"windows of {', '.join(format(row['window'], 'g') for row, _ in found)} s against the training's "
        f"{trained[OURS]:g} s; stable means within {margin:g} dB, the author's gap between both models; {SCALE}",
    )


@rule(RE_TRAINED)
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
        f"overlap gains {interval_words(gain)} dB uSDR at {shown(row['window'])}",
        f"half of each window overlaps; suffices means that overlap gains no more than {margin:g} dB; {SCALE}",
    )


@rule(RE_TRAINED)
def intermittent(
    regions: list[dict[str, Any]], real_regions: list[dict[str, Any]] | None = None, *, shorter: float
) -> Finding:
    """SDR in vocal regions shorter than ``shorter`` s, BSMamba2 minus BS-RoFormer, clustered by song."""
    if not {OURS, THEIRS} <= {r["model"] for r in regions}:
        return Finding(BLOCKED, "", f"needs both {OURS} and {THEIRS}")

    def compared(regions: list[dict[str, Any]]) -> tuple[str, Interval]:
        short, gains = [r for r in regions if r["duration"] < shorter], {}
        for quantity in (SDR, BEFORE, AFTER):
            table = pairs(short, quantity, [OURS, THEIRS]).dropna()
            songs = list(table.index.get_level_values("track"))
            gains[quantity] = clustered_interval(table[OURS] - table[THEIRS], songs)
        words = [f"{name.replace('_', ' ')} {interval_words(gains[name])} dB" for name in (BEFORE, AFTER)]
        words.insert(0, f"{interval_words(gains[SDR])} dB SDR in regions shorter than {shorter:g} s")
        return "; ".join(words), gains[SDR]

    words, gain = compared(regions)
    told = not np.isnan(gain.low)
    return Finding(
        REPRODUCED if told and gain.low > 0 else CONTRADICTED if told and gain.high < 0 else PARTLY,
        f"{words}; {REAL}: {compared(real_regions)[0]}" if real_regions else words,
        f"paired per region, clustered by song; less leakage is better; {SCALE}",
    )
