"""Tables and figures of the long study's networks by vocal occurrence.

The networks are those on songs (:mod:`bsm.study.long.regions`) and on real singing (:mod:`bsm.study.long.singers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bsm.stats import verdicts
from bsm.study import figures, occurrence
from bsm.study.assay import assay
from bsm.study.baselines import EQUALISER
from bsm.study.campaign import finished, lacking
from bsm.study.compare import differences, folds_of, interval, paired, table_of, words
from bsm.study.long import arms
from bsm.study.long.arms import BASE, NO_TIME, baselines_of, trained, trainings
from bsm.study.long.regions import FIRST, FIRST_NO_PAST, IN_WINDOW, NO_FUTURE, NO_PAST
from bsm.study.occurrence import AFTER, BEFORE, NAMES, SDR

Rows = Sequence[Mapping[str, Any]]


class Condition(NamedTuple):
    """A property of vocal regions: a ``column`` of their records, bins between ``edges``, what is measured by bin."""

    title: str
    column: str
    edges: tuple[float, ...]
    unit: str = "s"
    measures: tuple[str, ...] = (SDR, BEFORE, AFTER)


class Contrast(NamedTuple):
    """Where vocals are intermittent: a ``column``, a range of it in words, and its ends; ``high`` is excluded."""

    column: str
    where: str
    low: float
    high: float = np.inf


DURATION = "duration of the region"
LONG = 4.0  # s; the last bin of durations starts here
SILENCE = "silence (0 dB)"
# The bins follow from when somebody sings. Those of real singing were fixed before any network was scored by region
# there. MIR-1K's clips are short, and sung for 84 % of their time.
CONDITIONS = {
    "songs": (
        Condition(DURATION, "duration", (1, 2, LONG)),
        Condition("gap before", "gap", (1, 2, 4, 8)),
        Condition("distance to the nearest vocals", "nearest", (1, 2, 4)),
        Condition("vocals elsewhere in the song", "elsewhere", (16, 20, 26)),
        Condition("vocals elsewhere in a window of 8 s", "elsewhere_in_window", (1, 2, 3), measures=(IN_WINDOW,)),
        Condition("vocal share of the song", "share", (30, 36, 46), "%"),
    ),
    "singers": (
        Condition(DURATION, "duration", (1, 2, LONG)),
        Condition("gap before", "gap", (0.25, 0.5, 1)),
        Condition("distance to the nearest vocals", "nearest", (0.3, 0.5)),
        Condition("vocal share of the clip", "share", (78, 85, 91), "%"),
    ),
}
CONTRASTS = {
    "songs": (
        Contrast("gap", "after gaps of 4 s or more", 4),
        Contrast("duration", "in regions under 2 s", 0, 2),
        Contrast("nearest", "2 s or more from other vocals", 2),
        Contrast("share", "in songs sung for under 36 %", 0, 36),
    ),
    "singers": (
        Contrast("gap", "after gaps of 0.5 s or more", 0.5),
        Contrast("duration", "in regions under 2 s", 0, 2),
        Contrast("nearest", "0.5 s or more from other vocals", 0.5),
        Contrast("share", "in clips sung for under 78 %", 0, 78),
    ),
}
EVERYWHERE = "all regions"
LONG_GAP = 4.0  # s; gaps from here on are long


def measured(of: str) -> str:
    """Return the name of the experiment that measures an experiment's networks by region.

    On real singing a training's result holds the measurements; on songs they are runs of their own.
    """
    return of + "-regions" * of.startswith("songs-")


def there(folder: Path, of: str) -> bool:
    """Tell whether an experiment's base, its control and the trivial separators were measured by region."""
    name = measured(of)
    missing = lacking(finished(folder, name), name, ("mamba2", "none"))
    return not missing and bool(finished(folder, baselines_of(name)))


def read(folder: Path, of: str, field: str = "regions") -> pd.DataFrame:
    """Read what was measured of an experiment's networks (:func:`bsm.study.long.arms.read`): regions or ``scores``."""
    return arms.read(folder, measured(of), field)


