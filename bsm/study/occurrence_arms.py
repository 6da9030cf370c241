"""The long study's networks by vocal occurrence (:mod:`bsm.study.song_regions`): tables, figures, what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bsm.stats import Interval, crossed_interval, verdicts
from bsm.study import arms, figures, occurrence
from bsm.study.assay import assay
from bsm.study.baselines import EQUALISER
from bsm.study.campaign import finished, lacking, of_run
from bsm.study.compare import ROWS, corrected, differences, paired, table_of, tidy, words
from bsm.study.occurrence import AFTER, BEFORE, NAMES, SDR
from bsm.study.records import read_result
from bsm.study.song_regions import FIRST, FIRST_NO_PAST, IN_WINDOW, NO_FUTURE, NO_PAST
from bsm.study.songs import BASELINES

Rows = Sequence[Mapping[str, Any]]
BASE, NO_TIME = (arms.NAMES[name] for name in (arms.BASE, arms.NO_TIME))


class Condition(NamedTuple):
    """A property of a vocal region, a ``column`` of its record, in bins between ``edges``; ``measures`` by bin."""

    title: str
    column: str
    edges: tuple[float, ...]
    unit: str = "s"
    measures: tuple[str, ...] = (SDR, BEFORE, AFTER)


CONDITIONS = (
    Condition("duration of the region", "duration", (1, 2, 4)),
    Condition("gap before", "gap", (1, 2, 4, 8)),
    Condition("distance to the nearest vocals", "nearest", (1, 2, 4)),
    Condition("vocals elsewhere in the song", "elsewhere", (16, 20, 26)),
    Condition("vocals elsewhere in a window of 8 s", "elsewhere_in_window", (1, 2, 3), measures=(IN_WINDOW,)),
    Condition("vocal share of the song", "share", (30, 36, 46), "%"),
)
EVERYWHERE = "all regions"
CONTRASTS = (
    ("gap", "after gaps of 4 s or more", 4, np.inf),
    ("duration", "in regions under 2 s", 0, 2),
    ("nearest", "2 s or more from other vocals", 2, np.inf),
    ("share", "in songs that are sung for under 36 %", 0, 36),
)
"""Where vocals are intermittent: a column, the bin in words, and the bin, its upper end left out."""
LONG_GAP = 4.0  # s, between short and long gaps of the regions without past


def experiments(of: str) -> tuple[str, str]:
    """Return the names of the measurements of an experiment's networks and of the trivial separators."""
    return f"{of}-regions", f"songs-{BASELINES}-regions"


def there(folder: Path, of: str) -> bool:
    """Tell whether both of :func:`experiments` have finished runs, the base and the control among them."""
    measured, trivial = experiments(of)
    missing = lacking(finished(folder, measured), measured, (arms.BASE, arms.NO_TIME))
    return not missing and bool(finished(folder, trivial))


def read(folder: Path, of: str, field: str = "regions") -> pd.DataFrame:
    """Read records of an experiment's measured networks and of the trivial separators.

    Args:
        folder: of a campaign's results.
        of: the experiment.
        field: ``regions`` or ``scores`` (:func:`bsm.study.song_regions.of_network`).

    Returns:
        A frame of :func:`bsm.study.compare.tidy`. ``system`` is the name in figures: the base, the other networks, the
        trivial separators. ``share`` is in per cent.
    """
    records = []
    for path in (path for name in experiments(of) for path in finished(folder, name)):
        found = read_result(path)
        records += of_run(found, found["values"][field])
    frame = tidy(records)
    order = list(dict.fromkeys([*arms.arms(frame), *frame["system"]]))
    frame = frame.sort_values("system", key=lambda systems: systems.map(order.index), kind="stable")
    return frame.assign(system=frame["system"].replace(arms.NAMES), share=100 * frame.get("share", np.nan))


def trained(frame: pd.DataFrame) -> list[str]:
    """Return the networks of a frame of :func:`read`, the base first."""
    return [name for name in frame["system"].unique() if name in arms.NAMES.values()]


def compare(frame: pd.DataFrame, conditions: Sequence[Condition] = CONDITIONS) -> list[dict[str, Any]]:
    """Compare the base with every other network in each bin, paired per region and seed, drawn by song and seed.

    Returns:
        Records with ``by`` (a condition's title), ``group``, ``quantity``, numbers of ``regions`` and ``songs``,
        ``means`` by system, and ``differences`` by other network (:func:`bsm.study.compare.paired`). The verdicts are
        corrected for the number of bins in which a measure of two networks is compared (Holm, 1979).
    """
    rows, records = [], frame.to_dict("records")
    for condition in (Condition(EVERYWHERE, SDR, (0,)), *conditions):
        groups = occurrence.grouped(records, condition.column, condition.edges, condition.unit)
        chosen = {"all"} if condition.title == EVERYWHERE else {name for name in groups if groups[name]} - {"all"}
        for group in (name for name in groups if name in chosen):
            part = pd.DataFrame(groups[group])
            for quantity in condition.measures:
                found = {name: table_of(part, name, quantity) for name in frame["system"].unique()}
                row = {"by": condition.title, "group": group, "quantity": quantity}
                row |= {"regions": len(found[BASE].dropna()), "songs": part["song"].nunique()}
                row["means"] = {name: float(own.stack().mean()) for name, own in found.items()}
                row["differences"] = {other: paired(found[BASE], found[other]) for other in trained(frame)[1:]}
                rows.append(row)
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        same = [row for row in rows if row["quantity"] == quantity]
        for other in trained(frame)[1:]:
            gains = [row["differences"][other] for row in same]
            for row, gain in zip(same, corrected(gains, more_is_better="leakage" not in quantity), strict=True):
                row["differences"][other] = gain
    return rows


