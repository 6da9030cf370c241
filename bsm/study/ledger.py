"""The claims ledger, ``reports/claims.yaml``: what is claimed, written by hand, and what our results say, computed.

A row's fields up to ``rule`` and ``needs`` are written by hand. ``rule`` names a function of :mod:`bsm.study.rules`,
the values it is given and its thresholds:

    rule:
      name: conv_3x
      inputs: {conv: scan_backends#conv}     # reports/<profile>/results/scan_backends.json, values -> conv
      thresholds: {faster: 3}

An input may name a profile of its own, ``gpu/scan#speed``; a path may have several steps, ``loss.flipped``; and
without ``#`` it is all the values. ``@`` in the place of ``#`` reads the file's parameters: ``scores@model.dim``.
One that ends in ``?`` may be missing, and is then not given to the rule; nor is one of a profile that it names where
the claims are judged by that profile's results, which would stand beside themselves. A result of the profile ``gpu``
is missing, too, unless its parameters say that a GPU was measured (``device``). The fields after that are computed:
``bsm claims render`` writes them, ``bsm claims check`` computes them again and complains about whatever differs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bsm.errors import InputError
from bsm.files import write_text
from bsm.study import rules  # noqa: F401 (registers them)
from bsm.study.claims import BLOCKED, COMPUTED, RULES, STATUSES, UNTESTED, Rule
from bsm.study.figures import table_markdown
from bsm.study.records import ROOT, on_gpu, read_result

PROFILE = "demo"
"""The profile whose results the ledger is about, where an input does not name another."""
GPU = "gpu"
"""The profile whose results count only where they were measured on a GPU."""
REPORTS = ROOT / "reports"
LEDGER = REPORTS / "claims.yaml"
WRITTEN = ("id", "claim", "figure", "unit", "source", "metric", "test")
OPTIONAL = ("rule", "needs")
FOUND = ("status", "measured", "why", "evidence", "result", "device")
_HEADER = """\
# The claims under test.
# Written by hand: {written}.
# Computed from result files by `bsm claims render`, checked by `bsm claims check`, never typed: {found}.
"""

Row = dict[str, Any]


def load(path: Path = LEDGER) -> list[Row]:
    """Read the rows.

    Raises:
        InputError: no such file, or rows that lack a field, have an unknown one, an id twice or an unknown rule.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: no readable ledger ({' '.join(str(error).split())})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a ledger is a list of rows")
    for number, row in enumerate(rows, start=1):
        name = f"{path}: row {number}, {row.get('id', 'no id')}"
        if lacking := [field for field in WRITTEN if row.get(field) is None]:
            raise InputError(f"{name}: lacks {', '.join(lacking)}")
        if unknown := sorted(set(row) - {*WRITTEN, *OPTIONAL, *FOUND}):
            raise InputError(f"{name}: unknown field {', '.join(unknown)}; there are: {', '.join(WRITTEN + OPTIONAL)}")
        if "rule" in row:
            _check_rule(name, row["rule"])
    if twice := [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]:
        raise InputError(f"{path}: {', '.join(twice)}: an id stands in one row only")
    return rows


def _check_rule(name: str, rule: Any) -> None:
    if not isinstance(rule, dict) or not {"name"} <= set(rule) <= {"name", "inputs", "thresholds"}:
        raise InputError(f"{name}: a rule has a name, inputs and thresholds")
    if rule["name"] not in RULES:
        raise InputError(f"{name}: there is no rule {rule['name']!r}; there are: {', '.join(sorted(RULES))}")
    if not rule.get("inputs") and RULES[rule["name"]].evidence != COMPUTED:
        raise InputError(f"{name}: the rule {rule['name']!r} judges measurements, and is given no inputs")


