"""What a profile's study took, from the workflow's own measurements of its rules."""

from __future__ import annotations

import re

import pandas as pd

from bsm.study.figures import table_markdown
from bsm.study.profiles import Profile
from bsm.study.records import read_result

_SEED = re.compile(r"-seed\d+$")


def benchmarks(settings: Profile) -> pd.DataFrame:
    """Return what the workflow measured of each part: seconds, peak memory (MiB), processor seconds, number of runs.

    Only those count that the present results come of: measurements of a rule, seed or variant that the study no longer
    has stay in the folder. Trainings of one network under several seeds are one part, and so are all of the ablations'
    variants. Some run at the same time, one on each core, so that the sum is more than the time that passed. Processor
    seconds are sampled, and so too few: processes that end between two samples are missing.
    """
    columns = {"s": "sum", "max_rss": "max", "cpu_time": "sum"}
    trained, rules = _trained(settings), _names(settings)
    rows = {
        path.stem: pd.read_csv(path, sep="\t", na_values="-").iloc[0][[*columns]]
        for path in sorted((settings.reports / "benchmarks").glob("*.tsv"))
        if path.stem in (trained if _SEED.search(path.stem) else rules)
    }
    frame = pd.DataFrame(rows, index=[*columns]).T.astype(float)
    parts = frame.groupby(frame.index.map(_part), sort=False)
    return parts.agg(columns).assign(runs=parts.size())


def seeds_of(settings: Profile) -> list[int]:
    """Return the seeds of the networks' trainings that the present results come of, the profile's own first."""
    seeds = [settings.seed]
    for name in ("input_length", "vocal_occurrence"):
        if (path := settings.result(name)).is_file():
            seeds += read_result(path)["parameters"]["seeds"]
    return list(dict.fromkeys(seeds))


def _trained(settings: Profile) -> set[str]:
    """Return the names of the present results' trainings."""
    names = {f"model-{name}-seed{seed}" for name in settings.backbones for seed in seeds_of(settings)}
    for name in ("ablation_stft", "ablation_size") if "ablation_steps" in settings.values else ():
        if (path := settings.result(name)).is_file():
            weights = read_result(path)["parameters"]["weights"]
            names |= {f"variant-{w['variant']}-seed{w['seed']}" for w in weights}
    return names


def _part(rule: str) -> str:
    name = _SEED.sub("", rule)
    return "variants" if name.startswith("variant-") else name


def _names(settings: Profile) -> dict[str, str]:
    """Return what each part of the profile's study does, by rule, trainings of a network and of the variants as one."""
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
    return names


def cost_table(settings: Profile) -> str:
    """Return a table of what each part took, in Markdown."""
    names, measured, seeds = _names(settings), benchmarks(settings), seeds_of(settings)
    frame = measured[["s", "max_rss", "runs"]].reindex([*names])  # a dash for what the workflow has not measured
    frame.loc["in all"] = frame["s"].sum(min_count=1), frame["max_rss"].max(), frame["runs"].sum(min_count=1)
    frame = pd.DataFrame(
        {
            "part": [names.get(name, name) for name in frame.index],  # the last is the sum
            "runs": frame["runs"].to_numpy(),
            "minutes": (frame["s"] / 60).to_numpy(),
            "peak memory (GiB)": (frame["max_rss"] / 1024).to_numpy(),
        }
    )
    folders = (settings.data_folder, *(settings.run_folder(settings.seed, name) for name in settings.backbones))
    disk = sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
    given = f" SEEDS={len(seeds)}" if len(seeds) > len(settings.values.get("seeds", [settings.seed])) else ""
    command = f"`make reproduce PROFILE={settings.profile}{given}`"
    together = "; trainings of synthesised songs run one on each core, and their minutes are added up"
    caption = (
        f"What {command} took, set-up apart, as far as measured{together * settings.makes_songs}; "
        f"counted is what the present results come of (networks of seed {', '.join(map(str, seeds))}); "
        f"disk {disk / 2**30:.2f} GiB"
    )
    return table_markdown(
        frame, caption=caption, data=settings.data_title, not_comparable=not settings.comparable, digits=1
    )
