"""Trace a figure, table or result back to its data, its code and the machine that made it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from bsm.errors import InputError
from bsm.files import sha256
from bsm.study.notebook import study_notebooks
from bsm.study.records import ROOT, checksum, read_result

_LONG = 12  # digits shown of a checksum
_MANY = 8  # most inputs that are shown one by one


def chain(file: Path) -> str:
    """Return, as indented lines, what a result, figure or table was made from, down to inputs and revision.

    Where a notebook shows results of another folder, its metadata name them (``of``). Otherwise, a figure's metadata
    name its results. For a table, or a figure without metadata, they are all results of the notebook that saves a file
    of its name.

    Raises:
        InputError: the file is of another kind, or no notebook writes it.
    """
    file = file.resolve()
    if not file.is_file():
        raise InputError(f"{file}: there is no such file")
    if file.suffix == ".json":
        return "\n".join(_result(file))
    if file.suffix not in (".png", ".md"):
        raise InputError(f"{file}: neither a result (.json), nor a figure (.png), nor a table (.md) of a report")
    lines, found = [_shown(file)], {}
    kind = "table" if file.suffix == ".md" else "figure"
    writers = [notebook for notebook in study_notebooks() if file.stem in notebook.saved(kind)]
    if writers and (patterns := writers[0].about.get("of", {}).get(file.stem)):
        shown = sorted({path for pattern in patterns for path in (ROOT / "reports").glob(pattern)})
        lines.append(f"  drawn or written by notebooks/{writers[0].path.name} from {len(shown)} results:")
        return "\n".join([*lines, *(f"  {_in_short(path)}" for path in shown)])
    if file.suffix == ".png":
        with Image.open(file) as image:
            found = json.loads(image.info.get("Source", "{}"))
    if not found:
        if not writers:
            raise InputError(f"{file}: names no result, and no notebook writes a table or figure of that name")
        lines.append(f"  drawn or written by notebooks/{writers[0].path.name}, which uses:")
        found = {f"{name}.json": "" for name in writers[0].saved("values")}
    for name, digest in found.items():
        path = file.parent.parent / "results" / name
        if path.is_file():
            state = f" ({_compared(path, digest)})" if digest else ""
            lines += [f"  {line}{state if n == 0 else ''}" for n, line in enumerate(_result(path))]
        else:
            lines.append(f"  {_shown(path)}: missing")
    return "\n".join(lines)


def _in_short(path: Path) -> str:
    record = read_result(path)
    return f"{_shown(path)}, revision {record['provenance']['git']['revision'][:_LONG]}, {record['data']}"


def _result(path: Path) -> list[str]:
    """Return what a result file records about its origin."""
    record = read_result(path)
    made, git = record["provenance"], record["provenance"]["git"]
    dirty = {True: ", with uncommitted changes", False: ", clean", None: ""}[git["dirty"]]
    took = {"wall": made.get("wall_seconds"), "processor": made.get("cpu_seconds")}
    facts = {
        "measured": record["measured"],
        "data": record["data"],
        "seed": record.get("seed"),
        "seeds": record["parameters"].get("seeds"),  # of several trainings
        "revision": f"{git['revision']}{dirty}",
        "command": made["command"],
        "device": f"{made['device']}, {made['threads']} threads; {made['platform']}",
        "took": ", ".join(f"{v:.1f} s {k} time" for k, v in took.items() if v is not None) or None,
        "started": made["started"],
        "packages": ", ".join(f"{name} {version}" for name, version in made["packages"].items()),
    }
    inputs = [_input(name, digest) for name, digest in record.get("inputs", {}).items()]
    if len(inputs) > _MANY:
        same = [line for line in inputs if line.endswith("(unchanged since)")]
        inputs = [line for line in inputs if line not in same] + [f"{len(same)} files, unchanged since"] * bool(same)
    return [
        _shown(path),
        *(f"  {name}: {value}" for name, value in facts.items() if value is not None),
        *(f"  input: {line}" for line in inputs or ["none" if "inputs" in record else "not recorded"]),
    ]


def _input(name: str, digest: str) -> str:
    path = Path(name).expanduser() if name.startswith("~") else ROOT / name
    state = _compared(path, digest) if path.exists() else "not here"
    return f"{name} sha256 {digest[:_LONG]} ({state})"


def _compared(path: Path, digest: str) -> str:
    return "unchanged since" if checksum(path) == digest else "CHANGED since"


def _shown(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    return f"{name} sha256 {sha256(path)[:_LONG]}" if path.is_file() else name
