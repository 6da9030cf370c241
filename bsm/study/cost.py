"""What a profile's study took, from the workflow's own measurements of its rules."""

from __future__ import annotations

import re

import pandas as pd

from bsm.study.figures import table_markdown
from bsm.study.profiles import Profile


def benchmarks(settings: Profile) -> pd.DataFrame:
    """Return what the workflow measured of each part: seconds, peak memory (MiB), processor seconds, number of runs.

    Trainings of one network under several seeds are one part, and so are all of the ablations' variants. Some run at
    the same time, one on each core, so that the sum is more than the time that passed. Processor seconds are sampled,
    and so too few: processes that end between two samples are missing.
    """
    columns = {"s": "sum", "max_rss": "max", "cpu_time": "sum"}
    rows = {
        path.stem: pd.read_csv(path, sep="\t", na_values="-").iloc[0][[*columns]]
        for path in sorted((settings.reports / "benchmarks").glob("*.tsv"))
    }
    frame = pd.DataFrame(rows, index=[*columns]).T.astype(float)
    parts = frame.groupby(frame.index.map(_part), sort=False)
    return parts.agg(columns).assign(runs=parts.size())


def _part(rule: str) -> str:
    name = re.sub(r"-seed\d+$", "", rule)
    return "variants" if name.startswith("variant-") else name


def cost_table(settings: Profile) -> str:
    """Return a table of what each part took, in Markdown."""
    names = {
        "songs": "synthesise songs" if settings.makes_songs else "check songs",
        **{f"model-{name}": f"train {name}" for name in settings.backbones},
        "variants": "train variants",
        "data_notebook": "describe the data",
        "train_notebook": "score and draw",
        "scan_notebook": "measure scan backends",
        "published_notebook": "score the published model, time it beside BS-RoFormer",
        "stft_ablation_notebook": "ablation of the loss: score and draw",
        "size_ablation_notebook": "ablation of size and design: score and draw",
        "step_notebook": "measure a training step",
        "input_length_notebook": "score by input length",
        "occurrence_notebook": "score by vocal occurrence",
        "data_loading": "measure data loading",
    }
    asked = {
        "scan_notebook": "scan_seconds",
        "published_notebook": "bench_seconds",
        "step_notebook": "step_seconds",
        **dict.fromkeys(("variants", "stft_ablation_notebook", "size_ablation_notebook"), "ablation_steps"),
        "data_loading": "train_songs",
    }
    for rule, value in asked.items():
        if value not in settings.values:
            del names[rule]
    measured = benchmarks(settings)
    # A dash for a part that the workflow has not measured; a part that has no name here is shown by its rule's.
    rules = [*names, *(rule for rule in measured.index if rule not in names)]
    frame = measured[["s", "max_rss", "runs"]].reindex(rules)
    frame.loc["in all"] = frame["s"].sum(min_count=1), frame["max_rss"].max(), frame["runs"].sum(min_count=1)
    frame = pd.DataFrame(
        {
            "part": [names.get(name, name) for name in frame.index],
            "runs": frame["runs"].to_numpy(),
            "minutes": (frame["s"] / 60).to_numpy(),
            "peak memory (GiB)": (frame["max_rss"] / 1024).to_numpy(),
        }
    )
    folders = (settings.data_folder, *(settings.run_folder(settings.seed, name) for name in settings.backbones))
    disk = sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
    seeds = measured["runs"].reindex([f"model-{name}" for name in settings.backbones]).max()  # NaN: none measured
    given = f" SEEDS={seeds:.0f}" if seeds > len(settings.values.get("seeds", [settings.seed])) else ""
    command = f"`make reproduce PROFILE={settings.profile}{given}`"
    together = "; trainings of synthesised songs run one on each core, and their minutes are added up"
    caption = (
        f"What {command} took, set-up apart, as far as measured{together * settings.makes_songs}; "
        f"disk {disk / 2**30:.2f} GiB"
    )
    return table_markdown(
        frame, caption=caption, data=settings.data_title, not_comparable=not settings.comparable, digits=1
    )
