"""The measured results in a profile's report, a section per subject, made of its tables, figures and result files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from bsm.errors import InputError
from bsm.stats import crossed_interval, interval_text, verdict
from bsm.study.profiles import Profile
from bsm.study.provenance import Contents, contents
from bsm.study.records import ROOT, read_result
from bsm.study.subjects import song_of

NOTEBOOKS = ROOT / "notebooks"
LONG = "speed"
"""Under ``reports``: what notebook 04 measures over longer passes than any profile has time for, called by hand."""
_OWN_SECTION = ("00_data", "01_train", "02_scan_backends", "03_report", "04_published_model")


def table(settings: Profile, name: str) -> str:
    """Return a table of the profile, in Markdown."""
    path = settings.reports / "tables" / f"{name}.md"
    if not path.is_file():
        raise InputError(f"{path}: missing; run `make reproduce PROFILE={settings.profile}` first")
    return path.read_text(encoding="utf-8")


def figure(settings: Profile, name: str, text: str, folder: Path | None = None) -> str:
    """Return a figure of the profile as a link in Markdown, with its alternative text, for its report or another."""
    path = settings.figure(name)
    if not path.is_file():
        raise InputError(f"{path}: missing; run `make reproduce PROFILE={settings.profile}` first")
    return f"![{text}]({Path(os.path.relpath(path, folder or settings.reports)).as_posix()})\n"


def scores(settings: Profile, results: dict[str, Any]) -> str:
    """Return scores of the trained model on held-out songs and on one real recording."""
    frame = pd.DataFrame(results["scores"]["values"]).pivot(index="track", columns="separator", values="usdr")
    songs, others = [song_of(track) for track in frame.index], ("BS-RoFormer", "mixture", "silence")
    gains = "\n".join(_gain(frame["BSMamba2"] - frame[name], name, songs) for name in others if name in frame)
    return f"""### Scores on held-out songs

{table(settings, "scores")}
Differences in uSDR, paired over songs, of one training each, with bootstrap 95 % intervals of their mean:

{gains}

{figure(settings, "scores", "Scores of every held-out song")}
{figure(settings, "separation_example", "Spectrograms of a mixture, its vocals and the estimate")}
### One real recording

What a model trained on {settings.data_title} does to it is reported, not promised.

{table(settings, "real_clip")}"""


def _gain(gains: pd.Series, baseline: str, songs: list[str]) -> str:
    gain = crossed_interval(gains.to_frame(), songs)
    parts = f" of {len(set(songs))} songs" if len(set(songs)) < len(songs) else ""
    return (
        f"- BSMamba2 minus {baseline}: {gain.estimate:.2f} dB (interval {interval_text(gain.low, gain.high)}; "
        f"n = {gain.n}{parts}): {verdict(gain)}."
    )


def scan(settings: Profile, results: dict[str, Any]) -> str:
    """Return the measurements of the scan backends."""
    records = results["scan_backends"]["values"]["speed"]
    worst = max(record["output_error"] for record in records)
    gradients = max(error for record in records for error in record["gradient_errors"].values())
    trained = table(settings, "scan_training") if settings.result("scan_training").is_file() else ""
    return f"""### Scan backends

Every exact backend and yardstick against the float64 definition: the largest relative error of an output is
{worst:.1e}, of a gradient {gradients:.1e}.

{table(settings, "scan_backends")}
{figure(settings, "scan_backends", "Time against sequence length")}
{table(settings, "scan_memory")}
{table(settings, "scan_facts")}
Is the direct term `D x` dominant, as the optimisation report says, and what does a scan without state cost?

{table(settings, "direct_term")}
{table(settings, "feedthrough")}
{trained}"""


def published(settings: Profile, results: dict[str, Any]) -> str:
    """Return the published model's part, and what a pass costs beside BS-RoFormer."""
    values, speed = results["published_model"]["values"], results["model_speed"]
    missing = "\n".join(f"- {line}" for line in values["missing"]) or "Nothing is missing."
    scores = "; ".join(f"{p['model']}: cSDR {p['csdr']:.2f}, uSDR {p['usdr']:.2f} dB" for p in values["published"])
    longer, long = "", Profile({"profile": LONG})
    if (path := long.result("model_speed")).is_file():
        longer = f"\n#### Over longer passes\n\n{_speed(long, read_result(path), settings.reports)}"
    return f"""### The published model

Published ({values["published"][0]["source"]}): {scores}. Here: **{values["status"]}**.

{missing}

{table(settings, "published_model")}
{table(settings, "published_clip")}
### Time and memory beside BS-RoFormer

{_speed(settings, speed, settings.reports)}{longer}"""


def _speed(settings: Profile, speed: dict[str, Any], folder: Path) -> str:
    sizes = "; ".join(f"{name} {count:,}" for name, count in speed["values"]["parameters"].items())
    made = speed["provenance"]
    changed = " with uncommitted changes" * bool(made["git"]["dirty"])
    return f"""Random weights at the size `{speed["parameters"]["preset"]}`, parameters: {sizes};
{made["device"]}, {speed["parameters"]["threads"]} threads; revision `{made["git"]["revision"][:12]}`{changed}.

{table(settings, "model_speed")}
{figure(settings, "model_speed", "Time and memory of both models against the length of the audio", folder)}
{table(settings, "model_costs")}"""


def files(settings: Profile) -> list[Path]:
    """Return the result files that the report is made of: the profile's, and those that stand beside or are longer."""
    found = [*settings.reports.glob("results/*.json")]
    for other in _others(settings):
        found += [other.result(name) for parts in _further(settings) for name in parts.results]
    if "bench_seconds" in settings.values:
        found.append(Profile({"profile": LONG}).result("model_speed"))
    return [path for path in found if path.is_file()]


def further(settings: Profile) -> list[str]:
    """Return a section for each further notebook that this profile has results of: its tables and figures.

    Those of the profiles that it names as ``beside``, where they have the notebook's results, follow its own.
    """
    others, sections = _others(settings), []
    for parts in _further(settings):
        lines = [f"### {parts.title}\n", *_parts(settings, parts, settings.reports)]
        for other in others:
            if _has(other, parts):
                lines += [f"#### Beside it: {other.data_title}\n", *_parts(other, parts, settings.reports)]
        sections.append("\n".join(lines))
    return sections


def _others(settings: Profile) -> list[Profile]:
    return [Profile.load(name) for name in settings.values.get("beside", [])]


def _further(settings: Profile) -> list[Contents]:
    """Return what each notebook makes that has no section of its own, as far as the profile has results of it."""
    notebooks = (notebook for notebook in sorted(NOTEBOOKS.glob("*.ipynb")) if notebook.stem not in _OWN_SECTION)
    return [parts for parts in map(contents, notebooks) if _has(settings, parts)]


def _has(settings: Profile, parts: Contents) -> bool:
    return any(settings.result(name).is_file() for name in parts.results)


def _parts(settings: Profile, parts: Contents, folder: Path) -> list[str]:
    tables = [table(settings, name) for name in parts.tables]
    return tables + [figure(settings, name, name.replace("_", " "), folder) for name in parts.figures]
