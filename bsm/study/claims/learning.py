"""Claims about what trained models reach. Each verdict passes the gate of :mod:`bsm.study.assay` first.

Results are taken from the long study, ``reports/long``, where it is there, and from the default profile otherwise: its
trainings learn less than a static equaliser, so that they settle nothing. Both have the files ``scores``,
``ablation_stft``, ``input_length`` and ``vocal_occurrence``; ``baselines`` holds the records of
:func:`bsm.study.baselines.scores` on the same songs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bsm.stats import Interval, crossed_interval, interval_words
from bsm.study.assay import INSENSITIVE, MARGIN, Assay, assay, cluster_of, paired, table_of, within
from bsm.study.claims.claim import (
    BLOCKED,
    DEMO,
    FULL,
    GPU,
    INCONCLUSIVE,
    LONG,
    MIR,
    NOT_SUPPORTED,
    SMALL,
    SUPPORTED,
    Finding,
    Test,
    Values,
    claim,
)

Records = Sequence[Mapping[str, Any]]
OURS, THEIRS = "BSMamba2", "BS-RoFormer"
BASE, REDUCED_LOSS = "base", "loss-3-magnitude"
NO_TIME, RESHAPED, BLIND_LOSS = "none", "time-reshaped", "loss-blind"
"""Positive controls: no time blocks, a time path that mixes its rows, and a loss without the target in its spectra."""
FILLED = 0.9
"""Share of a window that is sound and no padding, on average, for its length to count."""
BASELINES = Values("baselines", optional=True)


def trained(**inputs: Values) -> Test:
    """Return a test by small models that were trained here."""
    return Test("small models", SMALL, inputs, (LONG, DEMO))


def tidy(records: Records, name: str = "separator", **where: Any) -> pd.DataFrame:
    """Return records as scores of :mod:`bsm.study.assay`: those in which ``where`` holds, named by the field ``name``.

    None in ``where`` and in a record is the whole song.
    """
    own = [r for r in records if all(r[field] == value for field, value in where.items())]
    frame = pd.DataFrame(own).rename(columns={name: "separator"})
    return frame if "seed" in frame or frame.empty else frame.assign(seed=None)


def gated(found: Finding, gate: Assay) -> Finding:
    """Return a finding where the assay is sensitive; otherwise say that it is not, what it measured, and why."""
    reasons = (*found.reasons, *(f"{reason}." for reason in gate.reasons))
    if gate.sensitive or found.verdict == BLOCKED:
        return Finding(found.verdict, found.measured, reasons)
    return Finding(INCONCLUSIVE, INSENSITIVE, (f"Measured: {found.measured}.", *reasons))


def equivalence(gain: Interval, margin: float = MARGIN) -> str:
    """Judge "no difference": the whole interval within the margin, beyond it, or across."""
    return {True: SUPPORTED, False: NOT_SUPPORTED, None: INCONCLUSIVE}[within(gain, margin)]


def worst(verdicts: Sequence[str]) -> str:
    """Combine the verdicts on all parts of a claim."""
    return next((v for v in (NOT_SUPPORTED, INCONCLUSIVE) if v in verdicts), SUPPORTED)


@claim(
    "slight-loss",
    "Leaving out phase and two windows of the loss costs slight quality",
    figure="slight",
    source="000",
    tests=[trained(scores=Values("ablation_stft", "scores"), baselines=BASELINES)],
    margin=MARGIN,
)
def slight_loss(scores: Records, baselines: Records = (), *, margin: float) -> Finding:
    """Compare models trained with both losses: slight means no more than the paper's advantage over BS-RoFormer."""
    frame = pd.concat([tidy(scores, "variant"), tidy(baselines)])
    if not {BASE, REDUCED_LOSS} <= set(frame["separator"]):
        return Finding(BLOCKED, "", (f"The variant `{REDUCED_LOSS}` was not trained.",))
    lost = paired(frame, BASE, REDUCED_LOSS)
    verdict = SUPPORTED if lost.high <= margin else NOT_SUPPORTED if lost.low > margin else INCONCLUSIVE
    reasons = (f"Slight means at most {margin:g} dB, the paper's advantage over {THEIRS}.",)
    found = Finding(verdict, f"costs {interval_words(lost, ' dB')} uSDR", reasons)
    return gated(found, assay(frame, [BASE, REDUCED_LOSS], BLIND_LOSS))


