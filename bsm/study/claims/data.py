"""Claims about the preparation and loading of training data.

The reports give seconds of a step without saying what was read and from where; ratios of one run are what there is to
judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsm.stats import interval_words, ratio
from bsm.study.claims.claim import Finding, Source, Values, Verdict, claim, judge_ratio, on_cpu
from bsm.study.claims.scan import rounds
from bsm.study.speed.data import RESTARTED

SPEED = Values("data_loading", "speed")


@claim(
    "data-2x",
    "Data processing becomes 2 times faster, 3 s to 1.5 s of a training step",
    figure="2x",
    source=(Source.OPTIMISATION, Source.ANALYSIS),
    tests=[
        on_cpu("", needs="the documents' data pipeline, before and after; they do not say what it does", speed=SPEED)
    ],
)
def data_2x(speed: list[dict[str, Any]]) -> Finding:
    """Tell what speeds up the preparation of data here; the documents' own change cannot be set up.

    They list the average of the channels under data processing, which is a transform (``mono-halves``).
    """
    times = _times(speed)
    pairs = {
        "segments instead of whole files": ("wav, whole file", "wav, segment"),
        "WAV instead of FLAC": ("flac, segment", "wav, segment"),
    }
    gains = {name: interval_words(ratio(times[a], times[b]), "x") for name, (a, b) in pairs.items() if a in times}
    context = [f"As context, {name}: {gain}." for name, gain in gains.items()]
    own = "The change that they list here, the average of the channels, is a transform: see `mono-halves`."
    return Finding(Verdict.BLOCKED, "", (own, *context))


@claim(
    "loader-4x",
    "Data loading becomes 4 times faster with 4 instead of 2 workers, 2 s to 0.5 s",
    figure="4x",
    source=(Source.OPTIMISATION, Source.ANALYSIS),
    tests=[
        on_cpu(
            "bsm bench data --json reports/demo/results/data_loading.json",
            needs="a machine with 5 processor cores or more",
            speed=SPEED,
            cores=Values("data_loading", "cores"),
        )
    ],
    faster=4,
    workers=4,
)
def loader_4x(speed: list[dict[str, Any]], cores: int, *, faster: float, workers: int) -> Finding:
    """Compare four persistent loader workers with two that start anew; only where each worker has a core."""
    times = _times(speed)
    segments = next(r["segments"] for r in speed if r["case"] == "0 workers")
    alone = segments / np.mean(times["0 workers"])
    reasons = [
        "Twice the workers can at best do twice the work. "
        "Restarting them costs relatively more, the shorter an epoch is.",
        f"One process without workers mixes {alone:,.0f} segments a second here, from files in memory.",
    ]
    if cores <= workers:
        lacking = f"A timing of {workers} workers on {cores} cores would measure the lack of cores, not the loader."
        return Finding(Verdict.BLOCKED, "", (lacking, *reasons))
    gain = ratio(times[RESTARTED], times["4 workers"])
    lasting = ratio(times["2 workers"], times["4 workers"])
    reasons.append(f"Against two persistent workers: {interval_words(lasting, 'x')}.")
    verdict, counted = judge_ratio(gain, faster), [r for r in speed if r["case"] in (RESTARTED, "4 workers")]
    return Finding(verdict, interval_words(gain, "x"), (f"{rounds(gain)}.", *reasons), counted)


def _times(speed: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the seconds of every round by case, of the shortest segments."""
    shortest = min(record["audio_seconds"] for record in speed)
    return {r["case"]: r["seconds"] for r in speed if r["audio_seconds"] == shortest}
