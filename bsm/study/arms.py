"""What the long study's trainings on songs reach (:mod:`bsm.study.songs`): scores by arm and by window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsm.errors import InputError
from bsm.study.assay import beats, gain_of
from bsm.study.baselines import EQUALISER
from bsm.study.campaign import finished, of_run
from bsm.study.compare import tidy, words
from bsm.study.figures import LABELS, model_colours, reach
from bsm.study.records import read_result
from bsm.study.songs import BASELINES

BASE, NO_TIME = "mamba2", "none"
NAMES = LABELS | {BASE: LABELS["bsmamba2"]}
WHOLE = np.inf


def scores(folder: Path, experiment: str) -> pd.DataFrame:
    """Read the scores of an experiment's finished runs, and of the trivial separators on the same songs.

    Returns:
        A frame of :func:`bsm.study.compare.tidy`: ``system`` is an arm or a trivial separator, ``window`` in s is
        infinite for a whole song. Arms also have ``lr`` and the ``minutes`` of processor time of their training.

    Raises:
        InputError: There is no finished run, or the trivial separators were not scored.
    """
    runs, trivial = finished(folder, experiment), finished(folder, f"songs-{BASELINES}")
    if not runs or not trivial:
        raise InputError(f"{folder}: no finished run of {experiment} or songs-{BASELINES}; `bsm campaign` trains them")
    records = []
    for path in runs:
        run = read_result(path)
        own = {"lr": run["parameters"]["train"]["lr"], "minutes": run["values"]["training_seconds"] / 60}
        records += [own | row for row in of_run(run, run["values"]["scores"])]
    return tidy([*records, *({"window": None} | row for row in read_result(trivial[0])["values"]["scores"])])


def arms(frame: pd.DataFrame) -> list[str]:
    """Return the arms of a frame of :func:`scores`, in the order of their names in figures."""
    return [arm for arm in (BASE, *LABELS) if arm in set(frame["system"])]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm and trivial separator, from whole songs: scores, and the gain over the static equaliser.

    ``gate`` says whether an arm beats the equaliser as :mod:`bsm.study.assay` demands it of each arm.
    """
    whole = frame[frame["window"] == WHOLE]
    names = arms(frame)
    rows = []
    for name in (*names, *(system for system in whole["system"].unique() if system not in names)):
        own = whole[whole["system"] == name]
        row = {"separator": NAMES.get(name, name), "seeds": "", "rate": "", "minutes": ""}
        row |= {"uSDR (dB)": own["usdr"].mean(), "level re target (dB)": own["level"].mean(), "minus equaliser": ""}
        if name in names:
            gain = gain_of(whole, name, EQUALISER)
            row |= {"seeds": own["seed"].nunique(), "rate": f"{own['lr'].iloc[0]:g}"}
            row |= {"minutes": f"{own['minutes'].mean():.1f}", "minus equaliser": words(gain)}
            row |= {"gate": "passes" if beats(gain) else "fails"}
        rows.append(row)
    trained, trivial = pd.DataFrame(rows[: len(names)]), pd.DataFrame(rows[len(names) :])
    return pd.concat([trained, trivial.sort_values("uSDR (dB)")], ignore_index=True).fillna("")


def windows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: mean uSDR in dB by window, and in brackets the gain over no time block."""
    rows = []
    names = arms(frame)
    trained = frame[frame["system"].isin(names)]
    for arm in names:
        row = {"arm": NAMES[arm]}
        for window, scored in trained.groupby("window"):
            cell = f"{scored.loc[scored['system'] == arm, 'usdr'].mean():.2f}"
            if arm != NO_TIME and NO_TIME in names:
                cell += f" ({words(gain_of(scored, arm, NO_TIME))})"
            row["whole song" if window == WHOLE else f"{window:g} s"] = cell
        rows.append(row)
    return pd.DataFrame(rows)


def draw(left: Axes, right: Axes, frame: pd.DataFrame) -> None:
    """Draw uSDR by window, a line per arm; and each arm's gain over no time block with its interval over songs."""
    names = arms(frame)
    colours = model_colours(names)
    lengths = sorted(frame["window"].unique())
    for shift, arm in enumerate(names):
        own = frame[frame["system"] == arm]
        left.plot(range(len(lengths)), own.groupby("window")["usdr"].mean()[lengths], ".-", color=colours[arm],
                  label=NAMES[arm])  # fmt: skip
        if arm == NO_TIME or NO_TIME not in names:
            continue
        by_window = frame[frame["system"].isin([arm, NO_TIME])].groupby("window")
        gains = [gain_of(part, arm, NO_TIME) for _, part in by_window]
        places = np.arange(len(lengths)) + 0.08 * (shift - len(names) / 2)
        middle = [gain.estimate for gain in gains]
        right.errorbar(places, middle, reach(gains), fmt="o", markersize=4, color=colours[arm], linewidth=1)
    left.axhline(frame.loc[frame["system"] == EQUALISER, "usdr"].mean(), color="0.5", linestyle=":", linewidth=1)
    right.axhline(0, color="0.5", linestyle=":", linewidth=1)
    ticks = ["song" if length == WHOLE else f"{length:g}" for length in lengths]
    for ax in (left, right):
        ax.set_xticks(range(len(lengths)), ticks)
        ax.set_xlabel("window (s)")
    left.set(ylabel="uSDR (dB)", title="Mean over songs (dotted: static equaliser)")
    right.set(ylabel="uSDR gain (dB)", title="Gain over no time block, 95 % intervals")
