"""Claims about the scores of trained models. A verdict needs a sensitive assay (:mod:`bsm.study.assay`).

Results come from the long study, ``reports/long``, where it has them, and otherwise from the default profile. Networks
of the default profile learn less than a static equaliser, so that they settle nothing. Its files are ``scores``,
``ablation_stft``, ``input_length``, ``vocal_occurrence``, and ``baselines``, the records of
:func:`bsm.study.baselines.scores` on the same songs. The long study has files of the same names, or the runs of its
campaign instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bsm.stats import Interval, interval_words
from bsm.study import occurrence
from bsm.study.assay import INSENSITIVE, MARGIN, Assay, assay, gain_of
from bsm.study.claims.claim import (
    DEMO,
    LONG,
    PUBLISHED,
    Evidence,
    Finding,
    Source,
    Test,
    Values,
    Verdict,
    claim,
    judge_ratio,
)
from bsm.study.compare import differences, folds_of, how_many, interval, table_of, tidy
from bsm.study.figures import LABELS
from bsm.study.input_length import tables_of
from bsm.study.long.arms import baselines_of
from bsm.study.long.songs import SECONDS

Records = Sequence[Mapping[str, Any]]
OURS, THEIRS = "BSMamba2", "BS-RoFormer"
BASE, REDUCED_LOSS = "base", "loss-3-magnitude"
NO_TIME, BLIND_LOSS = "none", "loss-blind"
"""Positive controls: a network without time blocks, and a loss whose spectra lack the target."""
DEGRADING = ("time-reshaped", "attention", THEIRS)
"""Networks known to degrade in windows longer or shorter than those of their training. The rows of the first mix
frames; the others meet positions that they never saw. BS-RoFormer is one of them since it degraded on songs, and before
it was scored in long windows on real singing."""
ARMS = {"mamba2": OURS, "bs-roformer": THEIRS}
"""The long study's name of an arm -> its name in the results of a profile."""
SAME = ARMS | {LABELS[NO_TIME]: NO_TIME}
"""Names of one network in different results -> the name that the rules use."""
LONG_SEGMENTS = {OURS: 1.0}  # s, of the long study's experiment `songs-1s`
METRICS = {"usdr": "uSDR", "csdr": "cSDR"}
FILLED = 0.9
"""Least share of a window that must be sound, not padding, on average; otherwise its length does not count."""
BASELINES = Values("baselines", optional=True)
LONG_SONGS = {
    "scores": Values("songs-1s-regions", "scores", runs=True),
    "baselines": Values("songs-baselines-regions", "scores", runs=True),
}
"""The long study's scores of 64 songs, whole and in windows of 8 s."""
TRIED = ("singers-1s", "singers-wide", "singers-transposed", "singers-muon", "singers7-muon")
"""The long study's experiments on real singing, in the order in which they were tried."""
LAST = TRIED[-1]
"""The experiment that claims rest on."""
JOINED = "singers7-joined"
"""The scores of the last experiment's networks in long windows, over joined clips."""
REAL = Values(LAST, "scores", profile=LONG, optional=True, runs=True)
"""Scores by window on real singing, as context for those on synthesised songs."""


def trained(long: Mapping[str, Values] | None = None, **inputs: Values) -> Test:
    """Return a test by small models that were trained here; ``long`` is what the long study has instead."""
    return Test(
        "small models", Evidence.SMALL, inputs, (LONG, DEMO), "trained small models", "make reproduce", long=long or {}
    )


def of_published(needs: str, **inputs: Values) -> Test:
    """Return a test by the published weights on real songs, scored by ``make published``."""
    return Test(
        "published model", Evidence.FULL, inputs, needs=needs, command="make published", options={"published": True}
    )


def on_real_singing(
    experiment: str, needs: str, campaign: str = "reports/long/campaign.yaml", **inputs: Values
) -> Test:
    """Return a test by small models that a campaign trained on real singing (:mod:`bsm.study.long.singers`)."""
    given = inputs | {"baselines": Values(baselines_of(experiment), "scores", runs=True)}
    command = f"bsm campaign {campaign}"
    options = {"tried": 1 + TRIED.index(experiment)}
    return Test("real singing", Evidence.SMALL, given, (LONG,), needs, command, options=options)


