"""What a profile's study took, from the workflow's own measurements of its rules."""

from __future__ import annotations

import re

import pandas as pd

from bsm.study.figures import table_markdown
from bsm.study.profiles import Profile


def benchmarks(settings: Profile) -> pd.DataFrame:
    """Return what the workflow measured of each part: seconds, peak memory (MiB), processor seconds.

    Trainings of one network under several seeds are one part, and so are all of the ablations' variants.
    """
    columns = {"s": "sum", "max_rss": "max", "cpu_time": "sum"}
    rows = {
        path.stem: pd.read_csv(path, sep="\t", na_values="-").iloc[0][[*columns]]
        for path in sorted((settings.reports / "benchmarks").glob("*.tsv"))
    }
    frame = pd.DataFrame(rows, index=[*columns]).T.astype(float)
    return frame.groupby(frame.index.map(_part), sort=False).agg(columns)


def _part(rule: str) -> str:
    name = re.sub(r"-seed\d+$", "", rule)
    return "variants" if name.startswith("variant-") else name


def cost_table(settings: Profile) -> str:
    """Return a table of what each part took, in Markdown."""
    names = {
        "songs": "synthesise songs" if settings.makes_songs else "check songs",
        **{f"model-{name}": f"train {name}" for name in settings.backbones},
        "variants": "train variants, one on each core",
        "data_notebook": "describe the data",
        "train_notebook": "score and draw",
        "scan_notebook": "measure scan backends",
        "published_notebook": "score the published model, time it beside BS-RoFormer",
    }
    asked = {
        "scan_notebook": "scan_seconds",
        "published_notebook": "bench_seconds",
        "variants": "ablation_steps",
    }
    for rule, value in asked.items():
        if value not in settings.values:
            del names[rule]
    measured = benchmarks(settings)
    # A dash for a part that the workflow has not measured; a part that has no name here is shown by its rule's.
    frame = measured[["s", "max_rss"]].reindex([*names, *(rule for rule in measured.index if rule not in names)])
    frame.loc["in all"] = frame["s"].sum(), frame["max_rss"].max()
    frame = pd.DataFrame(
        {
            "part": [names.get(name, name) for name in frame.index],
            "minutes": (frame["s"] / 60).to_numpy(),
            "peak memory (GiB)": (frame["max_rss"] / 1024).to_numpy(),
        }
    )
    folders = (settings.data_folder, *(settings.run_folder(settings.seed, name) for name in settings.backbones))
    disk = sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
    command = f"`make reproduce PROFILE={settings.profile}`"
    caption = f"What {command} took, set-up apart, as far as measured; disk {disk / 2**30:.2f} GiB"
    return table_markdown(
        frame, caption=caption, data=settings.data_title, not_comparable=not settings.comparable, digits=1
    )
