"""Claims about the paper's own scores, which need its songs, and its weights or its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bsm.study.claims.claim import (
    ANALYSIS,
    BLOCKED,
    DEMO,
    FULL,
    GPU,
    GUIDE,
    INCONCLUSIVE,
    NOT_SUPPORTED,
    PUBLISHED,
    SUPPORTED,
    Finding,
    Test,
    Values,
    claim,
)

Records = Sequence[Mapping[str, Any]]
SPREAD = "Whether the published cSDR is a mean or a median over songs is not stated: both must fit."


@claim(
    "sdr-1103",
    "The published model reaches a cSDR of 11.03 dB and a uSDR of 10.70 dB on MUSDB18-HQ",
    figure="11.03, 10.70 dB",
    source=(GUIDE,),
    tests=[
        Test(
            "MUSDB18-HQ",
            FULL,
            {"published": Values("published_model")},
            (PUBLISHED, DEMO),
            needs="MUSDB18-HQ (22.7 GB), the author's weights (771 MB), 9 hours of two CPU cores",
            command="make published WEIGHTS=author DATA=data/musdb18-hq",
        )
    ],
    csdr=11.03,
    usdr=10.7,
    tolerance=0.1,
)
def sdr_1103(published: Mapping[str, Any], *, csdr: float, usdr: float, tolerance: float) -> Finding:
    """Score the published model on the published songs: both figures within ``tolerance`` dB count as the same.

    uSDR is a mean over songs. Whether the cSDR is a mean or a median, the author does not say: a verdict takes both.
    """
    csdrs, mean = summary_of(published["scores"])
    if published["status"] != "measured":
        context = f"As context, {published.get('model')} on {published.get('data')}: {words_of(csdrs, mean)}."
        real = "MUSDB18" in published.get("data", "")
        return Finding(BLOCKED, "", (*published["missing"], *[context] * real))
    fits = [abs(value - csdr) <= tolerance for value in csdrs.values()]
    verdict = _both(fits, abs(mean - usdr) <= tolerance)
    return Finding(verdict, words_of(csdrs, mean), (f"Within {tolerance:g} dB counts as the same.", SPREAD))


@claim(
    "ten-epochs",
    "Ten epochs reach the paper's SDR",
    figure="10 epochs",
    source=(ANALYSIS,),
    tests=[
        Test(
            "GPU",
            FULL,
            {"scores": Values("ten_epochs")},
            (GPU,),
            needs="MUSDB18-HQ and a GPU",
            command="bsm train paper --steps 1000 && bsm evaluate --data data/musdb18-hq "
            "--weights runs/paper/bsmamba2-paper-seed0/model.safetensors -o reports/gpu/results/ten_epochs.json",
            comparable_only=True,
        )
    ],
    csdr=11.03,
    usdr=10.7,
    tolerance=0.1,
)
def ten_epochs(scores: Records, *, csdr: float, usdr: float, tolerance: float) -> Finding:
    """Score the paper's model after ten epochs: reached means no more than ``tolerance`` dB below the paper's."""
    csdrs, mean = summary_of(scores)
    reached = [value >= csdr - tolerance for value in csdrs.values()]
    verdict = _both(reached, mean >= usdr - tolerance)
    return Finding(verdict, words_of(csdrs, mean), (f"At most {tolerance:g} dB below counts as reached.", SPREAD))


def _both(csdrs: Sequence[bool], usdr: bool) -> str:
    return NOT_SUPPORTED if not usdr or not any(csdrs) else SUPPORTED if all(csdrs) else INCONCLUSIVE


def summary_of(records: Records) -> tuple[dict[str, float], float]:
    """Return the cSDR over songs as mean and as median, and the mean uSDR, dB."""
    scores = pd.DataFrame([r for r in records if r["separator"] != "mixture"]).astype({"csdr": float, "usdr": float})
    return {"mean": scores["csdr"].mean(), "median": scores["csdr"].median()}, scores["usdr"].mean()


def words_of(csdrs: Mapping[str, float], usdr: float) -> str:
    """Write the scores of a model: cSDR as mean and as median over songs, and uSDR."""
    return f"cSDR {', '.join(f'{name} {value:.2f}' for name, value in csdrs.items())}; uSDR {usdr:.2f} dB"