def told_of(tried: int) -> tuple[str, ...]:
    """Say that the singers that judge an experiment also served its choice; nothing for the first experiment."""
    if tried == 1:
        return ()
    earlier = "because earlier ones missed the gate, which favours the last one a little"
    return (f"It is experiment {tried} on these singers, {earlier}.",)


def scored(*records: Records) -> pd.DataFrame:
    """Return records of scores as one tidy frame, with one name for each network (:data:`SAME`)."""
    return pd.concat([tidy(part).replace({"system": SAME}) for part in records if part])


def gated(found: Finding, gate: Assay) -> Finding:
    """Return a finding if the assay is sensitive, otherwise an inconclusive one with its figure and the reasons."""
    reasons = (*found.reasons, *(f"{reason}." for reason in gate.reasons))
    if gate.sensitive or found.verdict == Verdict.BLOCKED:
        return Finding(found.verdict, found.measured, reasons)
    return Finding(Verdict.INCONCLUSIVE, f"{INSENSITIVE}: {gate.lacks}", (f"Measured: {found.measured}.", *reasons))


@claim(
    "slight-loss",
    "Leaving out phase and two windows of the loss costs slight quality",
    figure="slight",
    source=(Source.OPTIMISATION,),
    tests=[
        trained(scores=Values("ablation_stft", "scores"), baselines=BASELINES),
        on_real_singing(
            LAST,
            "two other losses on real singing: clips of MIR-1K, three hours of a core",
            scores=Values(LAST, "scores", runs=True, arms=("mamba2", REDUCED_LOSS, BLIND_LOSS)),
            regions=Values(LAST, "regions", runs=True, arms=("mamba2", REDUCED_LOSS)),
        ),
    ],
    margin=MARGIN,
)
def slight_loss(
    scores: Records, baselines: Records = (), regions: Records = (), *, margin: float, tried: int = 1
) -> Finding:
    """Compare models trained with both losses: slight means no more than the paper's advantage over BS-RoFormer.

    The stated measure is uSDR. Leakage beside vocal regions was looked at after the results. A loss in it cannot refute
    the claim, but it leaves a claim about quality open.
    """
    whole = [record for record in scores if record.get("window") is None]
    frame = scored(whole, baselines).replace({"system": {OURS: BASE}})
    if not {BASE, REDUCED_LOSS} <= set(frame["system"]):
        return Finding(Verdict.BLOCKED, "", (f"The variant `{REDUCED_LOSS}` was not trained.",))
    lost = gain_of(frame, BASE, REDUCED_LOSS)
    verdict = judge_ratio(lost, -np.inf, margin)
    measured = f"costs {interval_words(lost, ' dB')} uSDR"
    reasons = [
        f"Slight means at most {margin:g} dB, the paper's advantage over {THEIRS}.",
        f"The control is coarse. That {margin:g} dB can be seen follows from the width of the interval.",
        *told_of(tried),
    ]
    leaks = leakage(scored(regions).replace({"system": {OURS: BASE}}), REDUCED_LOSS, BASE) if regions else {}
    if leaks:
        reasons.insert(0, f"{leakage_words(leaks)}, reduced loss minus the paper's (looked at after the results).")
        measured += f", leaks {interval_words(leaks['before'], ' dB')} more"
    if verdict == Verdict.SUPPORTED and any(more.high > margin for more in leaks.values()):
        verdict = Verdict.INCONCLUSIVE
        reasons.insert(0, "In uSDR, which was stated beforehand, the cost is slight; in silence, it is not seen to be.")
    return gated(Finding(verdict, measured, reasons), assay(frame, [BASE, REDUCED_LOSS], BLIND_LOSS))


def leakage(regions: pd.DataFrame, first: str, second: str) -> dict[str, Interval]:
    """Return how much more the first system leaks than the second before and after vocal regions, dB."""
    sides = {"before": occurrence.BEFORE, "after": occurrence.AFTER}
    tables = {side: [table_of(regions, name, of) for name in (first, second)] for side, of in sides.items()}
    return {side: interval(differences(*pair), folds_of(regions)) for side, pair in tables.items()}


def leakage_words(leaks: Mapping[str, Interval]) -> str:
    """Say what :func:`leakage` returns."""
    said = " and ".join(f"{interval_words(more, ' dB')} {side}" for side, more in leaks.items())
    return f"Leakage {said} vocal regions (less is better)"


def share_of_sound(seconds: float, window: float) -> float:
    """Return the share of sound in the windows of a song; the rest is padding of the last window."""
    return seconds / (np.ceil(round(seconds / window, 6)) * window)


