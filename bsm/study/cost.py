"""What a profile's study took, from the workflow's own measurements of its rules."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from bsm.study.figures import table_markdown
from bsm.study.notebook import study_notebooks
from bsm.study.profiles import Profile
from bsm.study.records import read_result

_SEED = re.compile(r"-seed\d+$")


def benchmarks(settings: Profile) -> pd.DataFrame:
    """Return what the workflow measured of each part: seconds, peak memory (MiB), processor seconds, number of runs.

    Only measurements behind the present results count; the folder also keeps those of rules, seeds and variants that
    the study no longer has. Trainings of one network under several seeds are one part, and so are all variants of the
    ablations. Some run at the same time, one on each core, so the sum exceeds the time that passed. Processor seconds
    are sampled and therefore too low: processes that end between two samples are missing.
    """
    columns = {"s": "sum", "max_rss": "max", "cpu_time": "sum"}
    trained, parts = _trained(settings), part_names(settings)
    rows = {
        path.stem: pd.read_csv(path, sep="\t", na_values="-").iloc[0][[*columns]]
        for path in sorted((settings.reports / "benchmarks").glob("*.tsv"))
        if path.stem in (trained if _SEED.search(path.stem) else parts)
    }
    frame = pd.DataFrame(rows, index=[*columns]).T.astype(float)
    grouped = frame.groupby(frame.index.map(_part), sort=False)
    return grouped.agg(columns).assign(runs=grouped.size())


def seeds_of(settings: Profile) -> list[int]:
    """Return the seeds of the networks behind the present results, the profile's own seed first."""
    return list(dict.fromkeys([settings.seed, *_given(settings, "networks", "seeds")]))


def _trained(settings: Profile) -> set[str]:
    """Return the names of the present results' trainings."""
    names = {f"model-{name}-seed{seed}" for name in settings.backbones for seed in seeds_of(settings)}
    return names | {f"variant-{w['variant']}-seed{w['seed']}" for w in _given(settings, "variants", "weights")}


def _given(settings: Profile, needs: str, parameter: str) -> list[Any]:
    """Gather the values of a list parameter from the results of all notebooks that need one kind of trainings."""
    names = [name for nb in study_notebooks() if nb.about["needs"] == needs for name in nb.saved("values")]
    paths = [path for path in map(settings.result, names) if path.is_file()]
    return [item for path in paths for item in read_result(path)["parameters"][parameter]]


def _part(rule: str) -> str:
    name = _SEED.sub("", rule)
    return "variants" if name.startswith("variant-") else name


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
    folders = (settings.data_folder, *(settings.run_folder(settings.seed, name) for name in settings.backbones))
    disk = sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
    given = f" SEEDS={len(seeds)}" if len(seeds) > len(settings.values.get("seeds", [settings.seed])) else ""
    together = ". Trainings run one on each core, and their minutes are added up" * settings.makes_songs
    caption = (
        f"Time and memory of `make reproduce PROFILE={settings.profile}{given}`, set-up apart{together}. Only runs "
        f"behind the current results are counted: networks of seed {', '.join(map(str, seeds))}"
        + f". Disk: {disk / 2**30:.2f} GiB"
        * bool(disk)  # songs and models may be elsewhere by now
    )
    return table_markdown(
        frame, caption=caption, data=settings.data_title, not_comparable=not settings.comparable, digits=1
    )
