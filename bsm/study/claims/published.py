"""Claims about the paper's own scores. Testing them takes its songs, and its weights or its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bsm.data.registry import load
from bsm.study.claims.claim import DEMO, GPU, PUBLISHED, Evidence, Finding, Source, Test, Values, Verdict, claim
from bsm.study.contributed import DEFINITIONS, FOLDER
from bsm.study.published import AUTHOR

Records = Sequence[Mapping[str, Any]]
SPREAD = "Whether the published cSDR is a mean or a median over songs is not stated: both must fit."


@claim(
    "sdr-1103",
    "The published model reaches a cSDR of 11.03 dB and a uSDR of 10.70 dB on MUSDB18-HQ",
    figure="11.03, 10.70 dB",
    source=(Source.PAPER, Source.GUIDE),
    tests=[
        Test(
            "MUSDB18-HQ",
            Evidence.FULL,
            {
                "published": Values("published_model"),
                "contributed": Values(AUTHOR, profile=FOLDER, optional=True),
            },
            (PUBLISHED, DEMO),
            needs="MUSDB18-HQ (22.7 GB), the author's weights (771 MB), 9 hours of two CPU cores",
            command="make published WEIGHTS=author DATA=data/musdb18-hq",
        )
    ],
    csdr=11.03,
    usdr=10.7,
    tolerance=0.1,
)
def sdr_1103(
    published: Mapping[str, Any],
    contributed: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    csdr: float,
    usdr: float,
    tolerance: float,
) -> Finding:
    """Score the published model on the published songs: both figures within ``tolerance`` dB count as the same.

    uSDR is a mean over songs. Whether the cSDR is a mean or a median, the author does not say: a verdict takes both.
    Where nothing was measured here, results that others contributed count, if they are of those weights and songs.
    """

    def judge(csdrs: Mapping[str, float], mean: float) -> Verdict:
        same = Verdict.of_parts([abs(value - csdr) <= tolerance for value in csdrs.values()])
        return Verdict.worst([same, Verdict.of(abs(mean - usdr) <= tolerance)])

    csdrs, mean = summary_of(published["scores"])
    limits = (f"Within {tolerance:g} dB counts as the same.", SPREAD)
    if published["status"] == "measured":
        return Finding(judge(csdrs, mean), words_of(csdrs, mean), limits)
    contributed = contributed or {}
    faults = {file: _lacks(record) for file, record in contributed.items()}
    told = [f"Contributed, but it does not count: {file}: {fault}." for file, fault in faults.items() if fault]
    counted = {file: record for file, record in contributed.items() if not faults[file]}
    if counted:
        found = [summary_of(record["values"]) for record in counted.values()]
        verdict = Verdict.agreed({judge(*scores) for scores in found})
        reasons = (*(_contributor(file, record) for file, record in counted.items()), *told, *limits)
        return Finding(verdict, " and ".join(words_of(*scores) for scores in found), reasons)
    context = f"As context, {published.get('model')} on {published.get('data')}: {words_of(csdrs, mean)}."
    real = "MUSDB18" in published.get("data", "")
    return Finding(Verdict.BLOCKED, "", (*published["missing"], *[context] * real, *told))


def _lacks(record: Mapping[str, Any]) -> str:
    """Say what a contributed result of the author's weights lacks to be the published evaluation; nothing: empty."""
    if {score["track"] for score in record["values"]} != set(load("musdb18-hq").splits["test"].names or ()):
        return "its tracks are not the 50 test songs of MUSDB18-HQ"
    if not record["comparable_with_paper"]:
        return "it is not marked comparable_with_paper (whole songs, windows of 8 s without overlap)"
    metrics = record["contribution"]["metrics"]
    other = [name for name in ("csdr", "usdr") if metrics.get(name) != DEFINITIONS[name]]
    return f"its {' and '.join(other)} is not defined as `bsm evaluate` computes it" if other else ""


def _contributor(file: str, record: Mapping[str, Any]) -> str:
    about = record["contribution"]
    return (
        f"Not measured here, but contributed by {about['contributor']} on {about['date']} ({file}): {about['system']}, "
        f"weights SHA-256 {about['weights_sha256'][:12]}, {record['data']}, by {about['software']} {about['version']}. "
        f"cSDR: {about['metrics']['csdr']}. uSDR: {about['metrics']['usdr']}."
    )


@claim(
    "ten-epochs",
    "Ten epochs reach the paper's SDR",
    figure="10 epochs",
    source=(Source.ANALYSIS,),
    tests=[
        Test(
            "GPU",
            Evidence.FULL,
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
    reached = Verdict.of_parts([value >= csdr - tolerance for value in csdrs.values()])
    verdict = Verdict.worst([reached, Verdict.of(mean >= usdr - tolerance)])
    return Finding(verdict, words_of(csdrs, mean), (f"At most {tolerance:g} dB below counts as reached.", SPREAD))


def summary_of(records: Records) -> tuple[dict[str, float], float]:
    """Return the cSDR over songs as mean and as median, and the mean uSDR, dB."""
    scores = pd.DataFrame([r for r in records if r.get("separator") != "mixture"])[["csdr", "usdr"]].astype(float)
    return {"mean": scores["csdr"].mean(), "median": scores["csdr"].median()}, scores["usdr"].mean()


def words_of(csdrs: Mapping[str, float], usdr: float) -> str:
    """Write the scores of a model: cSDR as mean and as median over songs, and uSDR."""
    return f"cSDR {', '.join(f'{name} {value:.2f}' for name, value in csdrs.items())}; uSDR {usdr:.2f} dB"