def windows_of(scores: Records) -> dict[float, pd.DataFrame]:
    """Return by window the scores without overlap of the tracks that fill their windows.

    A last window that is padded with zeros shows less than its length: a song of 24 s has no second window of 16 s.
    Records without the ``seconds`` that were scored are of the long study's songs.
    """
    filled = []
    for record in scores:
        window, seconds = record["window"], record.get("seconds", SECONDS)
        plain = window is not None and record.get("hop", window) == window
        if plain and share_of_sound(seconds, window) >= FILLED:
            filled.append(record)
    return dict(iter(scored(filled).groupby("window"))) if filled else {}


def change(frames: Mapping[float, pd.DataFrame], name: str, window: float, to: float, metric: str) -> Interval | None:
    """Return how a model's score changes from one window ``to`` another, paired; None if it was not scored in both."""
    tables = [table_of(frames[w], name, metric) for w in (window, to)]
    folds = folds_of(pd.concat([frames[w] for w in (window, to)]))  # a recording may fill the windows of one alone
    return None if any(t.empty for t in tables) else interval(differences(*tables), folds)


@claim(
    "stable-1-16",
    "Scores are stable over input lengths of 1 to 16 s",
    figure="1 to 16 s",
    source=(Source.PAPER, Source.GUIDE),
    tests=[
        trained(
            scores=Values("input_length", "scores"),
            segments=Values("input_length", "trained"),
            baselines=BASELINES,
            real=REAL,
            long={
                "scores": Values("songs-1s", "scores", runs=True),
                "baselines": Values("songs-baselines", "scores", runs=True),
                "real": REAL,
            },
        ),
        of_published(
            "the published weights (193 MB), excerpts (147 MB), 90 minutes of two CPU cores",
            scores=Values("input_length", "scores", profile=PUBLISHED),
            segments=Values("input_length", "against", profile=PUBLISHED),
        ),
        on_real_singing(
            LAST,
            "long windows on real singing: half an hour of a core",
            "reports/long/joined.yaml",
            scores=Values(JOINED, "scores", runs=True, arms=("mamba2", NO_TIME, "bs-roformer")),
        ),
    ],
    shortest=1,
    longest=16,
)
def stable_1_16(
    scores: Records,
    segments: Mapping[str, float] = LONG_SEGMENTS,
    baselines: Records = (),
    real: Records = (),
    *,
    shortest: float,
    longest: float,
    published: bool = False,
    tried: int = 1,
) -> Finding:
    """Compare each window with that of the training: stable means equivalent in uSDR and cSDR, at every window.

    A network without time blocks is stable in any window, so it is no control. BSMamba2's gain over it must be stable
    as well, and one of the networks known to degrade must be seen to degrade. The ``published`` model has no such
    control: a change that is seen counts, but if none is seen, the claim is not settled.
    """
    own = segments[OURS]
    every = windows_of(scores)
    frames = {w: frame for w, frame in every.items() if shortest <= w <= longest}
    if own not in frames:
        return Finding(Verdict.BLOCKED, "", (f"Windows of {own:g} s, as in training, were not scored.",))
    changes = {(w, m): change(frames, OURS, w, own, m) for w in frames if w != own for m in METRICS if m in frames[own]}
    if not changes:
        return Finding(Verdict.BLOCKED, "", (f"Beside windows of {own:g} s, as in training, none was scored.",))
    judged = [judge_ratio(gain, -MARGIN, MARGIN) for gain in changes.values()]
    judged += [Verdict.INCONCLUSIVE] * (not {shortest, longest} <= set(frames))
    folds = folds_of(pd.concat(frames.values()))
    for w, frame in frames.items():
        if NO_TIME in set(frame["system"]):
            over_none = [differences(table_of(frames[v], OURS), table_of(frames[v], NO_TIME)) for v in (w, own)]
            judged.append(judge_ratio(interval(differences(*over_none), folds), -MARGIN, MARGIN))
    case, far = max(changes.items(), key=lambda pair: _reach(pair[1]))
    some = how_many(frames[case[0]]["song"].nunique(), "singer" if folds else "song")
    measured = f"at most {interval_words(far, ' dB')} {METRICS[case[1]]} at {case[0]:g} s, {some}"
    spans = f"Windows of {', '.join(f'{w:g}' for w in frames)} s, which recordings fill to {100 * FILLED:g} % or more."
    if published:
        alone = "No network that is known to degrade stands beside it, so that no change is seen settles nothing."
        compared = f"Against windows of {own:g} s; stable means within {MARGIN:g} dB."
        return Finding(Verdict.worst([*judged, Verdict.INCONCLUSIVE]), measured, (spans, compared, alone))
    losses = {name: [change(frames, name, w, own, "usdr") for w in frames if w != own] for name in DEGRADING}
    seen = [name for name, found in losses.items() if any(gain is not None and gain.high < 0 for gain in found)]
    gate = assay(pd.concat([frames[own], *([scored(baselines)] if baselines else [])]), [OURS], NO_TIME)
    told = f"these are seen to degrade here: {', '.join(seen)}" if seen else "no one is seen to degrade here"
    told = f"Of networks known to degrade, {', '.join(DEGRADING)}, {told}"
    gate = Assay((*gate.reasons, told), gate.lacks or ("" if seen else "no network is seen to degrade"))
    reasons = [spans, f"Against windows of {own:g} s, as trained; stable means within {MARGIN:g} dB.", *told_of(tried)]
    theirs = {w: gain for w in frames if w != own and (gain := change(frames, THEIRS, w, own, "usdr")) is not None}
    if theirs:
        at, most = max(theirs.items(), key=lambda pair: _reach(pair[1]))
        reasons.append(f"As context, {THEIRS} changes at most {interval_words(most, ' dB')} uSDR, at {at:g} s.")
    if "csdr" not in frames[own]:
        reasons.append("cSDR was not measured in these windows.")
    if NO_TIME in set(frames[own]["system"]):
        gains = {w: gain_of(every[w], OURS, NO_TIME) for w in (min(every), max(every))}
        said = " and ".join(f"{interval_words(gain, ' dB')} in windows of {w:g} s" for w, gain in gains.items())
        reasons.append(
            f"Over no time block, {OURS} gains {said}. What the shortest window gives needs no longer context."
        )
    if set(ARMS) <= {record["separator"] for record in real}:
        reasons.append(on_whole_clips(real, own))
    return gated(Finding(Verdict.worst(judged), measured, reasons), gate)


