"""Scores of the long study's trainings, by arm and by window, and what the arms cost.

The trainings are on songs (:mod:`bsm.study.long.songs`) or on real singing (:mod:`bsm.study.long.singers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bsm.errors import InputError
from bsm.stats import Interval
from bsm.study import counts, figures
from bsm.study.assay import beats, gain_of, trainings
from bsm.study.baselines import EQUALISER
from bsm.study.campaign import finished, of_run
from bsm.study.compare import covers, folds_of, tidy, words
from bsm.study.figures import LABELS
from bsm.study.long.songs import BASELINES, model_config
from bsm.study.variants import VARIANTS
from bsm.study.windows import shown

BASE, NO_TIME = "mamba2", "none"
NAMES = {name: variant.asks for name, variant in VARIANTS.items()} | LABELS
WHOLE = np.inf
LENGTHS = (1.0, 4.0, 16.0, 64.0)
"""Lengths in s for which :func:`costs` counts operations."""


def baselines_of(experiment: str) -> str:
    """Return the name of the experiment that scores the trivial separators on the same songs or singers."""
    return f"{experiment.partition('-')[0]}-{BASELINES}"


def scores(folder: Path, experiment: str) -> pd.DataFrame:
    """Read the scores of an experiment's finished runs, and of the trivial separators on the same songs.

    Returns:
        A frame of :func:`bsm.study.compare.tidy`. ``system`` is an arm or a trivial separator; ``window`` is in s,
        infinite for a whole song. An arm has also ``lr``, ``parameters``, and ``minutes``, the time that the
        trainings of one seed took on one core, beside other work.

    Raises:
        InputError: There is no finished run, or the trivial separators were not scored.
    """
    baselines = baselines_of(experiment)
    runs, trivial = ([*finished(folder, name).values()] for name in (experiment, baselines))
    if not runs or not trivial:
        raise InputError(f"{folder}: no finished run of {experiment} or {baselines}; `bsm campaign` trains them")
    records = []
    for run in runs:
        given = run["parameters"]
        own = {"lr": given["train"]["lr"], "parameters": given["parameters"]}
        own |= {"minutes": run["values"]["training_seconds"] / 60}
        records += [own | row for row in of_run(run, run["values"]["scores"])]
    return tidy([*records, *({"window": None} | row for row in trivial[0]["values"]["scores"])])


def arms(frame: pd.DataFrame) -> list[str]:
    """Return the time blocks and BS-RoFormer of a frame of :func:`scores`, in the order of their names in figures."""
    return [arm for arm in LABELS if arm in set(frame["system"])]


def covered(frame: pd.DataFrame) -> str:
    """Say in a caption what the intervals of a frame's differences cover (:func:`bsm.study.compare.covers`)."""
    base = frame[frame["system"] == BASE]
    folds = base["fold"].nunique() if folds_of(frame) else 1
    return covers(base["seed"].nunique(), "singers" if folds > 1 else "songs", folds)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per training and trivial separator, from whole songs: scores, and the gain over the equaliser.

    Trainings are the :func:`arms`, then variants of the base.

    ``gate`` says whether an arm beats the equaliser by as much as :func:`bsm.study.assay.beats` demands.
    """
    whole = frame[frame["window"] == WHOLE]
    means = whole.groupby("system")[["usdr", "level"]].mean()
    names = [*arms(frame), *(name for name in VARIANTS if name in means.index)]
    rows = []
    for name in (*names, *means["usdr"].drop(names).sort_values().index):
        row = {"separator": NAMES.get(name, name), "parameters": "", "trainings": "", "rate": "", "minutes": ""}
        row |= {"uSDR (dB)": means["usdr"][name], "level re target (dB)": means["level"][name], "minus equaliser": ""}
        if name in names:
            own, gain = whole[whole["system"] == name], gain_of(whole, name, EQUALISER)
            row |= {"parameters": f"{own['parameters'].iloc[0] / 1e6:.2f} M"}
            row |= {"trainings": trainings(own), "rate": f"{own['lr'].iloc[0]:g}"}
            row |= {"minutes": f"{own['minutes'].mean():.1f}", "minus equaliser": words(gain)}
            row |= {"gate": "passes" if beats(gain) else "fails"}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def gains_over_none(frame: pd.DataFrame) -> dict[str, dict[float, Interval]]:
    """Return each other arm's gain in uSDR over no time block by window, dB; empty where that arm was not trained."""
    names = arms(frame)
    others = [arm for arm in names if arm != NO_TIME and NO_TIME in names]
    parts = dict(iter(frame[frame["system"].isin(names)].groupby("window")))
    return {arm: {window: gain_of(part, arm, NO_TIME) for window, part in parts.items()} for arm in others}


def windows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: mean uSDR in dB by window, and in brackets the gain over no time block."""
    means = frame.groupby(["system", "window"])["usdr"].mean().unstack()
    gains = gains_over_none(frame)
    rows = []
    for arm in arms(frame):
        gained = {window: f" ({words(gain)})" for window, gain in gains.get(arm, {}).items()}
        cells = {shown(window): f"{mean:.2f}{gained.get(window, '')}" for window, mean in means.loc[arm].items()}
        rows.append({"arm": NAMES[arm]} | cells)
    return pd.DataFrame(rows)


def costs(names: Sequence[str]) -> pd.DataFrame:
    """Return one row per arm: operations of a pass, in millions a second of audio, by the length of the input.

    The LSTM is counted once, at the shortest length. It does the same for every frame.
    """
    rows = []
    for arm in names:
        counted = LENGTHS[:1] if arm == "lstm" else LENGTHS
        found = {length: counts.operations(model_config(arm), length) / length / 1e6 for length in counted}
        rows.append({"arm": NAMES[arm]} | {shown(length): found.get(length, found[LENGTHS[0]]) for length in LENGTHS})
    return pd.DataFrame(rows)


@figures.style()
def figure(frame: pd.DataFrame) -> Figure:
    """Draw uSDR by window, a line per arm; and each arm's gain over no time block with its interval."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    means = frame.groupby(["system", "window"])["usdr"].mean().unstack()
    ticks = ["whole" if length == WHOLE else f"{length:g}" for length in means]
    for arm, colour in figures.model_colours(arms(frame)).items():
        left.plot(range(len(ticks)), means.loc[arm], ".-", color=colour, label=NAMES[arm])
    left.axhline(means[WHOLE][EQUALISER], color="0.5", linestyle=":", linewidth=1)
    left.set_xticks(range(len(ticks)), ticks)
    left.set(xlabel="window (s)", ylabel="uSDR (dB)", title="Means (dotted: static equaliser)")
    right.axhline(0, color="0.5", linestyle=":", linewidth=1)
    over_none = gains_over_none(frame)
    figures.interval_plot(right, ticks, {NAMES[arm]: [*gains.values()] for arm, gains in over_none.items()})
    if not over_none:
        right.text(0.5, 0.5, "not trained: no time block", transform=right.transAxes, ha="center")
    right.set(xlabel="window (s)", ylabel="uSDR gain (dB)", title="Gain over no time block, 95 % intervals")
    figures.legend_above(drawn, left)
    return drawn
