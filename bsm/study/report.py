"""The report of a profile, assembled from its result files: no number in it is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bsm.config import ModelConfig
from bsm.errors import InputError
from bsm.files import write_text
from bsm.model import BSMamba2
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, read_result
from bsm.study.stats import paired_difference, summary


def write_report(settings: Profile) -> Path:
    """Write ``reports/<profile>/report.md`` from the profile's results, tables and figures; return its path.

    Raises:
        InputError: a result or table is missing.
    """
    results = {name: read_result(settings.result(name)) for name in ("data", "training", "scores", "real_clip")}
    results |= {name: read_result(settings.result(name)) for name in ("separation_speed", "scan_backends")}
    sections = [
        _scope(settings, results),
        _method(settings, results),
        _data(settings, results),
        _compute(results),
        _scores(settings, results),
        _clip(settings),
        _scan(settings, results),
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


def _compute(results: dict[str, Any]) -> str:
    machine = results["training"]["provenance"]
    seconds = sum(results["training"]["values"]["seconds"])
    waited = sum(results["training"]["values"]["waited"])
    speed = results["separation_speed"]["values"]
    return f"""## Compute

Device: {machine["device"]}, {machine["threads"]} threads; PyTorch {machine["packages"]["torch"]}. Training took
{seconds / 60:.1f} minutes, of which {100 * waited / seconds:.1f} % waiting for data. Separating a song of
{speed["audio_seconds"]:.0f} s took {speed["seconds"]:.1f} s: {speed["ratio"]:.2f} s per second of audio.
"""


def _scores(settings: Profile, results: dict[str, Any]) -> str:
    frame = pd.DataFrame(results["scores"]["values"]).pivot(index="track", columns="separator", values="usdr")
    parts = []
    for baseline in ("mixture", "silence"):
        gain = paired_difference(frame["BSMamba2"], frame[baseline])
        verdict = "" if gain.low > 0 or gain.high < 0 else " (no difference seen)"
        parts.append(
            f"{gain.estimate:.2f} dB [{gain.low:.2f}, {gain.high:.2f}] better than the {baseline} as estimate{verdict}"
        )
    return f"""## Results on held-out songs

{_table(settings, "scores")}
Paired over the {len(frame)} songs, the model's uSDR is {" and ".join(parts)}; brackets are bootstrap 95 % intervals.

{_figure(settings, "scores", "Scores of every held-out song")}
{_figure(settings, "separation_example", "Spectrograms of a mixture, its vocals and the estimate")}"""


def _clip(settings: Profile) -> str:
    return f"""## One real recording

The model has heard synthesised songs only; what it does to a real one is reported, not promised.

{_table(settings, "real_clip")}"""


def _scan(settings: Profile, results: dict[str, Any]) -> str:
    worst = max(record["output_error"] for record in results["scan_backends"]["values"])
    return f"""## Scan backends

Exact backends against the float64 definition: the largest relative error of an output is {worst:.1e}.

{_table(settings, "scan_backends")}
{_figure(settings, "scan_backends", "Time against sequence length")}"""


def _limits(results: dict[str, Any]) -> str:
    songs = len({record["track"] for record in results["scores"]["values"]})
    return f"""## Limits

- The songs are synthetic: a sung voice made from speech, General MIDI instruments. Real music is harder and different.
- One training run, one seed, {songs} test songs: the intervals are over songs, not over trainings.
- The scores of the paper, and its comparison with BS-RoFormer, are not tested here.
"""