def evaluate(row: Row, profile: str = PROFILE, reports: Path = REPORTS) -> Row:
    """Compute the fields ``FOUND`` of a row from its result files.

    Where a result is missing or does not count, or a profile left that part out, the claim is ``untested``; ``blocked``
    where the row says what a test ``needs`` that is not at hand.

    Raises:
        InputError: a damaged result file, or one whose values its rule cannot read.
    """
    rule = row.get("rule", {})
    values, files, devices, refused, missing = {}, [], [], [], f"not tested yet: {row['test']}"
    required, comparable = set(), True
    for name, address in rule.get("inputs", {}).items():
        optional = str(address).endswith("?")
        file, field, steps = _locate(str(address).removesuffix("?"), profile, reports)
        shown = file.relative_to(reports.parent).as_posix()
        if optional and "/" in str(address) and file in required:
            continue
        record = read_result(file) if file.is_file() else None
        if reason := _refusal(record, file, RULES[rule["name"]]) if record else "":
            refused.append(f"{shown} does not count: {reason}")
            record = None
        values[name] = _follow(record[field], steps) if record else None
        if values[name] is None and optional:
            del values[name]
            continue
        if values[name] is None:
            missing = f"{shown} has no {'.'.join(steps)}" if record else "" if reason else f"there is no {shown} yet"
            break
        files.append(shown)
        devices.append(record["provenance"].get("device"))
        if not optional:  # which stands beside, unjudged
            required.add(file)
            comparable &= record["comparable_with_paper"]
    else:
        if rule:
            judged = RULES[rule["name"]].of(comparable)
            try:
                found = judged.judge(**values, **rule.get("thresholds", {}))
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                message = f"{type(error).__name__}: {error}"
                raise InputError(
                    f"{row['id']}: the rule {rule['name']!r} cannot read its inputs ({message})"
                ) from error
            return {
                "status": found.status,
                "measured": found.measured,
                "why": "; ".join([found.why, *refused]),
                "evidence": judged.evidence if found.measured else "",
                "result": list(dict.fromkeys(files)),
                "device": ", ".join(dict.fromkeys(d for d in devices if d)),
            }
    needs = row.get("needs")
    return {
        "status": BLOCKED if needs else UNTESTED,
        "measured": "",
        "why": "; ".join(filter(None, [f"needs {needs}" if needs else missing, *refused])),
        "evidence": "",
        "result": [],
        "device": "",
    }


def _refusal(record: dict[str, Any], file: Path, rule: Rule) -> str:
    """Say why a result that is there does not count for a rule; nothing where it does."""
    if file.parent.parent.name == GPU and not on_gpu(record["parameters"]):
        device = record["parameters"].get("device", "not given")
        return f"it was not measured on a GPU (its parameters.device is {device}, not cuda)"
    if rule.comparable_only and not record["comparable_with_paper"]:
        return "it is not comparable with the paper"
    return ""


def _locate(address: str, profile: str, reports: Path) -> tuple[Path, str, list[str]]:
    name, mark, steps = re.fullmatch(r"([^#@]*)([#@]?)(.*)", address).groups()
    folder, _, stem = name.rpartition("/")
    field = "parameters" if mark == "@" else "values"
    return reports / (folder or profile) / "results" / f"{stem}.json", field, [s for s in steps.split(".") if s]


def _follow(values: Any, steps: list[str]) -> Any:
    for step in steps:
        values = values.get(step) if isinstance(values, dict) else None
    return values


def evaluated(rows: list[Row], profile: str = PROFILE, reports: Path = REPORTS) -> list[Row]:
    """Return the rows with their computed fields, whatever stood there before."""
    return [
        {name: row[name] for name in WRITTEN + OPTIONAL if name in row} | evaluate(row, profile, reports)
        for row in rows
    ]


def check(path: Path = LEDGER) -> list[str]:
    """Compute every row again; return one line for each row that has no status or says other than its results."""
    rows = load(path)
    problems = []
    for row, now in zip(rows, evaluated(rows, reports=path.parent), strict=True):
        said = row.get("status")
        if said not in STATUSES:
            problems.append(f"{row['id']}: has no status (one of {', '.join(STATUSES)})")
        elif said != now["status"]:
            problems.append(f"{row['id']}: says {said!r}, its results say {now['status']!r} ({now['why']})")
        elif stale := [name for name in FOUND if row.get(name) != now[name]]:
            problems.append(f"{row['id']}: {', '.join(stale)} differ from its results")
    page = path.with_name("CLAIMS.md")
    if not page.is_file() or page.read_text(encoding="utf-8") != page_text(rows):
        problems.append(f"{page.name}: differs from {path.name}")
    return problems


