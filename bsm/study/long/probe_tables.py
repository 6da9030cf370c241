"""Tables and figures of the probe's results: which arms learned to remember, for how long, and which one longer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsm import cue_gap
from bsm.errors import InputError
from bsm.stats import Interval, crossed_interval, interval_words, verdicts
from bsm.study import figures
from bsm.study.campaign import finished, of_run
from bsm.study.compare import how_many, words
from bsm.study.figures import LABELS, model_colours
from bsm.study.long.probe import ARMS

LEARNED = 0.9
"""The least share of right choices, within the training's range of gaps, of a run that learned to remember."""
COLOUR = model_colours(ARMS)


def answers(folder: Path, experiments: Sequence[str]) -> pd.DataFrame:
    """Read the results of a campaign's experiments, by their names: one row per run and question.

    Returns:
        What :func:`summarised` returns, with the learning rate ``lr``.

    Raises:
        InputError: There is no finished run.
    """
    records = _results(folder, experiments)
    if not records:
        raise InputError(f"{folder}: no finished run of {', '.join(experiments)}; `bsm campaign` trains them")
    return _frame(records)


def of_each(folder: Path, experiments: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Read the :func:`answers` of each experiment apart, by name. Experiments without a finished run are left out."""
    found = {name: _results(folder, [name]) for name in experiments}
    return {name: _frame(records) for name, records in found.items() if records}


def _frame(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for record in records:
        parameters = record["parameters"]
        own = {"lr": parameters["train"]["lr"], "longest_gap": parameters["probe"]["longest_gap"]}
        rows += [own | row for row in of_run(record, record["values"]["answers"])]
    return summarised(rows)


def summarised(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Summarise answers over their examples, one row each (:func:`bsm.cue_gap.summary`).

    Args:
        rows: of :func:`bsm.study.campaign.of_run`, with the ``longest_gap`` of the training, s.

    Returns:
        ``arm``, ``seed``, ``name`` of the question, its settings, ``sdr`` (mean over examples, dB), ``right`` (share of
        examples whose output has more of the target than of the other voice), ``clear`` (the same, with a margin of
        half a voice) and ``examples``.
    """
    examples = ("separator", "sdr", "target", "other")
    frame = pd.DataFrame(
        {"arm": row["separator"], "seed": row["seed"]}
        | {name: value for name, value in row.items() if name not in examples}
        | cue_gap.summary(row)
        for row in rows
    )
    frame["arm"] = pd.Categorical(frame["arm"], [arm for arm in ARMS if arm in set(frame["arm"])])
    return frame.sort_values(["arm", "seed", "gap"], ignore_index=True)


def _results(folder: Path, experiments: Sequence[str]) -> list[dict[str, Any]]:
    records = [record for name in experiments for record in finished(folder, name).values()]
    return [record for record in records if record["parameters"]["arm"] in ARMS]


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """Compare ``mamba2`` with every other arm at every gap, paired by seed.

    Returns:
        ``arm``, ``gap`` in s, ``gain`` of ``mamba2`` in dB with its interval, and a ``verdict`` that is adjusted for
        the number of rows (Holm). Rows with too few seeds for an interval say so.
    """
    plain = gaps(frame)
    others = [arm for arm in plain["arm"].cat.categories if arm != "mamba2"]
    asked = plain[["name", "gap"]].drop_duplicates().sort_values("gap").to_numpy()
    gains = [difference(frame, ("mamba2", name), (arm, name)) for arm in others for name, _ in asked]
    places = [(LABELS[arm], f"{gap:g} s") for arm in others for _, gap in asked]
    table = pd.DataFrame(places, columns=["arm", "gap"])
    return table.assign(gain=[interval_words(gain, " dB") for gain in gains], verdict=verdicts(gains))


def gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the questions about a gap after the cue, without any intervention."""
    return frame[frame["name"].str.startswith("gap ")]


def learned(frame: pd.DataFrame, least: float = LEARNED) -> pd.Series:
    """Tell, by arm and seed, whether a run learned: at every gap of the training, the share of right choices suffices.

    A run that did not learn within the training's range says nothing about longer gaps.
    """
    within = gaps(frame)
    within = within[within["gap"] <= within["longest_gap"]]
    return within.groupby(["arm", "seed"], observed=True)["right"].min() >= least


def able(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs that learned to remember (:func:`learned`)."""
    kept = frame[learned(frame).loc[pd.MultiIndex.from_frame(frame[["arm", "seed"]])].to_numpy()]
    return kept.assign(arm=kept["arm"].cat.remove_unused_categories())


def difference(frame: pd.DataFrame, first: tuple[str, str], second: tuple[str, str], value: str = "sdr") -> Interval:
    """Compare two pairs of arm and question, paired by seed: the mean of ``first - second``, and its interval.

    ``value`` is ``sdr`` in dB, or ``right`` for the share of right choices.
    """
    asked = frame.pivot(index="seed", columns=["arm", "name"], values=value)
    return crossed_interval((asked[first] - asked[second]).dropna().to_numpy(float)[:, None])


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep what tables and figures of an arm count: its seeds that learned (:func:`learned`); if none did, all."""
    within = learned(frame)
    some = within.groupby("arm", observed=True).transform("any")
    runs = pd.MultiIndex.from_frame(frame[["arm", "seed"]])
    return frame[(within | ~some).loc[runs].to_numpy()]


def longest(frame: pd.DataFrame) -> float:
    """Return the longest gap of the trainings of one experiment, s."""
    return float(frame["longest_gap"].iloc[0])


def endpoint(frame: pd.DataFrame) -> str:
    """Return the name of the question that was declared the endpoint: 8 times the longest training gap."""
    return f"gap {cue_gap.ENDPOINT * longest(frame):g}"


def length_and_distance(frame: pd.DataFrame) -> pd.DataFrame:
    """Divide what a long gap costs an arm into the cost of the input's length and that of the cue's distance.

    The question ``lead`` is as long as ``gap``, but its background sounds before the cue. So ``lead`` minus the gap of
    the training is the cost of length, and ``gap`` minus ``lead`` that of distance, which is forgetting.

    Returns:
        ``arm``, ``seconds``, and the intervals ``length`` and ``distance`` in dB, paired by seed.
    """
    near, rows = f"gap {longest(frame):g}", []
    for arm, own in frame.groupby("arm", observed=True):
        asked = set(own["name"])
        for lead in sorted(own.loc[own["name"].str.startswith("lead "), "lead"].unique()):
            far, long = f"gap {lead:g}", f"lead {lead:g}"
            if {near, far, long} <= asked:
                length = difference(frame, (arm, long), (arm, near))
                rows.append((arm, lead, length, difference(frame, (arm, far), (arm, long))))
    return pd.DataFrame(rows, columns=["arm", "seconds", "length", "distance"])


def length_table(costs: pd.DataFrame) -> pd.DataFrame:
    """Write the costs of :func:`length_and_distance`, one row per arm."""
    rows: dict[str, dict[str, str]] = {}
    for row in costs.itertuples():
        own = rows.setdefault(LABELS[row.arm], {})
        own |= {f"length, {row.seconds:g} s": words(row.length), f"distance, {row.seconds:g} s": words(row.distance)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm").reset_index()


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: learning rate, seeds that learned, and SDR / right choices at each gap.

    The means are over the :func:`counted` seeds.
    """
    rows = []
    within = learned(frame)
    for arm, own in gaps(frame).groupby("arm", observed=True):
        row: dict[str, Any] = {"arm": LABELS[arm], "rate": f"{own['lr'].iloc[0]:g}"}
        row["learned"] = f"{int(within[arm].sum())} of {own['seed'].nunique()}"
        for gap, asked in counted(own).groupby("gap"):
            row[f"{gap:g} s"] = cell(asked)
        rows.append(row)
    return pd.DataFrame(rows)


def together(frames: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """Put the tables (:func:`table`) of experiments together, sorted by arm. The keys go into a column of that name."""
    tables = []
    for name, frame in frames.items():
        own = table(frame)
        own.insert(1, column, name)
        tables.append(own)
    whole = pd.concat(tables)
    by_gap = sorted(whole.columns[4:], key=lambda name: float(name.removesuffix(" s")))
    return whole[[*whole.columns[:4], *by_gap]].sort_values("arm", kind="stable").fillna("")


def interventions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm: SDR / right choices under each intervention, over the :func:`counted` seeds."""
    others = counted(frame).loc[lambda kept: ~kept["name"].str.startswith("gap ")]
    text = others.groupby(["arm", "name"], observed=True, sort=False)[["sdr", "right"]].apply(cell).unstack("name")
    return text.rename(index=LABELS).reset_index()


def cell(asked: pd.DataFrame) -> str:
    """Return the mean SDR (dB) and the share of right choices of some answers, as tables show them."""
    return f"{asked['sdr'].mean():.1f} / {asked['right'].mean():.0%}"


def draw(ax: Axes, frame: pd.DataFrame, value: str = "sdr", seeds: bool = False) -> None:
    """Draw a value against the gap: a line per arm through the means over the seeds that learned; if none, over all.

    With ``seeds``, each seed has a thin line, dashed if it did not learn. The grey stretch is the training's range.
    """
    plain, within = gaps(frame), learned(frame)
    for arm, own in plain.groupby("arm", observed=True):
        for seed, line in own.groupby("seed") if seeds else ():
            style = "-" if within[arm, seed] else "--"
            ax.plot(line["gap"], line[value], style, color=COLOUR[arm], alpha=0.4, linewidth=0.7)
        means = counted(own).groupby("gap")[value].mean()
        ax.plot(means.index, means, ".-", color=COLOUR[arm], label=LABELS[arm])
    ax.axvspan(plain["gap"].min() * 0.9, longest(plain), color="0.9", zorder=0)
    ax.set_xscale("log", base=2)
    ticks = sorted(plain["gap"].unique())
    ax.set_xticks(ticks, [f"{gap:g}" for gap in ticks])
    ax.tick_params(axis="x", labelsize="small")
    ax.set(xlabel="gap between cue and play (s)")


@figures.style()
def figure(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw SDR against the gap (:func:`draw`), a panel per experiment. The keys are the titles."""
    drawn, axes = plt.subplots(1, len(frames), figsize=(max(7, 3.4 * len(frames)), 3.4), sharey=True, squeeze=False)
    for ax, (title, frame) in zip(axes[0], frames.items(), strict=True):
        draw(ax, frame)
        seeds = sorted(set(frame.groupby("arm", observed=True)["seed"].nunique()))
        fewer = "".join(f"{count} or " for count in seeds[:-1])
        ax.set_title(f"{title}\n{fewer}{how_many(seeds[-1], 'seed')} an arm", fontsize="medium")
    axes[0, 0].set_ylabel("SDR in the play stretch (dB)")
    figures.legend_above(drawn, axes[0, 0])
    return drawn


@figures.style()
def figure_of_arms(frame: pd.DataFrame) -> Figure:
    """Draw SDR against the gap, a panel per arm with a line per seed; the last panel shows the arms' right choices."""
    arms = list(frame["arm"].cat.categories)
    rows = -(-(len(arms) + 1) // 4)
    drawn, axes = plt.subplots(rows, 4, figsize=(9, 0.6 + 2.1 * rows), sharex=True, layout="constrained")
    within = learned(frame)
    for ax, arm in zip(axes.flat, arms, strict=False):
        draw(ax, frame[frame["arm"] == arm], seeds=True)
        ax.set(xlabel="", ylim=(-1, 17))
        ax.set_title(f"{LABELS[arm]}\n{int(within[arm].sum())} of {len(within[arm])} seeds learned", fontsize="small")
    last = axes.flat[len(arms)]
    draw(last, frame, "right")
    last.axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    last.set(xlabel="")
    last.set_title("right choices, all arms\n(dotted: chance)", fontsize="small")
    for ax in axes.flat[len(arms) + 1 :]:
        ax.set_axis_off()
    drawn.supxlabel("gap between cue and play (s); grey: within the training's range", fontsize="medium")
    drawn.supylabel("SDR in the play stretch (dB); dashed: did not learn", fontsize="medium")
    return drawn


def kept(folder: Path, experiments: Sequence[str]) -> pd.DataFrame:
    """Read where the networks of a campaign keep the cue over a gap (:func:`bsm.study.long.carriers.traces`).

    Returns:
        For Mamba2, one row per run, gap, layer and time after the cue. ``difference`` is the distance between the
        states of two examples that differ only in the cue, relative to their norm; ``half_life`` in s is that of the
        slowest head. For attention, one row per run, gap, layer and head. ``mass`` is the weight on the cue's frames,
        divided by what equal weights would give.
    """
    rows = []
    for record in _results(folder, experiments):
        for trace in record["values"]["traces"]:
            own = {"arm": record["parameters"]["arm"], "seed": record["seed"]}
            own |= {"gap": trace["gap"], "layer": trace["layer"]}
            if "mass" in trace:
                rows += [own | {"head": h, "mass": mass / trace["uniform"]} for h, mass in enumerate(trace["mass"])]
            else:
                own["half_life"] = max(trace["half_life"])
                pairs = zip(trace["times"], trace["difference"], strict=True)
                rows += [own | {"time": time, "difference": difference} for time, difference in pairs]
    return pd.DataFrame(rows)


def draw_states(ax: Axes, traces: pd.DataFrame) -> None:
    """Draw how the difference that the cue makes in Mamba2's states fades over the longest gap, a line per run."""
    states = traces[traces["time"].notna() & (traces["gap"] == traces["gap"].max())]
    for (layer, seed), own in states.groupby(["layer", "seed"]):
        label = f"layer {int(layer) + 1}" if seed == states["seed"].min() else None
        ax.plot(own["time"], own["difference"], color=COLOUR["mamba2"], alpha=0.35 + 0.65 * layer, label=label,
                linestyle="--" if layer == 0 else "-", linewidth=1)  # fmt: skip
    ax.set(xlabel="time after the cue (s)", ylabel="difference of the states\n(relative to their norm)", yscale="log")
    ax.set_ylim(bottom=1e-3)
    ax.legend(loc="lower left")


def draw_mass(ax: Axes, traces: pd.DataFrame) -> None:
    """Draw the weight of the head that attends most to the cue, a dot per run, against the gap."""
    heads = traces[traces["head"].notna()]
    strongest = heads.groupby(["arm", "seed", "gap"])["mass"].max().reset_index()
    gaps = sorted(strongest["gap"].unique())
    for shift, (arm, own) in enumerate(strongest.groupby("arm")):
        places = [gaps.index(gap) + 0.15 * shift for gap in own["gap"]]
        ax.plot(places, own["mass"], "o", color=COLOUR[arm], alpha=0.6, label=LABELS[arm])
    ax.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(gaps)), [f"{gap:g} s" for gap in gaps])
    ax.set(xlabel="gap", ylabel="weight on the cue\n(1: as equal weights)", xlim=(-0.5, len(gaps) - 0.5))
    ax.legend()