def padding(seconds: float, window: float | None) -> float:
    """Return which share of the windows over a song is sound; a whole song is one window without padding."""
    return 1.0 if window is None else seconds / (np.ceil(round(seconds / window, 6)) * window)


def windows_of(scores: Records, songs: Records) -> dict[float, list[Mapping[str, Any]]]:
    """Return by window the scores without overlap of those tracks whose windows are filled.

    A last window that is padded with zeros is shorter than it says: a song of 24 s has no second window of 16 s.
    """
    seconds = {song["track"]: song["seconds"] for song in songs}
    found: dict[float, list[Mapping[str, Any]]] = {}
    for r in scores:
        if r["window"] is not None and r["hop"] == r["window"]:
            kept = found.setdefault(r["window"], [])
            if padding(seconds[r["track"]], r["window"]) >= FILLED:
                kept.append(r)
    return {window: found[window] for window in sorted(found) if found[window]}


def change(frames: Mapping[float, pd.DataFrame], name: str, window: float, to: float, metric: str) -> Interval | None:
    """Return what a model gains by a window against that of its training, paired; None where it was not scored."""
    if any(name not in set(frames[w]["separator"]) for w in (window, to)):
        return None
    one, two = (table_of(frames[w], name, metric) for w in (window, to))
    tracks = one.index.intersection(two.index)
    return crossed_interval(one.loc[tracks] - two.loc[tracks], tracks.get_level_values("cluster"))


@claim(
    "stable-1-16",
    "Scores are stable over input lengths of 1 to 16 s",
    figure="1 to 16 s",
    source="003",
    tests=[
        trained(
            scores=Values("input_length", "scores"),
            segments=Values("input_length", "trained"),
            songs=Values("data"),
            baselines=BASELINES,
            real=Values("input_length", "scores", profile=MIR, optional=True),
            real_segments=Values("input_length", "trained", profile=MIR, optional=True),
            real_songs=Values("data", profile=MIR, optional=True),
        )
    ],
    shortest=1,
    longest=16,
)
def stable_1_16(
    scores: Records,
    segments: Mapping[str, float],
    songs: Records,
    baselines: Records = (),
    real: Records = (),
    real_segments: Mapping[str, float] | None = None,
    real_songs: Records = (),
    *,
    shortest: float,
    longest: float,
) -> Finding:
    """Compare each window with that of the training: stable means equivalence in uSDR and cSDR, at every window.

    A network without time blocks is stable whatever it is given, so it is no control. What the base gains over it must
    be stable as well, and a network known to degrade, whose time path mixes its rows, must be seen to.
    """
    own = segments[OURS]
    frames = {w: tidy(r, "model") for w, r in windows_of(scores, songs).items() if shortest <= w <= longest}
    if own not in frames:
        return Finding(BLOCKED, "", (f"Windows of {own:g} s, as in training, were not scored.",))
    changes = {(w, m): change(frames, OURS, w, own, m) for w in frames if w != own for m in ("usdr", "csdr")}
    judged = [equivalence(gain) for gain in changes.values()]
    judged += [INCONCLUSIVE] * (not {shortest, longest} <= set(frames))
    for w, frame in frames.items():
        if NO_TIME in set(frame["separator"]):
            judged.append(equivalence(_over_none(frames, w, own)))
    case, far = max(changes.items(), key=lambda pair: abs(pair[1].estimate))
    degraded = [change(frames, RESHAPED, w, own, "usdr") for w in frames if w != own]
    seen = any(gain is not None and gain.high < 0 for gain in degraded)
    gate = assay(pd.concat([frames[own], tidy(baselines)]), [OURS], NO_TIME)
    told = f"A network known to degrade, `{RESHAPED}`, {'is' if seen else 'is not'} seen to"
    gate = Assay(gate.sensitive and seen, (*gate.reasons, told))
    reasons = [
        f"Windows of {', '.join(f'{w:g}' for w in frames)} s, which songs fill to {100 * FILLED:g} % or more.",
        f"Against windows of {own:g} s, as trained; stable means within {MARGIN:g} dB.",
    ]
    if real:
        reasons.append(_sensitivity(real, real_segments, real_songs))
    measured = f"at most {interval_words(far, ' dB')} {case[1]} at {case[0]:g} s"
    return gated(Finding(worst(judged), measured, reasons), gate)


