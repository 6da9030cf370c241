"""The report of a profile, assembled from its result files: no number in it is typed by hand."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from bsm.config import ModelConfig
from bsm.files import write_text
from bsm.model import BSMamba2
from bsm.study import ledger
from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, REPRODUCED, STATUSES, UNTESTED
from bsm.study.cost import benchmarks, cost_table
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, read_result
from bsm.study.report_results import figure, files, further, published, scan, scores, table
from bsm.study.stats import summary

_RESULTS = ("data", "training", "scores", "real_clip", "separation_speed")
_SCAN = ("scan_backends", "direct_term")
_PUBLISHED = ("published_model", "model_speed")


def write_report(settings: Profile) -> Path:
    """Write ``reports/<profile>/report.md`` from the profile's results, tables and figures; return its path.

    Its sections are those of reproducibility reports. Notebooks beyond those that every profile runs add theirs to the
    results where the profile has them; a profile that names no lengths for the measurements of scan and models, which
    depend on no data set, goes without those.

    Raises:
        InputError: a result or table is missing.
    """
    settings.write_table("cost", cost_table(settings))
    measured = _SCAN * ("scan_seconds" in settings.values) + _PUBLISHED * ("bench_seconds" in settings.values)
    results = {name: read_result(settings.result(name)) for name in (*_RESULTS, *measured)}
    claims = ledger.evaluated(ledger.load(), settings.profile)
    sections = [
        _scope(settings, claims),
        _method(settings, results),
        _data(settings, results),
        _compute(settings, results),
        _claims(settings, claims),
        scores(settings, results),
        *([scan(settings, results)] if _SCAN[0] in results else []),
        *([published(settings, results)] if _PUBLISHED[0] in results else []),
        *further(settings),
        _verdict(results, claims),
        _limits(settings, results, claims),
    ]
    return write_text(settings.reports / "report.md", "\n".join(sections))


def _revisions(settings: Profile, claims: list[ledger.Row]) -> str:
    """Return, as a list, the revisions that the report's and the claims' results were made at, and which at which."""
    made = defaultdict(list)
    for path in sorted({*files(settings), *(ROOT / name for row in claims for name in row["result"])}):
        git, folder = read_result(path)["provenance"]["git"], path.parent.parent
        name = path.stem if folder == settings.reports else f"{folder.name}/{path.stem}"
        made[f"`{git['revision'][:12]}`{' with uncommitted changes' * bool(git['dirty'])}"].append(name)
    return "\n".join(f"- {revision}: {', '.join(names)}" for revision, names in made.items())


def _scope(settings: Profile, claims: list[ledger.Row]) -> str:
    paper = (
        "Data and model are the paper's, and so are its scores comparable."
        if settings.comparable
        else "It says nothing about the paper's scores: **none of the numbers below is comparable with the paper's.** "
        "The paper's cSDR and uSDR need MUSDB18-HQ and either the published weights or days of GPU training."
    )
    return f"""# BSMamba2, reproduced: profile `{settings.profile}`

## Scope and claims

This report is about a BSMamba2 (arXiv 2508.14556) that was trained and measured on one machine. Data:
{settings.data_title}. It shows whether the method learns, what it costs, and that every part of the study runs. {paper}

Judged here, by rules, from this profile's results: {ledger.tally(claims)}. They are claims of the paper, of a guide to
it, and of reports on an unofficial implementation; each is listed under "Results per claim".

Results, by the revision of the code that made them:

{_revisions(settings, claims)}
"""


def _method(settings: Profile, results: dict[str, Any]) -> str:
    parameters = results["training"]["parameters"]
    model, train = parameters["model"], parameters["train"]
    loss = train["loss"]
    others = [
        f" Beside it, trained alike on the same segments: {name}, {other['parameters']['total']:,} parameters."
        for name, other in parameters.get("others", {}).items()
    ]
    windows = ", ".join(map(str, loss["windows"]))
    return f"""## Method, and what could not be known

The paper's architecture at the preset `{settings.model}`: {parameters["parameters"]["total"]:,} parameters
(dim {model["dim"]}, {model["depth"]} layers, state {model["d_state"]}, {len(model["bands"])} bands, STFT of
{model["stft"]["n_fft"]} with hop {model["stft"]["hop_length"]}); the paper's model has {_paper_size():,}. The paper's
loss ({loss["waveform_weight"]:g} x waveform L1 plus complex-spectrogram L1 over windows {windows}), AdamW at
{train["lr"]:g}, gradient clip {train["clip"]:g}, averaged weights (decay {train["ema_decay"]:g}). Every training
mixture takes each stem from a random song and place, leaves it out with probability
{train["silence_probability"]:g} and scales it by {train["gain"][0]:g} to {train["gain"][1]:g}. {train["steps"]}
updates of {train["batch_size"] * train["accumulate"]} segment(s) of {train["segment_seconds"]:g} s.{"".join(others)}