def render(path: Path = LEDGER) -> list[Row]:
    """Compute every row's fields and write them: the ledger, ``CLAIMS.md`` beside it, the table for the README."""
    rows = evaluated(load(path), reports=path.parent)
    header = _HEADER.format(written=", ".join(WRITTEN + OPTIONAL), found=", ".join(FOUND))
    write_text(path, header + yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=118))
    write_text(path.with_name("CLAIMS.md"), page_text(rows))
    write_text(path.parent / PROFILE / "tables" / "claims.md", short_table(rows))
    return rows


def claims_table(profile: str, results: Collection[str], reports: Path = REPORTS) -> pd.DataFrame:
    """Judge the claims whose rule reads one of a profile's result files, for the notebook that writes them.

    Args:
        profile: name of the profile.
        results: names of result files, without folder and suffix.
        reports: folder of the ledger and of the profiles' results.
    """
    rows = [
        row
        for row in load(reports / "claims.yaml")
        if {re.split("[#@?]", a)[0] for a in row.get("rule", {}).get("inputs", {}).values()} & set(results)
    ]
    return pd.DataFrame(evaluated(rows, profile, reports))[["id", "claim", "measured", "status", "why"]]


def short_table(rows: list[Row]) -> str:
    """Return the rows as a short table: claim, claimed figure, status, our figure."""
    frame = pd.DataFrame(
        {
            "claim": [f"`{row['id']}`: {row['claim']}" for row in rows],
            "claimed": [_claimed(row) for row in rows],
            "status": [row["status"] for row in rows],
            "measured here": [row["measured"] or None for row in rows],
        }
    )
    return table_markdown(frame, caption=f"{tally(rows)}; 95 % intervals", not_comparable=True)


def page_text(rows: list[Row]) -> str:
    """Return ``CLAIMS.md``: the short table, then every row in full."""
    if any(row.get("status") not in STATUSES for row in rows):
        return ""
    return "\n".join(
        [
            "# Claims ledger\n",
            "Made from [claims.yaml](claims.yaml) by `bsm claims render`. Every status follows from result files by a",
            "rule (`bsm/study/rules/`); `bsm claims check` computes all of them again. Sources: 000 is an optimisation",
            "report, 001 and 002 are integration reports, all three of an unofficial implementation; 003 is a guide to",
            "the paper.\n",
            short_table(rows),
            *(_section(row) for row in rows),
        ]
    )


def _section(row: Row) -> str:
    rule = row.get("rule", {})
    inputs = ", ".join(f"`{address}`" for address in rule.get("inputs", {}).values())
    limits = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rule.get("thresholds", {}).items())
    facts = {
        "Claimed": _claimed(row),
        "Source": row["source"],
        "Metric": row["metric"],
        "Test": row["test"],
        "Rule": f"`{rule['name']}`" + f" of {inputs}" * bool(inputs) + f"; {limits}" * bool(limits) if rule else "",
        "Measured": row["measured"],
        "Why": row["why"],
        "Evidence": row["evidence"],
        "Result": ", ".join(f"[{Path(file).name}]({file.partition('/')[2]})" for file in row["result"]),
        "Device": row["device"],
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    return "\n".join([f"## {row['id']}: {row['status']}\n", f"{row['claim']}.\n", *lines, ""])


def _claimed(row: Row) -> str:
    return f"{row['figure']} {row['unit']}".strip()


def tally(rows: list[Row]) -> str:
    """Return how many claims there are of each status, in words."""
    counts = Counter(row["status"] for row in rows)
    return f"{len(rows)} claims: " + ", ".join(f"{counts[s]} {s}" for s in STATUSES if counts[s])