def _over_none(frames: Mapping[float, pd.DataFrame], window: float, own: float) -> Interval:
    gains = [table_of(frames[w], OURS) - table_of(frames[w], NO_TIME) for w in (window, own)]
    changed = (gains[0] - gains[1]).dropna()
    return crossed_interval(changed, changed.index.get_level_values("cluster"))


def _sensitivity(scores: Records, segments: Mapping[str, float], songs: Records) -> str:
    frames = {w: tidy(r, "model") for w, r in windows_of(scores, songs).items()}
    shortest = min(frames)
    drops = {name: change(frames, name, shortest, segments[name], "usdr") for name in (OURS, THEIRS)}
    words = " and ".join(f"{name} {interval_words(gain, ' dB')}" for name, gain in drops.items())
    more = "more" if drops[OURS].estimate < drops[THEIRS].estimate else "not more"
    return (
        f"On real singing ({_singers(frames[shortest])}, one seed), windows of {shortest:g} s change {words}: "
        f"{OURS} is {more} sensitive to short windows."
    )


def _singers(frame: pd.DataFrame) -> str:
    return f"{frame['track'].map(cluster_of).nunique()} singers of MIR-1K"


@claim(
    "nonoverlap-8",
    "Windows of 8 s without overlap suffice",
    figure="8 s",
    source="003",
    tests=[
        trained(
            scores=Values("input_length", "scores"),
            baselines=BASELINES,
            real=Values("input_length", "scores", profile=MIR, optional=True),
        )
    ],
    window=8.0,
    margin=MARGIN,
)
def nonoverlap_8(
    scores: Records, baselines: Records = (), real: Records = (), *, window: float, margin: float
) -> Finding:
    """Compare windows that overlap by half with none: what overlap gains speaks against the claim, a loss does not."""
    gains = overlap_gains(scores)
    if window not in gains:
        return Finding(BLOCKED, "", (f"Windows of {window:g} s were not scored with overlap.",))
    gain = gains[window]
    verdict = SUPPORTED if gain.high <= margin else NOT_SUPPORTED if gain.low > margin else INCONCLUSIVE
    reasons = [f"Half of each window overlaps; suffices means that this gains at most {margin:g} dB."]
    for length, other in overlap_gains(real).items():
        reasons.append(
            f"On real singing ({_singers(tidy(real))}, one seed), overlap gains {interval_words(other, ' dB')} at "
            f"{length:g} s."
        )
    frame = pd.concat([tidy(scores, "model", window=window, hop=window), tidy(baselines)])
    found = Finding(verdict, f"overlap gains {interval_words(gain, ' dB')} uSDR", reasons)
    return gated(found, assay(frame, [OURS], NO_TIME))


def overlap_gains(scores: Records) -> dict[float, Interval]:
    """Return by window what an overlap by half gains BSMamba2, paired."""
    gains = {}
    for window in sorted({r["window"] for r in scores if r["hop"] != r["window"]}):
        tables = [table_of(tidy(scores, "model", window=window, hop=hop), OURS) for hop in (window / 2, window)]
        gain = (tables[0] - tables[1]).dropna()
        gains[window] = crossed_interval(gain, gain.index.get_level_values("cluster"))
    return gains


