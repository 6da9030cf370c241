"""Rules on the loading of training data, from ``bsm bench data``.

The reports give seconds of a step without saying what was read and from where; ratios of one run on this machine are
what there is to judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsm.study.claims import BLOCKED, RE_EXECUTED, Finding, judge_ratio, rule
from bsm.study.speed.data import RESTARTED
from bsm.study.speed.spectra import ANEW, AVERAGED
from bsm.study.stats import interval_words, ratio

AGAIN = "needs a new run: the result file is older than the measurement of the described case"


@rule(RE_EXECUTED, on_cpu=True)
def data_2x(speed: list[dict[str, Any]], stft: dict[str, list[float]] | None = None, *, faster: float) -> Finding:
    """Speed of one transform of the average with a window that is kept, over one a channel with new windows.

    That is the change that the report lists under data processing; it transforms every batch as it comes. What else
    could speed up the preparation of data stands beside it.
    """
    times = _times(speed)
    measures = {
        "segments instead of whole files (WAV)": ("wav, whole file", "wav, segment"),
        "WAV instead of FLAC": ("flac, segment", "wav, segment"),
        "loss spectrograms kept instead of made, files in memory": (
            "loss's, made, files in memory",
            "loss's, kept, files in memory",
        ),
        "the same, files on disk": ("loss's, made, files on disk", "loss's, kept, files on disk"),
        "2 workers instead of none": ("0 workers", "2 workers"),
    }
    gains = {name: ratio(times[a], times[b]) for name, (a, b) in measures.items() if a in times}
    beside = "not in the report's change: " + "; ".join(f"{name} {interval_words(g, 'x')}" for name, g in gains.items())
    size = {r["case"]: r["bytes"] for r in speed}
    weight = size["loss's, kept, files in memory"] / size["loss's, made, files in memory"]
    why = (
        "transforms forward alone, without reading; the report also advises to keep spectrograms: they take "
        f"{weight:.0f} times the audio's bytes, and spare the paper's loss nothing, which transforms only the "
        "difference of estimate and target"
    )
    if ANEW not in (stft or {}):
        return Finding(BLOCKED, beside, f"{AGAIN}; {why}")
    own = ratio(stft[ANEW], stft[AVERAGED])
    return Finding(
        judge_ratio(own, faster),
        f"one transform of the average, window kept, instead of one a channel, windows made anew: "
        f"{interval_words(own, 'x')}; {beside}",
        why,
    )


@rule(RE_EXECUTED, on_cpu=True)
def loader_4x(speed: list[dict[str, Any]], cores: int, *, faster: float) -> Finding:
    """Speed of four persistent loader workers over two that start anew, and over two persistent ones."""
    times = _times(speed)
    beside = f"{interval_words(ratio(times['2 workers'], times['4 workers']), 'x')} over two that live on, too"
    segments = next(r["segments"] for r in speed if r["case"] == "0 workers")
    alone = segments / np.mean(times["0 workers"])
    why = (
        f"{cores} processor cores, files in memory; twice the workers can at best do twice the work, and starting them "
        f"anew weighs the more the shorter an epoch is (here {segments} segments). Without any worker one process "
        f"mixes {alone:.0f} segments a second"
    )
    if RESTARTED not in times:
        return Finding(BLOCKED, beside, f"{AGAIN}; {why}")
    gain = ratio(times[RESTARTED], times["4 workers"])
    return Finding(judge_ratio(gain, faster), f"{interval_words(gain, 'x')} over two started anew; {beside}", why)


def _times(speed: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the seconds of every round by case, of the shortest segments."""
    shortest = min(record["audio_seconds"] for record in speed)
    return {r["case"]: r["seconds"] for r in speed if r["audio_seconds"] == shortest}