def _trained_how_often(frame: pd.DataFrame) -> str:
    seeds, folds = trainings(frame)
    under = "one seed" if seeds == 1 else f"{seeds} seeds"
    if folds > 1:
        return f"Each network has {seeds * folds} trainings: {folds} folds of {under}."
    return "Each network has one training." if seeds == 1 else f"Each network has {seeds} trainings: {under}."


def compare(frame: pd.DataFrame, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Compare the base with every other network in each bin, paired per region and seed.

    Returns:
        Records of :func:`bsm.study.occurrence.compare` with ``by``, a condition's title. The verdicts on a measure of
        two networks are corrected for the number of bins (Holm, 1979).
    """
    parts = [(EVERYWHERE, "all", frame, (SDR, BEFORE, AFTER))]
    for title, column, edges, unit, measures in conditions:
        groups = occurrence.grouped(frame, column, edges, unit)
        parts += [(title, group, part, measures) for group, part in groups.items() if len(part) and group != "all"]
    rows, given = [], {"models": trained(frame), "folds": folds_of(frame)}
    for title, group, part, measures in parts:
        for name in measures:
            rows += [{"by": title} | row for row in occurrence.compare(frame, name, {group: part}, **given)]
    return occurrence.correct(rows)


def mean_table(rows: Rows) -> pd.DataFrame:
    """Return the means of :func:`compare`: a row per bin and measure, a column per system."""
    return pd.DataFrame(_place(row) | {name: own["estimate"] for name, own in row["means"].items()} for row in rows)


def difference_table(rows: Rows) -> pd.DataFrame:
    """Return the differences of :func:`compare` with their intervals; † marks those that Holm's method tells from 0."""
    mark = {"better": " †", "worse": " †"}
    return pd.DataFrame(
        _place(row) | {f"minus {x}": words(own) + mark.get(own["verdict"], "") for x, own in row["differences"].items()}
        for row in rows
    )


def _place(row: Mapping[str, Any]) -> dict[str, str]:
    measure = "SDR, windows of 8 s (dB)" if row["quantity"] == IN_WINDOW else NAMES[row["quantity"]]
    counts = f"{row['means'][BASE]['tracks']} ({row['means'][BASE]['songs']})"
    return {"by": row["by"], "bin": row["group"], "measure": measure, "regions (songs)": counts}


@figures.style()
def figure_of(rows: Rows, conditions: Sequence[Condition]) -> Figure:
    """Draw the SDR by bin, a line per network; and below it the base minus each other network, with 95 % intervals.

    A line at 0 dB stands for silence: an estimate below it is worse than none.
    """
    drawn, axes = plt.subplots(2, len(conditions), figsize=(3.3 * len(conditions), 5.4), sharey="row", squeeze=False)
    for above, below, condition in zip(*axes, conditions, strict=True):
        own = [row for row in rows if row["by"] == condition.title and row["quantity"] == condition.measures[0]]
        ticks = [f"{row['group'].removesuffix(f' {condition.unit}')}\nn={row['means'][BASE]['tracks']}" for row in own]
        ticks = [tick.replace(f" {condition.unit} or more", " on").replace(" to ", "–") for tick in ticks]
        others = list(own[0]["differences"])
        colours = figures.model_colours([BASE, *others]) | {EQUALISER: "0.5"}
        for name in (BASE, *others, *({EQUALISER} & set(own[0]["means"]))):
            line = {"color": colours[name], "linestyle": ":" if name == EQUALISER else "-", "label": name}
            above.plot(ticks, [row["means"][name]["estimate"] for row in own], marker=".", **line)
        above.axhline(0, color="0.4", linewidth=0.8, linestyle="--", label=SILENCE)
        above.set(xticks=range(len(ticks)), xticklabels=[], xlim=(-0.5, len(ticks) - 0.5), title=condition.title)
        below.axhline(0, color="0.4", linewidth=0.8)
        figures.interval_plot(below, ticks, {name: [row["differences"][name] for row in own] for name in others})
        below.set_xlabel(f"{condition.title} ({condition.unit}); n: regions", fontsize="small")
        below.tick_params(axis="x", labelsize="x-small")
    axes[0, 0].set_ylabel("mean SDR (dB)")
    axes[1, 0].set_ylabel(f"SDR, {BASE} minus (dB)\n95 % intervals")
    figures.legend_above(drawn, axes[0, 0])
    return drawn


def without(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return how the SDR of a region changes without the song after it, and without what was carried to it.

    Returns:
        A record per network and case: ``system``, ``case``, and the fields of :func:`bsm.study.compare.paired`.
    """
    cut = frame[frame[NO_PAST].notna()]
    cases = {
        "no future": (cut, NO_FUTURE, SDR),
        "no past": (cut, NO_PAST, SDR),
        "no past, first second": (cut, FIRST_NO_PAST, FIRST),
        f"no past, gap under {LONG_GAP:g} s": (cut[cut["gap"] < LONG_GAP], NO_PAST, SDR),
        f"no past, gap {LONG_GAP:g} s or more": (cut[cut["gap"] >= LONG_GAP], NO_PAST, SDR),
    }
    return [
        {"system": name, "case": case} | paired(table_of(part, name, changed), table_of(part, name, whole))
        for name in trained(cut)
        for case, (part, changed, whole) in cases.items()
    ]


def without_table(rows: Rows) -> pd.DataFrame:
    """Return the records of :func:`without` as a table: a row per network, a column per case."""
    cells = pd.DataFrame([(r["system"], r["case"], f"{words(r)} (n = {r['tracks']})") for r in rows])
    wide = cells.pivot(index=0, columns=1, values=2)
    return wide.loc[cells[0].unique(), cells[1].unique()].rename_axis(index="network", columns=None)


@figures.style()
def figure_without(rows: Rows) -> Figure:
    """Draw the records of :func:`without`: a mark per network and case, with 95 % intervals over songs and seeds."""
    drawn, ax = plt.subplots(figsize=(7.5, 3.4))
    names, cases = (list(dict.fromkeys(row[field] for row in rows)) for field in ("system", "case"))
    ax.axhline(0, color="0.4", linewidth=0.8)
    own = {name: [row for row in rows if row["system"] == name] for name in names}
    figures.interval_plot(ax, [case.replace(", ", "\n") for case in cases], own, line="")
    ax.tick_params(axis="x", labelsize="small")
    title = "Against the whole song, 95 % intervals; positive: better without"
    ax.set(ylabel="change in the region's SDR (dB)", title=title)
    figures.legend_above(drawn, ax)
    return drawn


def contrasts(frame: pd.DataFrame, places: Sequence[Contrast]) -> pd.DataFrame:
    """Compare the base's gain where vocals are intermittent with its gain elsewhere, for each of several places.

    A region that the recording cuts short may have been long. By duration, it counts only from :data:`LONG` s on, as in
    the claim (:func:`bsm.study.claims.learning_regions.advantage`).

    Returns:
        A row per contrast and other network (``minus``): the numbers of regions there and of their songs; the base's
        gain there, and how much larger that is than in all other regions, with intervals over songs and trainings. The
        ``verdict`` is on the latter. It is corrected for the number of rows (Holm, 1979).
    """
    found, extra, folds = [], [], folds_of(frame)
    for column, where, low, high in places:
        for other in trained(frame)[1:]:
            gains = occurrence.with_level(
                differences(table_of(frame, BASE, SDR), table_of(frame, other, SDR)), frame, column, LONG
            )
            values = gains.index.get_level_values(column)
            inside = (values >= low) & (values < high)
            extra.append(interval(gains, folds, against=~inside))
            counts = f"{inside.sum()} ({gains.index[inside].get_level_values('song').nunique()})"
            found.append((where, other, counts, words(interval(gains[inside], folds))))
    table = pd.DataFrame(found, columns=["where", "minus", "regions (songs)", "gain (dB)"])
    return table.assign(**{"more than elsewhere (dB)": [*map(words, extra)], "verdict": verdicts(extra)})


def answer(scores: pd.DataFrame, rows: Rows, changes: Rows) -> str:
    """Say in Markdown whether the assay is sensitive, and how the base differs from the other networks.

    Args:
        scores: of :func:`read`.
        rows: of :func:`compare`.
        changes: of :func:`without`.
    """
    compared = [name for name in trained(scores) if name != NO_TIME]
    gate = assay(scores[np.isinf(scores["window"])], compared, NO_TIME)
    lines = ["- The assay is sensitive." if gate.sensitive else "- The assay is insensitive: no verdict rests on it."]
    where = "real singing" if "fold" in scores else "the long study's synthesised songs"
    lines += [
        f"  - This is about {where}. {_trained_how_often(scores)}",
        *(f"  - {reason}." for reason in gate.reasons),
    ]
    inside = [row for row in rows if row["quantity"] == SDR and row["by"] != EVERYWHERE]
    for other in trained(scores)[1:]:
        everywhere = {row["quantity"]: words(row["differences"][other]) for row in rows if row["by"] == EVERYWHERE}
        said = [row["differences"][other]["verdict"] for row in inside]
        counts = f"higher in {said.count('better')} of {len(said)} bins, lower in {said.count('worse')}"
        lines.append(
            f"- {BASE} minus {other}, SDR: {everywhere[SDR]} dB in all regions; {counts}, after Holm's adjustment. "
            f"Leakage: {everywhere[BEFORE]} dB before and {everywhere[AFTER]} dB after regions; less is better."
        )
    return "\n".join([*lines, *_of_changes(changes)]) + "\n"


def _of_changes(changes: Rows) -> list[str]:
    """Say what each network's regions gain or lose without future or past, and whether any gains from the past."""
    if not changes:
        return []
    lines = [
        "- Change in SDR where the song ends with a region, or has nothing before it. Positive means better without."
    ]
    for row in changes:
        if row["case"] in ("no future", "no past"):
            lines.append(f"  - {row['system']}, {row['case']}: {words(row)} dB (n = {row['tracks']}).")
    past = [row for row in changes if row["case"].startswith("no past")]
    helped = [f"{row['system']} ({row['case']})" for row in past if row["high"] < 0]
    if helped:
        lines.append(f"- What lies before a gap helps in these cases: {', '.join(helped)}.")
    elif np.isfinite([row["high"] for row in past]).all():
        lines.append(
            "- No network is seen to gain from what lies before a gap, in any of the table's cases. So these songs "
            "cannot show memory over gaps."
        )
    return lines


def of_durations(rows: Rows) -> str:
    """Say in Markdown whether the shortest regions are separated better than by silence, and the gain by duration.

    Args:
        rows: of :func:`compare`.
    """
    own = [row for row in rows if row["by"] == DURATION and row["quantity"] == SDR]
    if not own:
        return ""
    others = [*own[0]["differences"]]
    means = {name: own[0]["means"][name]["estimate"] for name in (BASE, *others)}
    below = [name for name, mean in means.items() if mean < 0]
    scores = ", ".join(f"{name} {mean:.2f} dB" for name, mean in means.items())
    lines = [f"- Mean SDR in regions {own[0]['group']} (n = {own[0]['means'][BASE]['tracks']}): {scores}."]
    said = "every network" if len(below) == 1 + len(others) else " and ".join(below) or "no network"
    lines.append(f"  - Silence has 0 dB. Below silence on average: {said}.")
    if BASE in below:
        lines.append(f"  - There, a gain of {BASE} means less harm, and no useful separation.")
    for other in others:
        gains = "; ".join(f"{row['group']} {words(row['differences'][other])} dB" for row in own)
        lines.append(f"- {BASE} minus {other}, by {DURATION}: {gains}.")
    return "\n".join(lines) + "\n"