def _reach(change: Interval) -> float:
    """Return how far from zero a change may be: the farther end of its interval, or the estimate if it has none."""
    return float(np.nanmax(np.abs(change[:3])))


def on_whole_clips(scores: Records, window: float) -> str:
    """Say how both networks' uSDR changes on real singing, from windows as in training to whole clips."""
    frames = dict(iter(scored(scores).groupby("window")))
    changes = {name: change(frames, name, np.inf, window, "usdr") for name in (OURS, THEIRS)}
    words = " and ".join(f"{name} {interval_words(gain, ' dB')}" for name, gain in changes.items())
    singers = frames[np.inf]["song"].nunique()
    return f"On real singing ({singers} singers), whole clips instead of windows of {window:g} s change {words}."


@claim(
    "nonoverlap-8",
    "Windows of 8 s without overlap suffice",
    figure="8 s",
    source=(Source.GUIDE,),
    tests=[
        trained(
            scores=Values("input_length", "scores"),
            baselines=BASELINES,
            long=LONG_SONGS,
        )
    ],
    window=8.0,
    margin=MARGIN,
)
def nonoverlap_8(scores: Records, baselines: Records = (), *, window: float, margin: float) -> Finding:
    """Compare windows that overlap by half with plain ones: only a gain by overlap speaks against the claim."""
    tables = tables_of(scored(scores), "usdr")
    if (OURS, window, window / 2) not in tables:
        return Finding(Verdict.BLOCKED, "", (f"Windows of {window:g} s were not scored with overlap.",))
    gain = interval(differences(tables[OURS, window, window / 2], tables[OURS, window, window]))
    verdict = judge_ratio(gain, -np.inf, margin)
    reasons = (f"Half of each window overlaps; windows suffice if the overlap gains at most {margin:g} dB.",)
    frame = scored([r for r in scores if r["window"] == r["hop"] == window], baselines)
    some = how_many(tables[OURS, window, window / 2].index.get_level_values("song").nunique(), "song")
    found = Finding(verdict, f"overlap gains {interval_words(gain, ' dB')} uSDR, {some}", reasons)
    return gated(found, assay(frame, [OURS], NO_TIME))