def mean_table(rows: Rows) -> pd.DataFrame:
    """Return the means of :func:`compare`: a row per bin and measure, a column per system."""
    return pd.DataFrame([_place(row) | row["means"] for row in rows])


def difference_table(rows: Rows) -> pd.DataFrame:
    """Return the differences of :func:`compare` with their intervals; † marks what survives Holm's method."""
    mark = {"better": " †", "worse": " †"}
    return pd.DataFrame(
        [
            _place(row)
            | {
                f"minus {other}": words(gain) + mark.get(gain["verdict"], "")
                for other, gain in row["differences"].items()
            }
            for row in rows
        ]
    )


def _place(row: Mapping[str, Any]) -> dict[str, str]:
    measure = "SDR, windows of 8 s (dB)" if row["quantity"] == IN_WINDOW else NAMES[row["quantity"]]
    counts = f"{row['regions']} ({row['songs']})"
    return {"by": row["by"], "bin": row["group"], "measure": measure, "regions (songs)": counts}


@figures.style()
def figure_of(rows: Rows, conditions: Sequence[Condition]) -> Figure:
    """Draw SDR by bin, a line per network; and below it the base minus each other network, with 95 % intervals."""
    drawn, axes = plt.subplots(2, len(conditions), figsize=(3.3 * len(conditions), 5.4), sharey="row", squeeze=False)
    for above, below, condition in zip(*axes, conditions, strict=True):
        own = [row for row in rows if row["by"] == condition.title and row["quantity"] == condition.measures[0]]
        ticks = [f"{row['group'].removesuffix(f' {condition.unit}')}\nn={row['regions']}" for row in own]
        ticks = [tick.replace(f" {condition.unit} or more", " on").replace(" to ", "–") for tick in ticks]
        others = list(own[0]["differences"])
        colours = figures.model_colours([BASE, *others]) | {EQUALISER: "0.5"}
        for name in (BASE, *others, EQUALISER):
            line = {"color": colours[name], "linestyle": ":" if name == EQUALISER else "-", "label": name}
            above.plot(ticks, [row["means"][name] for row in own], marker=".", **line)
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
    """Return how the SDR changes where the song ends with a region, or where nothing of its past is carried to it.

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
    colours = figures.model_colours(names)
    ax.axhline(0, color="0.4", linewidth=0.8)
    for shift, name in enumerate(names):
        own = [Interval.of(row) for row in rows if row["system"] == name]
        places = np.arange(len(cases)) + 0.1 * (shift - (len(names) - 1) / 2)
        bars = {"fmt": "o", "markersize": 5, "capsize": 3, "color": colours[name], "label": name}
        ax.errorbar(places, [gain.estimate for gain in own], figures.reach(own), **bars)
    ax.set_xticks(range(len(cases)), [case.replace(", ", "\n") for case in cases], fontsize="small")
    ax.set(ylabel="change in the region's SDR (dB)", title="Against the whole song, 95 % intervals")
    figures.legend_above(drawn, ax)
    return drawn


def contrasts(frame: pd.DataFrame) -> pd.DataFrame:
    """Set the base's gain where vocals are intermittent against its gain elsewhere, for each of :data:`CONTRASTS`.

    Returns:
        ``where``, ``minus`` (the other network), the gain there, and how much more that is than in all other regions,
        with intervals over songs and seeds; the ``verdict`` on that is corrected for the number of rows (Holm, 1979).
    """
    found = []
    for column, where, low, high in CONTRASTS:
        known = frame[frame[column].notna() & ~(frame["cut"] & (column == "duration"))]
        for other in trained(frame)[1:]:
            gains = differences(table_of(known, BASE, SDR), table_of(known, other, SDR)).dropna()
            values = known.groupby(ROWS)[column].first().reindex(gains.index)
            inside, owners = ((values >= low) & (values < high)).to_numpy(), gains.index.get_level_values("song")
            more = crossed_interval(gains, owners, against=~inside)
            found.append((where, other, words(crossed_interval(gains[inside], owners[inside])), more))
    said = verdicts([more for *_, more in found])
    return pd.DataFrame(
        [
            {
                "where": where,
                "minus": other,
                "gain (dB)": gain,
                "more than elsewhere (dB)": words(more),
                "verdict": word,
            }
            for (where, other, gain, more), word in zip(found, said, strict=True)
        ]
    )


def answer(scores: pd.DataFrame, rows: Rows, changes: Rows) -> str:
    """Say in Markdown whether the assay is sensitive, and what is seen of the base against the other networks.

    Args:
        scores: of :func:`read`.
        rows: of :func:`compare`.
        changes: of :func:`without`.
    """
    gate = assay(scores[np.isinf(scores["window"])], trained(scores), NO_TIME)
    lines = ["- The assay is sensitive." if gate.sensitive else "- The assay is insensitive: no verdict rests on it."]
    lines += [f"  - {reason}." for reason in gate.reasons]
    inside = [row for row in rows if row["quantity"] == SDR and row["by"] != EVERYWHERE]
    for other in trained(scores)[1:]:
        whole = next(row["differences"][other] for row in rows if row["by"] == EVERYWHERE)
        said = [row["differences"][other]["verdict"] for row in inside]
        counts = f"more in {said.count('better')} of {len(said)} bins, less in {said.count('worse')}"
        lines.append(
            f"- {BASE} minus {other}, SDR: {words(whole)} dB in all regions; {counts}, after Holm's adjustment."
        )
    for row in changes:
        if row["case"] in ("no future", "no past"):
            lines.append(f"- {row['system']} with {row['case']}: SDR changes by {words(row)} dB (n = {row['tracks']}).")
    return "\n".join(lines) + "\n"