{figure(settings, "training", "Training loss and validation score")}
What could not be known from the paper, its public code and the documents at hand:

- which statistic over songs the published cSDR is (mean or median): both are given wherever cSDR is;
- how far the published scores vary from training to training: no seeds and no intervals are published;
- the paper's own tables by input length and by vocal occurrence, which could not be read;
- the weights behind the published scores, and under which licence they may be used;
- on which machine, after how many warm-up rounds and with what else running the claimed seconds were taken: no speed
  figure of the optimisation and integration reports comes with a measurement.
"""


def _paper_size() -> int:
    with torch.device("meta"):  # counts without allocating
        return BSMamba2(ModelConfig.preset("paper")).parameter_counts()["total"]


def _data(settings: Profile, results: dict[str, Any]) -> str:
    share = summary([r["vocal_share"] for r in results["data"]["values"] if r["split"] == "test"])
    return f"""## Data

{table(settings, "data")}
In the test songs somebody sings {100 * share["mean"]:.0f} % of the time (mean over songs); the stretches last from
fractions of a second to many seconds.

{figure(settings, "data_vocal_regions", "Vocal regions and their durations")}
"""


def _compute(settings: Profile, results: dict[str, Any]) -> str:
    machine = results["training"]["provenance"]
    seconds = sum(results["training"]["values"]["seconds"])
    waited = sum(results["training"]["values"]["waited"])
    speed = results["separation_speed"]["values"]
    measured = benchmarks(settings)
    again = f"\n{table(settings, 'repeat')}" if settings.result("repeat").is_file() else ""
    hours, processor = (measured[name].sum() / 3600 for name in ("s", "cpu_time"))
    took = "Time and processor time in all: not measured by the workflow."
    if len(measured):
        took = (
            f"The workflow's rules, as far as it measured them, took {hours:.2f} hours added up, which is not the time "
            f"that passed: some ran beside each other. Processor time: {processor:.2f} hours, as Snakemake samples it, "
            "which misses short processes and the last seconds of each rule."
        )
    return f"""## Compute

Machine: {machine["device"]}, {machine["threads"]} threads, {machine["platform"]}; PyTorch
{machine["packages"]["torch"]}. {took} Energy: not measured. The updates took {seconds / 60:.1f} minutes,
of which {100 * waited / seconds:.1f} % waiting for data. Separating a song of {speed["audio_seconds"]:.0f} s took
{speed["seconds"]:.1f} s: {speed["ratio"]:.2f} s per second of audio.

{table(settings, "cost")}{again}"""


def _claims(settings: Profile, claims: list[ledger.Row]) -> str:
    lines = [f"- `{row['id']}`, **{row['status']}**: {row['why']}." for row in claims]
    return f"""## Results per claim

{ledger.short_table(claims)}
Why, and what was not covered:

{chr(10).join(lines)}
"""


def _verdict(results: dict[str, Any], claims: list[ledger.Row]) -> str:
    by_status = defaultdict(list)
    for row in claims:
        by_status[row["status"]].append(row)

    def listed(status: str) -> str:
        rows = [f"- {r['claim']}. Measured: {r['measured'] or r['why']}." for r in by_status[status]]
        return "\n".join(rows) or "- None."

    missing = "- This profile does not test them: data and weights are other ones."
    if "published_model" in results:
        missing = "\n".join(f"- {line}" for line in results["published_model"]["values"]["missing"])
    return f"""## What agreed, what did not, what was easy, what was difficult

What agreed:

{listed(REPRODUCED)}

What did not:

{listed(CONTRADICTED)}

What agreed in part, or could be measured in part:

{listed(PARTLY)}

What was easy: the author's code settles architecture, loss, sampling and evaluation, so that the model's size could be
met to the last parameter ({_paper_size():,}) and its loss value for value; the scan has a definition of a few lines to
test every faster form against; a small model learns on a processor alone.

What was difficult: to find out what exactly is claimed, as the same figures come with different baselines and none with
a measurement; to time fairly, as the loop that everything is compared with can be written well or badly; to test the
published scores, which lack:

{missing or "- Nothing."}
"""


def _limits(settings: Profile, results: dict[str, Any], claims: list[ledger.Row]) -> str:
    songs = len({record["track"] for record in results["scores"]["values"]})
    count = {status: sum(row["status"] == status for row in claims) for status in STATUSES}
    synthetic = (
        "The songs are synthetic: a sung voice made from speech, General MIDI instruments. Real music is harder."
    )
    return f"""## Limits

{f"- {synthetic}{chr(10)}" * settings.makes_songs}- The scores on held-out songs are of one training run, of one seed;
  test songs: {songs}; the intervals are over songs, not over trainings.
- Times and memory are one machine's; ratios are taken within one run.
- Of {len(claims)} claims, {count[BLOCKED]} need what is not at hand, and {count[UNTESTED]} were not tested.
"""
