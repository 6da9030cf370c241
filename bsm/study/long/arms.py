"""Scores of the long study's trainings, by arm and by window, and what the arms cost.

The trainings are on songs (:mod:`bsm.study.long.songs`) or on real singing (:mod:`bsm.study.long.singers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bsm.errors import InputError
from bsm.stats import Interval
from bsm.study import assay, counts, figures
from bsm.study.baselines import EQUALISER
from bsm.study.campaign import finished, of_run
from bsm.study.compare import covers, differences, folds_of, interval, table_of, tidy, words
from bsm.study.figures import LABELS
from bsm.study.long.songs import BASELINES, model_config
from bsm.study.variants import VARIANTS
from bsm.study.windows import shown

NAMES = {name: variant.asks for name, variant in VARIANTS.items()} | LABELS
"""Names of arms in tables and figures."""
BASE, NO_TIME = NAMES["mamba2"], NAMES["none"]
WHOLE = np.inf
LENGTHS = (1.0, 4.0, 16.0, 64.0)
"""Lengths in s for which :func:`costs` counts operations."""


def baselines_of(experiment: str) -> str:
    """Return the name of the experiment that scores the trivial separators on the same songs or singers."""
    return f"{experiment.partition('-')[0]}-{BASELINES}" + "-regions" * experiment.endswith("-regions")


def read(folder: Path, experiment: str, field: str = "scores") -> pd.DataFrame:
    """Read records of an experiment's finished runs, and of the trivial separators on the same songs.

    Args:
        folder: of a campaign's results.
        experiment: its name.
        field: ``scores`` or ``regions``. Trivial separators have no ``regions`` on real singing.

    Returns:
        A frame of :func:`bsm.study.compare.tidy`: the base first, then the other networks, variants of the base, and
        the trivial separators. ``system`` is the name in tables; ``window`` is in s, infinite for a whole song;
        ``share`` is in per cent. Who was trained has also ``lr``, ``parameters``, ``segment``, the length of the
        training's segments in s, and ``minutes``, the time that the trainings of one seed took on one core, beside
        other work.

    Raises:
        InputError: There is no finished run, or the trivial separators were not scored.
    """
    found = [finished(folder, name) for name in (experiment, baselines_of(experiment))]
    if not all(found):
        names = f"{experiment} or {baselines_of(experiment)}"
        raise InputError(f"{folder}: no finished run of {names}; `bsm campaign` trains them")
    records = []
    for run in (run for runs in found for run in runs.values()):
        given, own = run["parameters"], {}
        if "train" in given:
            own = {"lr": given["train"]["lr"], "parameters": given["parameters"]}
            own |= {"segment": given["train"]["segment_seconds"]}
            own |= {"minutes": run["values"]["training_seconds"] / 60}
        records += [own | row for row in of_run(run, run["values"].get(field, []))]
    frame = tidy(records).replace({"system": NAMES})
    order = list(dict.fromkeys([*trained(frame), *frame["system"]]))
    frame = frame.sort_values("system", key=lambda systems: systems.map(order.index), kind="stable")
    return frame.assign(share=100 * frame.get("share", np.nan))


def trained(frame: pd.DataFrame) -> list[str]:
    """Return the time blocks and BS-RoFormer of a frame of :func:`read`, the base first."""
    return [name for name in dict.fromkeys(LABELS.values()) if name in set(frame["system"])]


def trainings(frame: pd.DataFrame) -> tuple[int, int]:
    """Return how often the networks were trained: under how many seeds, and in how many folds of each seed.

    The seeds are those that the base shares with another network, and of the other networks the one with the fewest
    counts. A training that is no part of a cross-validation is one fold.
    """
    own = {name: set(frame.loc[frame["system"] == name, "seed"]) for name in trained(frame)}
    folds = frame.loc[frame["system"] == BASE, "fold"].nunique() if folds_of(frame) else 1
    return min((len(own.get(BASE, set()) & seeds) for seeds in own.values()), default=0), folds


def coverage(frame: pd.DataFrame) -> str:
    """Say in a caption what the intervals of a frame's differences cover (:func:`bsm.study.compare.covers`)."""
    seeds, folds = trainings(frame)
    return covers(seeds, "singers" if folds > 1 else "songs", folds)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per training and trivial separator, from whole songs: scores, and the gain over the equaliser.

    Trainings are the :func:`trained` networks, then variants of the base.

    ``gate`` says whether an arm beats the equaliser by as much as :func:`bsm.study.assay.beats` demands.
    """
    whole = frame[frame["window"] == WHOLE]
    means = whole.groupby("system")[["usdr", "level"]].mean()
    names = [*trained(frame), *(NAMES[name] for name in VARIANTS if NAMES[name] in means.index)]
    rows = []
    for name in (*names, *means["usdr"].drop(names).sort_values().index):
        row = {"separator": name, "parameters": "", "trainings": "", "rate": "", "minutes": ""}
        row |= {"uSDR (dB)": means["usdr"][name], "level re target (dB)": means["level"][name], "minus equaliser": ""}
        if name in names:
            own, gain = whole[whole["system"] == name], assay.gain_of(whole, name, EQUALISER)
            row |= {"parameters": f"{own['parameters'].iloc[0] / 1e6:.2f} M"}
            row |= {"trainings": assay.trainings(own), "rate": f"{own['lr'].iloc[0]:g}"}
            row |= {"minutes": f"{own['minutes'].mean():.1f}", "minus equaliser": words(gain)}
            row |= {"gate": "passes" if assay.beats(gain) else "fails"}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def gains_over_none(frame: pd.DataFrame) -> dict[str, dict[float, Interval]]:
    """Return each other arm's gain in uSDR over no time block by window, dB; empty where that arm was not trained."""
    names = trained(frame)
    others = [arm for arm in names if arm != NO_TIME and NO_TIME in names]
    parts = dict(iter(frame[frame["system"].isin(names)].groupby("window")))
    return {arm: {window: assay.gain_of(part, arm, NO_TIME) for window, part in parts.items()} for arm in others}


