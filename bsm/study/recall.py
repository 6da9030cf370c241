"""What the probe's results say: which arms learned to remember, how long, and whether one remembers longer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from bsm import cue_gap
from bsm.errors import InputError
from bsm.stats import Interval, crossed_interval
from bsm.study.campaign import finished
from bsm.study.figures import COLOURS
from bsm.study.memory import ARMS
from bsm.study.records import read_result

LEARNED = 0.9
"""Share of right choices within the training's range, from which on an arm has learned to remember."""
COLOUR = dict(zip(ARMS, (*COLOURS.values(),), strict=True))
NAMES = {"attention": "attention, rotary", "attention-nopos": "attention, no positions", "bs-roformer": "BS-RoFormer"}


def answers(folder: Path, experiments: Sequence[str]) -> pd.DataFrame:
    """Read the results of experiments of a campaign: one row per run and question.

    Args:
        folder: of the result files.
        experiments: their names.

    Returns:
        ``arm``, ``seed``, ``name`` of the question, its settings, ``frames``, ``sdr`` (mean over examples, dB),
        ``right`` (share of examples in which more of the target than of the other voice comes through), ``clear``
        (the same by a margin of half a voice) and ``examples``.

    Raises:
        InputError: There is no finished run.
    """
    rows = []
    for path in sorted(path for name in experiments for path in finished(folder, name)):
        record = read_result(path)
        arm, train, probe = record["parameters"]["arm"], record["parameters"]["train"], record["parameters"]["probe"]
        for answer in record["values"]["answers"]:
            own = {"arm": arm, "seed": record["seed"], "lr": train["lr"], "longest_gap": probe["longest_gap"]}
            own |= {key: value for key, value in answer.items() if key not in ("sdr", "target", "other")}
            rows.append(own | cue_gap.summary(answer))
    if not rows:
        raise InputError(f"{folder}: no finished run of {', '.join(experiments)}; `bsm campaign` trains them")
    frame = pd.DataFrame(rows)
    frame["arm"] = pd.Categorical(frame["arm"], [arm for arm in ARMS if arm in set(frame["arm"])])
    return frame.sort_values(["arm", "seed", "gap"], ignore_index=True)


def gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the plain questions: a gap after the cue, and no intervention."""
    return frame[frame["name"].str.startswith("gap ")]


def learned(frame: pd.DataFrame) -> pd.Series:
    """Tell, by arm and seed, whether at least :data:`LEARNED` of the choices are right at every gap of the training.

    A run that did not learn within the range says nothing about gaps beyond it.
    """
    within = gaps(frame)
    within = within[within["gap"] <= within["longest_gap"]]
    return within.groupby(["arm", "seed"], observed=True)["right"].min() >= LEARNED


def difference(frame: pd.DataFrame, question: str, first: str, second: str, value: str = "sdr") -> Interval:
    """Compare two arms on one question, paired by seed: the mean of ``first - second`` and its interval."""
    asked = frame[frame["name"] == question].pivot(index="seed", columns="arm", values=value)
    return crossed_interval((asked[first] - asked[second]).dropna().to_numpy(float)[:, None])


def endpoint(frame: pd.DataFrame) -> str:
    """Return the name of the question that was stated as the endpoint: 8 times the longest training gap."""
    return f"gap {cue_gap.ENDPOINT * frame['longest_gap'].iloc[0]:g}"


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: learning rate, seeds that learned, and SDR / right choices at each gap."""
    rows = []
    within = learned(frame)
    for arm, own in gaps(frame).groupby("arm", observed=True):
        row: dict[str, Any] = {"arm": NAMES.get(arm, arm), "rate": f"{own['lr'].iloc[0]:g}"}
        row["learned"] = f"{int(within[arm].sum())} of {own['seed'].nunique()}"
        for gap, asked in own.groupby("gap"):
            row[f"{gap:g} s"] = f"{asked['sdr'].mean():.1f} / {asked['right'].mean():.0%}"
        rows.append(row)
    return pd.DataFrame(rows)


def interventions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: SDR / right choices under each question that is no plain gap."""
    others = frame[~frame["name"].str.startswith("gap ")]
    cells = others.groupby(["arm", "name"], observed=True, sort=False)[["sdr", "right"]].mean()
    text = cells.apply(lambda row: f"{row['sdr']:.1f} / {row['right']:.0%}", axis=1).unstack("name")
    return text.rename(index=NAMES).reset_index()


def draw(ax: Axes, frame: pd.DataFrame, value: str = "sdr") -> None:
    """Draw a value against the gap: a line per arm through the means over seeds, a dot per seed."""
    plain = gaps(frame)
    for arm, own in plain.groupby("arm", observed=True):
        ax.plot(own["gap"], own[value], ".", color=COLOUR[arm], alpha=0.4, markersize=4)
        means = own.groupby("gap")[value].mean()
        ax.plot(means.index, means, color=COLOUR[arm], label=NAMES.get(arm, arm))
    longest = plain["longest_gap"].iloc[0]
    ax.axvspan(plain["gap"].min() * 0.9, longest, color="0.9", zorder=0)
    ax.set_xscale("log", base=2)
    ticks = sorted(plain["gap"].unique())
    ax.set_xticks(ticks, [f"{gap:g}" for gap in ticks])
    ax.set(xlabel="gap between cue and play (s); grey: within the training's range")
