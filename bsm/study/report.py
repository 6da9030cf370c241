"""The report of a profile, assembled from its result files: no number in it is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.files import write_text
from bsm.model import BSMamba2
from bsm.study.claims import scan_verdicts, verdict_table
from bsm.study.figures import table_markdown
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, read_result
from bsm.study.stats import interval_text, paired_difference, summary


def write_report(settings: Profile) -> Path:
    """Write ``reports/<profile>/report.md`` from the profile's results, tables and figures; return its path.

    Raises:
        InputError: a result or table is missing.
    """
    settings.write_table("cost", _cost(settings))
    results = {name: read_result(settings.result(name)) for name in ("data", "training", "scores", "real_clip")}
    results |= {
        name: read_result(settings.result(name)) for name in ("separation_speed", "scan_backends", "direct_term")
    }
    sections = [
        _scope(settings, results),
        _method(settings, results),
        _data(settings, results),
        _compute(settings, results),
        _scores(settings, results),
        _clip(settings),
        _scan(settings, results),
        _published(settings),
        _limits(results),
    ]
    return write_text(settings.reports / "report.md", "\n".join(sections))


def refresh_readme(settings: Profile, readme: Path = ROOT / "README.md") -> bool:
    """Put the profile's tables between README's markers ``<!-- table:NAME -->`` and ``<!-- end -->``.

    Returns:
        Whether anything changed.
    """
    before = text = readme.read_text(encoding="utf-8")
    position = 0
    while (start := text.find("<!-- table:", position)) >= 0:
        opened = text.index("-->", start) + len("-->")
        name = text[start + len("<!-- table:") : opened - len("-->")].strip()
        close = text.index("<!-- end -->", opened)
        text = f"{text[:opened]}\n{_table(settings, name)}{text[close:]}"
        position = text.index("<!-- end -->", opened)
    if text != before:
        write_text(readme, text)
    return text != before


def _table(settings: Profile, name: str) -> str:
    path = settings.reports / "tables" / f"{name}.md"
    if not path.is_file():
        raise InputError(f"{path}: missing; run `make reproduce PROFILE={settings.profile}` first")
    return path.read_text(encoding="utf-8")


def _figure(settings: Profile, name: str, text: str) -> str:
    if not settings.figure(name).is_file():
        raise InputError(f"{settings.figure(name)}: missing; run `make reproduce PROFILE={settings.profile}` first")
    return f"![{text}](figures/{name}.png)\n"


def _scope(settings: Profile, results: dict[str, Any]) -> str:
    revision = results["scores"]["provenance"]["git"]
    dirty = " with uncommitted changes" if revision["dirty"] else ""
    return f"""# BSMamba2, reproduced small: profile `{settings.profile}`

## Scope

This report is about a BSMamba2 (arXiv 2508.14556) that was trained and measured on one machine with synthesised
songs. It shows that the method learns, what it costs, and that every part of the study runs. It says nothing about
the paper's scores: **none of the numbers below is comparable with the paper's.** The paper's cSDR and uSDR need
MUSDB18-HQ and either the published weights or days of GPU training.

Made from revision `{revision["revision"][:12]}`{dirty}.
"""


def _method(settings: Profile, results: dict[str, Any]) -> str:
    parameters = results["training"]["parameters"]
    model, train = parameters["model"], parameters["train"]
    loss = train["loss"]
    windows = ", ".join(map(str, loss["windows"]))
    return f"""## Method

The paper's architecture at the preset `{settings.model}`: {parameters["parameters"]["total"]:,} parameters
(dim {model["dim"]}, {model["depth"]} layers, state {model["d_state"]}, {len(model["bands"])} bands, STFT of
{model["stft"]["n_fft"]} with hop {model["stft"]["hop_length"]}); the paper's model has {_paper_size():,}. The paper's
loss ({loss["waveform_weight"]:g} x waveform L1 plus complex-spectrogram L1 over windows {windows}), AdamW at
{train["lr"]:g}, gradient clip {train["clip"]:g}, averaged weights (decay {train["ema_decay"]:g}). Every training
mixture takes each stem from a random song and place, leaves it out with probability
{train["silence_probability"]:g} and scales it by {train["gain"][0]:g} to {train["gain"][1]:g}. {train["steps"]}
updates of {train["batch_size"] * train["accumulate"]} segment(s) of {train["segment_seconds"]:g} s.

{_figure(settings, "training", "Training loss and validation score")}"""


def _paper_size() -> int:
    with torch.device("meta"):  # counts without allocating
        return BSMamba2(ModelConfig.preset("paper")).parameter_counts()["total"]


def _data(settings: Profile, results: dict[str, Any]) -> str:
    share = summary([r["vocal_share"] for r in results["data"]["values"] if r["split"] == "test"])
    return f"""## Data

{_table(settings, "data")}
In the test songs somebody sings {100 * share["mean"]:.0f} % of the time (mean over songs); the stretches last from
fractions of a second to many seconds.

{_figure(settings, "data_vocal_regions", "Vocal regions and their durations")}
"""


def _compute(settings: Profile, results: dict[str, Any]) -> str:
    machine = results["training"]["provenance"]
    seconds = sum(results["training"]["values"]["seconds"])
    waited = sum(results["training"]["values"]["waited"])
    speed = results["separation_speed"]["values"]
    return f"""## Compute

Device: {machine["device"]}, {machine["threads"]} threads; PyTorch {machine["packages"]["torch"]}. The updates took
{seconds / 60:.1f} minutes, of which {100 * waited / seconds:.1f} % waiting for data. Separating a song of
{speed["audio_seconds"]:.0f} s took {speed["seconds"]:.1f} s: {speed["ratio"]:.2f} s per second of audio.

