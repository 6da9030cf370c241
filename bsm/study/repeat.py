"""Two runs of one profile, compared value by value: what comes out the same, and how far apart the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsm.errors import InputError
from bsm.study.figures import table_markdown
from bsm.study.profiles import Profile
from bsm.study.records import mark, read_result, write_result

RESULT = "repeat"


def compare(first: Path, second: Path) -> list[dict[str, Any]]:
    """Compare the result files that two folders of reports, ``reports/<profile>``, share.

    Returns:
        One record per file and field; a field is the path of keys to a value, without positions in lists. ``result``
        and ``field`` are the names, ``values`` is the number of values, and ``equal`` how many are equal to the last
        bit. ``median`` and ``largest`` are relative differences over all values, 0 where all are equal. ``shape`` is
        true where the two runs differ in the number or the kind of their values.

    Raises:
        InputError: the folders share no result file.
    """
    names = _shared(first, second)
    if not names:
        raise InputError(f"{first}/results and {second}/results: no result file is in both; run the profile in each")
    records = []
    for name in names:
        ours, theirs = (_fields(read_result(folder / "results" / name)["values"]) for folder in (first, second))
        for field in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(field, []), theirs.get(field, [])
            kinds = ([value is None or isinstance(value, str) for value in values] for values in (a, b))
            record = {"result": name.removesuffix(".json"), "field": field, "values": len(a), "equal": 0}
            record |= {"median": None, "largest": None, "shape": next(kinds) != next(kinds)}
            if not record["shape"]:
                apart = [_apart(x, y) for x, y in zip(a, b, strict=True)]
                record |= {"equal": apart.count(0), "median": np.median(apart), "largest": max(apart)}
            records.append(record)
    return records


def _shared(first: Path, second: Path) -> list[str]:
    """Return the names of the result files that both folders have, without the comparison itself."""
    ours, theirs = ({p.name for p in folder.glob("results/*.json")} for folder in (first, second))
    return sorted(ours & theirs - {f"{RESULT}.json"})


def _fields(values: Any, path: str = "", found: dict[str, list[Any]] | None = None) -> dict[str, list[Any]]:
    """Return the plain values by the path of keys that leads to them, in their order."""
    found = {} if found is None else found
    if isinstance(values, dict):
        for name, value in values.items():
            _fields(value, f"{path}.{name}".removeprefix("."), found)
    elif isinstance(values, list):
        for value in sorted(values, key=_named) if all(isinstance(v, dict) for v in values) else values:
            _fields(value, path, found)
    else:
        found.setdefault(path, []).append(values)
    return found


def _named(record: dict[str, Any]) -> str:
    """Return what identifies a record in its list, its texts and whole numbers, so that the order does not matter."""
    return str(sorted((name, value) for name, value in record.items() if isinstance(value, str | int)))


def _apart(x: Any, y: Any) -> float:
    """Relative difference of two values; one of text that differs counts as 1."""
    if x == y:
        return 0.0
    return 1.0 if isinstance(x, str) or isinstance(y, str) else abs(x - y) / max(abs(x), abs(y))


def table(records: list[dict[str, Any]], *, data: str, comparable: bool) -> str:
    """Return a row for each result, in Markdown: how many values are equal, and how far apart the others are.

    What differs is named below the table, a line for each result.
    """
    rows, differing = [], []
    for name, part in pd.DataFrame(records).groupby("result", sort=False):
        row = {"result": name, "values": part["values"].sum(), "equal": part["equal"].sum()}
        apart = part[part["equal"] < part["values"]]
        medians, largest = (apart[column].dropna().astype(float) for column in ("median", "largest"))
        rows.append(row | {"typical difference": _percent(medians.median()), "largest": _percent(largest.max())})
        if len(apart):
            fields = [f"`{r['field']}`{' (other values)' * r['shape']}" for r in apart.to_dict("records")]
            differing.append(f"- {name} differs in {', '.join(fields)}.")
    caption = "Two runs of this profile: values, how many are equal to the last bit, and how far apart the others are"
    shown = table_markdown(pd.DataFrame(rows), caption=caption, data=data, not_comparable=not comparable)
    return "\n".join([shown, *differing, ""])


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.0f} %" if share > 0.1 else f"{100 * share:.2g} %"


def shown(settings: Profile) -> str:
    """Return the table of a profile's result, made anew; nothing where there is none."""
    path = settings.result(RESULT)
    records = read_result(path)["values"] if path.is_file() else []
    return table(records, data=settings.data_title, comparable=settings.comparable) if records else ""


def write(profile: str, other: Path) -> Path:
    """Compare a profile's results with those of another run; write ``repeat.json`` and its table; return the former.

    Raises:
        InputError: an unknown profile, or no result in common.
    """
    settings, started = Profile.load(profile), mark()
    folders = settings.reports, other
    records = compare(*folders)
    settings.write_table(RESULT, table(records, data=settings.data_title, comparable=settings.comparable))
    return write_result(
        settings.result(RESULT),
        measured="values of two runs, by result and field: how many, how many equal, their relative differences",
        parameters={"profile": profile},
        values=records,
        started=started,
        data=settings.data_title,
        inputs=[folder / "results" / name for folder in folders for name in _shared(*folders)],
        comparable_with_paper=settings.comparable,
    )
