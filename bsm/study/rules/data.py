"""Rules on the loading of training data, from ``bsm bench data``.

The reports give seconds of a step without saying what was read, from where, and what was changed; ratios of one run on
this machine are what there is to judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsm.study.claims import (
    CONTRADICTED,
    PARTLY,
    RE_EXECUTED,
    REPRODUCED,
    Finding,
    interval_words,
    judge_ratio,
    ratio,
    rule,
)


@rule(RE_EXECUTED)
def data_2x(speed: list[dict[str, Any]], *, faster: float) -> Finding:
    """What each measure gains that could speed up the preparation of data; the report does not say which it took.

    One that gains ``faster`` or more makes the claim possible, no more: only the report's own change could reproduce
    it.
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
    enough = [name for name, gain in gains.items() if judge_ratio(gain, faster) == REPRODUCED]
    short = all(judge_ratio(gain, faster) == CONTRADICTED for gain in gains.values())
    size = {r["case"]: r["bytes"] for r in speed}
    weight = size["loss's, kept, files in memory"] / size["loss's, made, files in memory"]
    return Finding(
        CONTRADICTED if short else PARTLY,
        "; ".join(f"{name} {interval_words(gain, 'x')}" for name, gain in gains.items()),
        f"{faster:g}x or more: {'; '.join(enough) or 'nothing'}. The report does not say what it changed, so that no "
        f"measure of ours can reproduce its figure. Kept spectrograms take {weight:.0f} times the audio's bytes, and "
        "spare the paper's loss nothing: it transforms only the difference of estimate and target",
    )


@rule(RE_EXECUTED)
def loader_4x(speed: list[dict[str, Any]], cores: int, *, faster: float) -> Finding:
    """Speed of four persistent loader workers over two."""
    times = _times(speed)
    gain = ratio(times["2 workers"], times["4 workers"])
    segments = next(r["segments"] for r in speed if r["case"] == "0 workers")
    alone = segments / np.mean(times["0 workers"])
    return Finding(
        judge_ratio(gain, faster),
        interval_words(gain, "x"),
        f"{cores} processor cores, files in memory; twice the workers can at best do twice the work. Without any "
        f"worker one process mixes {alone:.0f} segments a second",
    )


def _times(speed: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the seconds of every round by case, of the shortest segments."""
    shortest = min(record["audio_seconds"] for record in speed)
    return {r["case"]: r["seconds"] for r in speed if r["audio_seconds"] == shortest}
