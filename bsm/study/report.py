"""The report of a profile and its table of costs, made from files that say what was measured: no number is typed."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from bsm.config import ModelConfig
from bsm.files import write_text
from bsm.stats import summary
from bsm.study import repeat
from bsm.study.baselines import EQUALISER
from bsm.study.claims import ledger
from bsm.study.claims.claim import Source
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
        "of_paper": ledger.by_claim(line for line in claims if Source.PAPER in line.claim.source),
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


def benchmarks(settings: Profile) -> pd.DataFrame:
    """Return what the workflow measured of each part: seconds, peak memory (MiB), processor seconds, number of runs.

    Only measurements behind the present results count; the folder also keeps those of rules, seeds and variants that
    the study no longer has. Trainings of one network under several seeds are one part, and so are all variants of the
    ablations. Some run at the same time, one on each core, so the sum exceeds the time that passed. Processor seconds
    are sampled and therefore too low: processes that end between two samples are missing.
    """
    columns, parts = {"s": "sum", "max_rss": "max", "cpu_time": "sum"}, {name: name for name in part_names(settings)}
    parts |= {f"model-{name}-seed{n}": f"model-{name}" for name in settings.backbones for n in seeds_of(settings)}
    parts |= {f"variant-{w['variant']}-seed{w['seed']}": "variants" for w in _given(settings, "variants", "weights")}
    rows = {
        path.stem: pd.read_csv(path, sep="\t", na_values="-").iloc[0][[*columns]]
        for path in sorted((settings.reports / "benchmarks").glob("*.tsv"))
        if path.stem in parts
    }
    frame = pd.DataFrame(rows, index=[*columns]).T.astype(float)
    grouped = frame.groupby(frame.index.map(parts), sort=False)
    return grouped.agg(columns).assign(runs=grouped.size())


def seeds_of(settings: Profile) -> list[int]:
    """Return the seeds of the networks behind the present results, the profile's own seed first."""
    return list(dict.fromkeys([settings.seed, *_given(settings, "networks", "seeds")]))


def _given(settings: Profile, needs: str, parameter: str) -> list[Any]:
    """Gather the values of a list parameter from the results of all notebooks that need one kind of trainings."""
    names = [name for nb in study_notebooks() if nb.about["needs"] == needs for name in nb.saved("values")]
    paths = [path for path in map(settings.result, names) if path.is_file()]
    return [item for path in paths for item in read_result(path)["parameters"][parameter]]


def part_names(settings: Profile) -> dict[str, str]:
    """Return what each part of the profile's study does, by the name of its measurement.

    Trainings of a network are one part, and so are those of all variants.
    """
    names = {"songs": "synthesise songs" if settings.makes_songs else "check songs"}
    names |= {f"model-{name}": f"train {name}" for name in settings.backbones}
    names |= {"variants": "train variants"} if "ablation_steps" in settings.values else {}
    for notebook in study_notebooks():
        if notebook.about["needs"] != "results" and notebook.about.get("only_with", "profile") in settings.values:
            names[notebook.name] = f"notebook {notebook.name}"
    return names | ({"data_loading": "measure data loading"} if settings.makes_songs else {})


def cost_table(settings: Profile) -> str:
    """Return a table of what each part took, in Markdown."""
    names, seeds = part_names(settings), seeds_of(settings)
    frame = benchmarks(settings).reindex([*names]).rename(index=names)  # a dash for what was not measured
    frame.loc["in all"] = frame.sum(min_count=1).where(frame.columns != "max_rss", frame["max_rss"].max())
    shown = {"minutes": frame["s"] / 60, "peak memory (GiB)": frame["max_rss"] / 1024}
    frame = pd.DataFrame({"runs": frame["runs"].astype("Int64")} | shown).rename_axis("part")
    given = f" SEEDS={len(seeds)}" if len(seeds) > len(settings.values.get("seeds", [settings.seed])) else ""
    together = ". Trainings run one on each core, and their minutes are added up" * settings.makes_songs
    caption = (
        f"Time and memory of `make reproduce PROFILE={settings.profile}{given}`, set-up apart{together}. Only runs "
        f"behind the current results are counted: networks of seed {', '.join(map(str, seeds))}"
    )
    return table_markdown(
        frame, caption=caption, data=settings.data_title, not_comparable=not settings.comparable, digits=1
    )
