"""The report of a profile, made from its result files with ``report.md.j2``: no number in it is typed by hand."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2

from bsm.config import ModelConfig
from bsm.files import write_text
from bsm.stats import summary
from bsm.study import repeat
from bsm.study.baselines import EQUALISER
from bsm.study.claims import ledger
from bsm.study.cost import benchmarks, cost_table
from bsm.study.counts import parameter_count
from bsm.study.figures import LABELS, table_markdown
from bsm.study.notebook import KINDS, NOTEBOOKS, Notebook, study_notebooks
from bsm.study.profiles import Profile
from bsm.study.readme import WORDS
from bsm.study.records import ROOT, read_result
from bsm.study.report_frames import FRAMES, headline

LONGER = Profile({"profile": "speed"})
"""Longer passes, measured by hand. They stand in the report of every profile that has ``bench_seconds``."""
ROWS, COLUMNS, WIDTH = 20, 7, 132
"""The largest table that fits on a page: rows, columns, characters of a row; and :data:`WORDS` in a cell."""
_SEPARATOR = re.compile(r"(?<!\\)\|")


def write_report(settings: Profile) -> Path:
    """Write ``reports/<profile>/report.md`` and return its path.

    Every notebook with results has a part of the report: its tables in the report's own form (:data:`FRAMES`), its
    figures, and its other tables that fit on a page. Then follow its results of :data:`LONGER`, where they belong.

    Raises:
        InputError: a result is missing that every profile has.
    """
    cost = cost_table(settings)
    settings.write_table("cost", cost)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("report.md.j2").render(_context(settings), cost=cost)
    return write_text(settings.reports / "report.md", re.sub(r"\n{3,}", "\n\n", text))


def in_notebook(path: Path) -> str:
    """Return a report whose links to figures work in a notebook, one opened in ``notebooks`` or an executed copy."""
    place = os.path.relpath(path.parent) if Path.cwd() == NOTEBOOKS else ".."
    return re.sub(r"(!\[[^]]*\]\()(?!\w+:)", rf"\g<1>{place}/", path.read_text(encoding="utf-8"))


def _context(settings: Profile) -> dict[str, Any]:
    claims = ledger.lines(settings.profile)
    names = ["data", "training", "separation_speed", *["published_model"] * _times_passes(settings)]
    results = {name: read_result(settings.result(name)) for name in names}
    trivial = [r["usdr"] for r in read_result(settings.result("baselines"))["values"] if r["separator"] == EQUALISER]
    scored = read_result(settings.result("scores"))["values"]
    share = summary([r["vocal_share"] for r in results["data"]["values"] if r["split"] == "test"])
    notebooks = [nb for nb in study_notebooks() if nb.about["needs"] != "results" and _has(settings, nb)]
    parts = []
    for nb in notebooks:
        longer = _part(LONGER, nb, settings.reports) if _times_passes(settings) and _has(LONGER, nb) else None
        parts.append({"title": nb.title, "longer": longer} | _part(settings, nb, settings.reports))
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
        "headline": headline(scored),
        "labels": LABELS,
        "equaliser": summary(trivial)["mean"],
        "ours": summary([r["usdr"] for r in scored if r["separator"] == LABELS["bsmamba2"]])["mean"],
        "verdicts": ledger.Verdict,
        "repeat": repeat.shown(settings),
    }


def fits(text: str) -> bool:
    """Tell whether a table in Markdown fits on a page: at most :data:`ROWS` rows, and so on."""
    rows = [_SEPARATOR.split(row.strip("|")) for row in text.splitlines() if row.startswith("|")]
    width = max((sum(len(cell.replace("\\", "")) for cell in row) for row in rows), default=0)
    words = max((len(cell.split()) for row in rows for cell in row), default=0)
    columns = max(map(len, rows), default=0)
    return len(rows) <= ROWS + 2 and columns <= COLUMNS and width <= WIDTH and words <= WORDS


def _times_passes(settings: Profile) -> bool:
    return "bench_seconds" in settings.values


def _has(settings: Profile, notebook: Notebook) -> bool:
    return any(settings.result(name).is_file() for name in notebook.saved("values"))


def _part(settings: Profile, notebook: Notebook, folder: Path) -> dict[str, Any]:
    """Return a notebook's part of the report in a folder: tables as Markdown; paths of figures and of tables too wide.

    ``lacking`` lists the tables and figures that have not been made.
    """
    tables, instead = [], set()
    for own in FRAMES.get(notebook.name, []):
        if settings.result(own.result).is_file():
            record = read_result(settings.result(own.result))
            said = {"data": record["data"], "not_comparable": not record["comparable_with_paper"]}
            said = said if own.measured else {}
            made = own.frames(record["values"], *(record["parameters"][name] for name in own.given))
            tables += [table_markdown(frame, caption=caption, **said) for frame, caption in made]
            instead |= {*own.instead}
    figures, wider, lacking = [], [], []
    shown = [("table", name) for name in notebook.saved("table") if name not in instead]
    for kind, name in shown + [("figure", name) for name in notebook.saved("figure")]:
        path = settings.reports / KINDS[kind].format(name)
        link = Path(os.path.relpath(path, folder)).as_posix()
        if not path.is_file():
            lacking += [name] * (name not in notebook.about.get("optional", []))
        elif kind == "figure":
            figures.append((name.replace("_", " "), link))
        elif fits(text := path.read_text(encoding="utf-8")):
            tables.append(text)
        else:
            wider.append(link)
    return {"tables": tables, "figures": figures, "wider": wider, "lacking": lacking}


def _revisions(settings: Profile, notebooks: list[Notebook], claims: list[ledger.Line]) -> dict[str, list[str]]:
    """Return, by revision of the code that made them, the results that the report shows or the claims rest on."""
    shown = {name for nb in notebooks for name in nb.saved("values")}
    files = {*settings.reports.glob("results/*.json"), *(ROOT / name for line in claims for name in line.files)}
    files |= {LONGER.result(name) for name in shown} if _times_passes(settings) else set()
    made = defaultdict(list)
    for path in sorted(path for path in files if path.is_file()):
        git, folder = read_result(path)["provenance"]["git"], path.parent.parent
        name = path.stem if folder == settings.reports else f"{folder.name}/{path.stem}"
        made[f"`{git['revision'][:12]}`{' with uncommitted changes' * bool(git['dirty'])}"].append(name)
    return dict(made)
