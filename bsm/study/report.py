"""The report of a profile, made from its result files with ``report.md.j2``: no number in it is typed by hand."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2

from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.files import write_text
from bsm.stats import summary
from bsm.study import profiles, repeat
from bsm.study.claims import ledger
from bsm.study.cost import benchmarks, cost_table
from bsm.study.figures import table_markdown
from bsm.study.meta import parameter_count
from bsm.study.notebook import NOTEBOOKS, Notebook, study_notebooks
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, read_result
from bsm.study.report_frames import FRAMES, headline

LONGER = Profile({"profile": "speed", "title": "longer passes than a profile has time for, measured by hand"})
"""Results of notebook ``10_published_model`` that stand beside every profile's."""
ROWS, COLUMNS, WIDTH, WORDS = 20, 7, 132, 15
"""What a page holds of a table: rows, columns, characters of a row, words of a cell."""
_SEPARATOR = re.compile(r"(?<!\\)\|")


def write_report(settings: Profile) -> Path:
    """Write ``reports/<profile>/report.md`` and return its path.

    Every notebook with results has its part: its own table, its figures, and those of its tables that fit on a page.
    Results of the profiles that this one names as ``beside`` follow.

    Raises:
        InputError: no result of a notebook that every profile runs.
    """
    settings.write_table("cost", cost_table(settings))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("report.md.j2").render(_context(settings))
    return write_text(settings.reports / "report.md", re.sub(r"\n{3,}", "\n\n", text))


def in_notebook(path: Path) -> str:
    """Return a report with figures that show in a notebook: one opened in ``notebooks``, or an executed copy."""
    place = os.path.relpath(path.parent) if Path.cwd() == NOTEBOOKS else ".."
    return re.sub(r"(!\[[^]]*\]\()(?!\w+:)", rf"\g<1>{place}/", path.read_text(encoding="utf-8"))


def _context(settings: Profile) -> dict[str, Any]:
    claims = ledger.lines(settings.profile)
    names = ["data", "training", "separation_speed", *["published_model"] * ("bench_seconds" in settings.values)]
    results = {name: read_result(settings.result(name)) for name in names}
    share = summary([r["vocal_share"] for r in results["data"]["values"] if r["split"] == "test"])
    notebooks = [nb for nb in study_notebooks() if nb.about["needs"] != "results" and _has(settings, nb)]
    parts = []
    for nb in notebooks:
        others = [other for other in _beside(settings) if _has(other, nb)]
        beside = [{"title": other.data_title} | _part(other, nb, settings.reports) for other in others]
        parts.append({"title": nb.title, "beside": beside} | _part(settings, nb, settings.reports))
    return {
        "settings": settings,
        "claims": claims,
        "claims_table": ledger.short_table(claims),
        "tally": ledger.tally(claims),
        "revisions": _revisions(settings, notebooks, claims),
        "results": results,
        "vocal_share": 100 * share["mean"],
        "parts": parts,
        "measured": benchmarks(settings),
        "paper_size": parameter_count(ModelConfig.preset("paper")),
        "headline": headline(read_result(settings.result("scores"))["values"]),
        "cost": table(settings, "cost"),
        "repeat": repeat.shown(settings),
    }


def table(settings: Profile, name: str) -> str:
    """Return a table of the profile, in Markdown.

    Raises:
        InputError: it is not there.
    """
    path = settings.reports / "tables" / f"{name}.md"
    if not path.is_file():
        raise InputError(f"{path}: missing; run `make reproduce PROFILE={settings.profile}` first")
    return path.read_text(encoding="utf-8")


def fits(text: str) -> bool:
    """Tell whether a table in Markdown fits on a page: few rows and columns, short rows, short cells."""
    rows = [_SEPARATOR.split(row.strip("|")) for row in text.splitlines() if row.startswith("|")]
    width = max((sum(len(cell.replace("\\", "")) for cell in row) for row in rows), default=0)
    words = max((len(cell.split()) for row in rows for cell in row), default=0)
    columns = max(map(len, rows), default=0)
    return len(rows) <= ROWS + 2 and columns <= COLUMNS and width <= WIDTH and words <= WORDS


def _beside(settings: Profile) -> list[Profile]:
    longer = [LONGER] * ("bench_seconds" in settings.values)
    known = profiles.profiles()
    named = settings.values.get("beside", [])  # a study without a profile, such as `long`, is named by its folder
    return [Profile.load(n) if n in known else Profile({"profile": n, "title": n}) for n in named] + longer


def _has(settings: Profile, notebook: Notebook) -> bool:
    return any(settings.result(name).is_file() for name in notebook.saved("values"))


def _part(settings: Profile, notebook: Notebook, folder: Path) -> dict[str, Any]:
    """Return what a notebook found, for the report in a folder: tables as Markdown, figures, names of wider tables."""
    tables, instead = [], set()
    for own in FRAMES.get(notebook.name, []):
        if settings.result(own.result).is_file():
            record = read_result(settings.result(own.result))
            said = {"data": record["data"], "not_comparable": not record["comparable_with_paper"]}
            made = own.frames(record["values"], *(record["parameters"][name] for name in own.given))
            tables += [table_markdown(frame, caption=caption, **said) for frame, caption in made]
            instead |= {*own.instead}
    wider, lacking = [], []
    for name in (name for name in notebook.saved("table") if name not in instead):
        path = settings.reports / "tables" / f"{name}.md"
        if not path.is_file():
            lacking.append(name)
        elif fits(text := path.read_text(encoding="utf-8")):
            tables.append(text)
        else:
            wider.append(name)
    drawn = {name: settings.figure(name).is_file() for name in notebook.saved("figure")}
    place = Path(os.path.relpath(settings.reports, folder)).as_posix()
    place = "" if place == "." else f"{place}/"
    return {
        "tables": tables,
        "figures": [(name.replace("_", " "), f"{place}figures/{name}.png") for name, here in drawn.items() if here],
        "wider": [f"{place}tables/{name}.md" for name in wider],
        "lacking": [
            name
            for name in lacking + [name for name, here in drawn.items() if not here]
            if name not in notebook.about.get("optional", [])
        ],
    }


def _revisions(settings: Profile, notebooks: list[Notebook], claims: list[ledger.Line]) -> dict[str, list[str]]:
    """Return by revision which results the report shows and the claims are judged by."""
    shown = {name for nb in notebooks for name in nb.saved("values")}
    files = {*settings.reports.glob("results/*.json"), *(ROOT / name for line in claims for name in line.files)}
    files |= {other.result(name) for other in _beside(settings) for name in shown}
    made = defaultdict(list)
    for path in sorted(path for path in files if path.is_file()):
        git, folder = read_result(path)["provenance"]["git"], path.parent.parent
        name = path.stem if folder == settings.reports else f"{folder.name}/{path.stem}"
        made[f"`{git['revision'][:12]}`{' with uncommitted changes' * bool(git['dirty'])}"].append(name)
    return dict(made)