def windows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: mean uSDR in dB by window, and in brackets the gain over no time block."""
    means, gains = _means(frame), gains_over_none(frame)
    rows = []
    for arm in trained(frame):
        gained = {window: f" ({words(gain)})" for window, gain in gains.get(arm, {}).items()}
        cells = {shown(window): f"{mean:.2f}{gained.get(window, '')}" for window, mean in means.loc[arm].items()}
        rows.append({"arm": arm} | cells)
    return pd.DataFrame(rows)


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean uSDR of the :func:`trained` networks, dB, a column for each of their windows."""
    own = frame[frame["system"].isin(trained(frame))]
    return own.groupby(["system", "window"])["usdr"].mean().unstack()


def changes(frame: pd.DataFrame) -> dict[tuple[str, float], dict[float, Interval]]:
    """Return how uSDR changes by window, dB, from windows as long as the segments of the training.

    Returns:
        By network and length of its training's segments in s: a change, paired by song and seed, for each window.
    """
    found = {}
    for (name, segment), own in frame.dropna(subset="segment").groupby(["system", "segment"], sort=False):
        by_window = {window: table_of(part, name) for window, part in own.groupby("window")}
        found[name, segment] = {
            window: interval(differences(part, by_window[segment]), folds_of(own)) for window, part in by_window.items()
        }
    return found


def segment_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per network and training: mean uSDR in dB by window, and in brackets the :func:`changes`."""
    means = frame.groupby(["system", "segment", "window"])["usdr"].mean()
    rows = []
    for (name, segment), own in changes(frame).items():
        row = {"arm": name, "training segments": shown(segment)}
        for window, change in own.items():
            row[shown(window)] = f"{means[name, segment, window]:.2f}" + f" ({words(change)})" * (window != segment)
        rows.append(row)
    return pd.DataFrame(rows)


def _ticks(windows: Iterable[float]) -> list[str]:
    return ["whole" if window == WHOLE else f"{window:g}" for window in windows]


@figures.style()
def figure_of_segments(frame: pd.DataFrame) -> Figure:
    """Draw the :func:`changes` by window: a panel per network, a line per length of the training's segments."""
    found = changes(frame)
    names = list(dict.fromkeys(name for name, _ in found))
    drawn, axes = plt.subplots(1, len(names), figsize=(2.6 * len(names) + 0.6, 3.2), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        lines = {f"trained on {shown(segment)}": own for (which, segment), own in found.items() if which == name}
        ax.axhline(0, color="0.5", linestyle=":", linewidth=1)
        ticks = _ticks(next(iter(lines.values())))
        figures.interval_plot(ax, ticks, {line: [*own.values()] for line, own in lines.items()})
        ax.set(xlabel="window (s)", title=name)
    axes[0, 0].set_ylabel("change of uSDR (dB),\n95 % intervals")
    figures.legend_above(drawn, axes[0, 0])
    return drawn


def costs(names: Sequence[str]) -> pd.DataFrame:
    """Return one row per arm: operations of a pass, in millions a second of audio, by the length of the input.

    The LSTM is counted once, at the shortest length. It does the same for every frame.
    """
    rows, own = [], {label: arm for arm, label in LABELS.items()}
    for name in names:
        counted = LENGTHS[:1] if own[name] == "lstm" else LENGTHS
        found = {length: counts.operations(model_config(own[name]), length) / length / 1e6 for length in counted}
        rows.append({"arm": name} | {shown(length): found.get(length, found[LENGTHS[0]]) for length in LENGTHS})
    return pd.DataFrame(rows)


@figures.style()
def figure(frame: pd.DataFrame) -> Figure:
    """Draw uSDR by window, a line per arm; and each arm's gain over no time block with its interval."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    means, equaliser = _means(frame), frame[(frame["system"] == EQUALISER) & (frame["window"] == WHOLE)]["usdr"].mean()
    ticks = _ticks(means)
    for arm, colour in figures.model_colours(trained(frame)).items():
        left.plot(range(len(ticks)), means.loc[arm], ".-", color=colour, label=arm)
    left.axhline(equaliser, color="0.5", linestyle=":", linewidth=1)
    left.set_xticks(range(len(ticks)), ticks)
    left.set(xlabel="window (s)", ylabel="uSDR (dB)", title="Means (dotted: static equaliser)")
    right.axhline(0, color="0.5", linestyle=":", linewidth=1)
    over_none = gains_over_none(frame)
    figures.interval_plot(right, ticks, {arm: [*gains.values()] for arm, gains in over_none.items()})
    if not over_none:
        right.text(0.5, 0.5, "not trained: no time block", transform=right.transAxes, ha="center")
    right.set(xlabel="window (s)", ylabel="uSDR gain (dB)", title="Gain over no time block, 95 % intervals")
    figures.legend_above(drawn, left)
    return drawn