@claim(
    "intermittent",
    "It is better than BS-RoFormer where vocals are intermittent",
    figure="better",
    source="003",
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
    owners = gains.index.get_level_values("cluster")
    gain, more = crossed_interval(gains[short], owners[short]), crossed_interval(gains, owners, against=~short)
    holds, fails = gain.low > 0 and more.low > 0, gain.high < 0 or more.high < 0
    reasons = [
        f"Which is {interval_words(more, ' dB')} more than in longer regions; an advantage everywhere says nothing of "
        "intermittent vocals.",
        by_duration(gains, "By duration of the region"),
    ]
    if real:
        reasons.append(by_duration(advantage(real), "On real singing (MIR-1K, one seed), by duration"))
    frame = pd.concat([tidy(scores), tidy(baselines)])
    verdict = SUPPORTED if holds else NOT_SUPPORTED if fails else INCONCLUSIVE
    found = Finding(verdict, f"{interval_words(gain, ' dB')} in regions under {shorter:g} s", reasons)
    return gated(found, assay(frame, [OURS, THEIRS], NO_TIME))


def advantage(regions: Records, edges: Sequence[float] = (1, 2, 4)) -> pd.DataFrame:
    """Return BSMamba2's SDR minus BS-RoFormer's, dB, a row per vocal region and a column per seed.

    Args:
        regions: records of vocal regions by model and seed.
        edges: inner edges of the bins, s: a region that the recording cuts short is in the last, open one, or in none.
    """
    frame = pd.DataFrame([r for r in regions if not r["cut"] or r["duration"] >= edges[-1]])
    frame = frame.assign(cluster=frame["track"].map(cluster_of)).astype({"sdr": float})
    index = ["cluster", "track", "region", "duration"]
    tables = [
        own.pivot(index=index, columns="seed", values="sdr")
        for name in (OURS, THEIRS)
        if len(own := frame[frame["model"] == name])
    ]
    return (tables[0] - tables[1]).dropna() if len(tables) == 2 else pd.DataFrame()


def by_duration(gains: pd.DataFrame, title: str, edges: Sequence[float] = (1, 2, 4)) -> str:
    """Say what the advantage is in each bin of durations, and which way it goes."""
    means = gains.mean(axis=1)
    place = np.digitize(gains.index.get_level_values("duration"), edges)
    names = [f"under {edges[0]:g} s", *(f"{a:g} to {b:g} s" for a, b in zip(edges, edges[1:], strict=False))]
    names.append(f"{edges[-1]:g} s or more")
    found = {name: means[place == i].mean() for i, name in enumerate(names) if (place == i).any()}
    values = list(found.values())
    rises = [b > a for a, b in zip(values, values[1:], strict=False)]
    way = "it grows with the duration" if all(rises) else "it falls with it" if not any(rises) else "no one direction"
    return f"{title}: {', '.join(f'{name} {value:.2f} dB' for name, value in found.items())}; {way}."


SCORES_FROM = "MUSDB18-HQ and the author's weights"


@claim(
    "sdr-1103",
    "The published model reaches a cSDR of 11.03 dB and a uSDR of 10.70 dB on MUSDB18-HQ",
    figure="11.03, 10.70 dB",
    source="003",
    tests=[
        Test(
            "MUSDB18-HQ",
            FULL,
            {"published": Values("published_model")},
            needs=SCORES_FROM,
            command="bsm study 10_published_model --profile demo -p dataset data/musdb18-hq",
            takes="hours on a CPU",
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
    if published["status"] != "measured":
        return Finding(BLOCKED, "", tuple(published["missing"]))
    csdrs, mean = summary_of(published["scores"])
    fits = [abs(value - csdr) <= tolerance for value in csdrs.values()]
    fits_usdr = abs(mean - usdr) <= tolerance
    verdict = SUPPORTED if all(fits) and fits_usdr else INCONCLUSIVE if any(fits) and fits_usdr else NOT_SUPPORTED
    return Finding(verdict, words_of(csdrs, mean), (f"Within {tolerance:g} dB counts as the same.", SPREAD))


@claim(
    "ten-epochs",
    "Ten epochs reach the paper's SDR",
    figure="10 epochs",
    source="002",
    tests=[
        Test(
            "GPU",
            FULL,
            {"scores": Values("ten_epochs")},
            (GPU,),
            needs="MUSDB18-HQ and a GPU",
            command="bsm train paper --steps 1000 && bsm evaluate --device cuda --data data/musdb18-hq "
            "--weights runs/paper/bsmamba2-paper-seed0/model.safetensors -o reports/gpu/results/ten_epochs.json",
            takes="days",
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
    enough = mean >= usdr - tolerance
    verdict = SUPPORTED if all(reached) and enough else INCONCLUSIVE if any(reached) and enough else NOT_SUPPORTED
    return Finding(verdict, words_of(csdrs, mean), (f"At most {tolerance:g} dB below counts as reached.", SPREAD))


SPREAD = "Whether the published cSDR is a mean or a median over songs is not stated: both must fit."


def summary_of(records: Records) -> tuple[dict[str, float], float]:
    """Return the cSDR over songs as mean and as median, and the mean uSDR, dB."""
    scores = pd.DataFrame([r for r in records if r["separator"] != "mixture"]).astype({"csdr": float, "usdr": float})
    return {"mean": scores["csdr"].mean(), "median": scores["csdr"].median()}, scores["usdr"].mean()


def words_of(csdrs: Mapping[str, float], usdr: float) -> str:
    """Write the scores of a model: cSDR as mean and as median over songs, and uSDR."""
    return f"cSDR {', '.join(f'{name} {value:.2f}' for name, value in csdrs.items())}; uSDR {usdr:.2f} dB"