{_table(settings, "cost")}"""


def _cost(settings: Profile) -> str:
    """Table of what each part of the study took, from the workflow's own measurements of its rules."""
    names = {
        "songs": "synthesise songs",
        "model": "train",
        "data_notebook": "describe the data",
        "train_notebook": "score and draw",
        "scan_notebook": "measure scan backends",
        "published_notebook": "score the published model, time it beside BS-RoFormer",
    }
    measured = {name: settings.reports / "benchmarks" / f"{name}.tsv" for name in names}
    measured = {name: pd.read_csv(path, sep="\t").iloc[0] for name, path in measured.items() if path.is_file()}
    frame = pd.DataFrame({name: row[["s", "max_rss"]] for name, row in measured.items()}, index=["s", "max_rss"]).T
    frame = frame.astype(float).reindex(names)  # a dash for a part that the workflow has not measured
    frame.loc["in all"] = frame["s"].sum(), frame["max_rss"].max()
    frame = pd.DataFrame(
        {
            "part": [names.get(name, name) for name in frame.index],
            "minutes": (frame["s"] / 60).to_numpy(),
            "peak memory (GiB)": (frame["max_rss"] / 1024).to_numpy(),
        }
    )
    folders = (settings.data_folder, settings.run_folder(settings.seed))
    disk = sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
    command = f"`make reproduce PROFILE={settings.profile}`"
    caption = f"What {command} took, set-up apart, as far as measured; disk {disk / 2**30:.2f} GiB"
    return table_markdown(frame, caption=caption, data=settings.data_title, not_comparable=True, digits=1)


def _scores(settings: Profile, results: dict[str, Any]) -> str:
    frame = pd.DataFrame(results["scores"]["values"]).pivot(index="track", columns="separator", values="usdr")
    return f"""## Results on held-out songs

{_table(settings, "scores")}
Differences in uSDR, paired over songs, with bootstrap 95 % intervals of their mean:

{_gain(frame, "mixture")}
{_gain(frame, "silence")}

{_figure(settings, "scores", "Scores of every held-out song")}
{_figure(settings, "separation_example", "Spectrograms of a mixture, its vocals and the estimate")}"""


def _gain(frame: pd.DataFrame, baseline: str) -> str:
    gain = paired_difference(frame["BSMamba2"], frame[baseline])
    if np.isnan(gain.low):
        verdict = "too few songs to tell"
    else:
        verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "no difference seen"
    return (
        f"- BSMamba2 minus {baseline}: {gain.estimate:.2f} dB (interval {interval_text(gain.low, gain.high)}; "
        f"n = {gain.n}): {verdict}."
    )


def _clip(settings: Profile) -> str:
    return f"""## One real recording

The model has heard synthesised songs only; what it does to a real one is reported, not promised.

{_table(settings, "real_clip")}"""


def _scan(settings: Profile, results: dict[str, Any]) -> str:
    records = results["scan_backends"]["values"]["speed"]
    verdicts = scan_verdicts(results["scan_backends"]["values"], results["direct_term"]["values"])
    claims = table_markdown(
        verdict_table(verdicts),
        caption="Claims about scan and convolution; 95 % intervals",
        data="as in the tables above",
        not_comparable=True,
    )
    worst = max(record["output_error"] for record in records)
    gradients = max(error for record in records for error in record["gradient_errors"].values())
    return f"""## Scan backends

Every exact backend and yardstick against the float64 definition: the largest relative error of an output is
{worst:.1e}, of a gradient {gradients:.1e}.

{_table(settings, "scan_backends")}
{_figure(settings, "scan_backends", "Time against sequence length")}
{_table(settings, "scan_memory")}
{_table(settings, "scan_facts")}
Is the direct term `D x` dominant, as the optimisation report says, and what does a scan without state cost?

{_table(settings, "direct_term")}
{_table(settings, "feedthrough")}
What this says about the claims:

{claims}"""


def _published(settings: Profile) -> str:
    published, speed = (read_result(settings.result(name)) for name in ("published_model", "model_speed"))
    values, machine = published["values"], speed["provenance"]
    missing = "\n".join(f"- {line}" for line in values["missing"]) or "Nothing is missing."
    scores = "; ".join(f"{p['model']}: cSDR {p['csdr']:.2f}, uSDR {p['usdr']:.2f} dB" for p in values["published"])
    sizes = "; ".join(f"{name} {count:,}" for name, count in speed["values"]["parameters"].items())
    return f"""## The published model

Published ({values["published"][0]["source"]}): {scores}. Here: **{values["status"]}**.

{missing}

{_table(settings, "published_model")}
{_table(settings, "published_clip")}
## Time and memory beside BS-RoFormer

Random weights at the size `{speed["parameters"]["preset"]}`, parameters: {sizes}; {machine["device"]},
{speed["parameters"]["threads"]} threads.

{_table(settings, "model_speed")}
{_figure(settings, "model_speed", "Time and memory of both models against the length of the audio")}
{_table(settings, "model_costs")}"""


def _limits(results: dict[str, Any]) -> str:
    songs = len({record["track"] for record in results["scores"]["values"]})
    return f"""## Limits

- The songs are synthetic: a sung voice made from speech, General MIDI instruments. Real music is harder and different.
- One training run, one seed; test songs: {songs}; the intervals are over songs, not over trainings.
- The scores of the paper, and its comparison of scores with BS-RoFormer, are not tested here.
"""
