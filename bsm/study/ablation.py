"""Scores of the ablations' variants, each compared with the base trained alike, paired over songs and seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import nn
from tqdm import tqdm

from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.inference import separate
from bsm.metrics import usdr
from bsm.stats import Interval
from bsm.study.compare import corrected, paired, table, tidy, words
from bsm.study.figures import COLOURS, HOLLOW, draw_interval
from bsm.study.profiles import Profile
from bsm.study.subjects import card_of, trained_alike
from bsm.study.variants import BASE, VARIANTS, changed
from bsm.weights.files import load_model


@dataclass(frozen=True)
class Trained:
    """A variant's model.

    Attributes:
        variant: its name.
        seed: of the training.
        path: the weights' file.
        network: the model, in evaluation mode.
    """

    variant: str
    seed: int
    path: Path
    network: nn.Module


def load(settings: Profile, names: Sequence[str], seeds: Sequence[int]) -> list[Trained]:
    """Load the variants' models, under every seed.

    Raises:
        InputError: one that is not trained yet, or that was not trained by the same recipe version on the same
            songs as the others; it says how to.
    """
    found = []
    for name in names:
        for seed in seeds:
            path = settings.run_folder(seed, name) / "model.safetensors"
            if not path.is_file():
                command = f"bsm train {settings.profile} --variant {name} --seed {seed}"
                raise InputError(f"{path}: not trained yet; run `{command}` first")
            found.append((name, seed, path))
    trained_alike(settings, [path for *_, path in found], seeds)
    return [Trained(name, seed, path, load_model(path)) for name, seed, path in found]


def recipe(found: Sequence[Trained]) -> TrainConfig:
    """Return the base's training as its weights' card records it, whatever a profile or parameter says by now.

    Args:
        found: of :func:`load`, the base first.

    Raises:
        InputError: weights without a card, or that were not trained like the base but for seed and variant.
    """
    base = _recorded(found[0])
    for model in found:
        own = _recorded(model).to_dict()
        expected = changed(model.variant, ModelConfig(), base)[1].to_dict()
        compared = set(expected) - {"seed", *NO_EFFECT}
        if other := sorted(name for name in compared if own[name] != expected[name]):
            raise InputError(f"{model.path}: not trained as the base was; another: {', '.join(other)}; train it again")
    return base


def _recorded(model: Trained) -> TrainConfig:
    if not (card := card_of(model.path)):
        place = model.path.with_suffix(".json")
        raise InputError(f"{place}: not there, which records the training of the weights beside it; train them again")
    return TrainConfig.from_dict(card["train"])


def scores(found: Sequence[Trained], tracks: Sequence[Track], window: float) -> list[dict[str, Any]]:
    """Separate and score every song with every model.

    Args:
        found: the models.
        tracks: the songs.
        window: s that a model sees at a time.

    Returns:
        One record each: ``track``, ``variant``, ``seed``, ``usdr`` (dB).
    """
    records = []
    with tqdm(total=len(tracks) * len(found), desc="score variants", unit="song") as bar:
        for track in tracks:
            mixture, vocals = torch.from_numpy(track.mixture()), track.read(VOCALS)
            for model in found:
                estimate = separate(model.network, mixture, track.rate, window=window).numpy()
                own = {"track": track.name, "variant": model.variant, "seed": model.seed}
                records.append(own | {"usdr": usdr(vocals, estimate)})
                bar.update()
    return records


def differences(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare every variant with the base, paired over songs and seeds.

    Args:
        records: of :func:`scores`, or as a result file holds them.

    Returns:
        One record of :func:`bsm.study.compare.paired` per ``variant``; verdicts are corrected for their number.
    """
    tables = {name: table(own, "usdr") for name, own in tidy(records).groupby("system", sort=False)}
    return corrected([{"variant": name} | paired(own, tables[BASE]) for name, own in tables.items() if name != BASE])


def score_table(
    records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], parameters: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """List variants' mean uSDR and difference from the base, the base first and then the worst.

    Args:
        records: of :func:`scores`.
        rows: of :func:`differences`, of the variants to list.
        parameters: number of each variant's, where they are to be shown.
    """
    tables = {name: table(own, "usdr") for name, own in tidy(records).groupby("system", sort=False)}
    gains = {BASE: None} | {row["variant"]: row for row in sorted(rows, key=lambda row: row["estimate"])}
    lines = []
    for name, gain in gains.items():
        line = {"change": VARIANTS[name].asks if name in VARIANTS else name}
        line |= {"parameters": parameters[name]} if parameters else {}
        line["uSDR (dB)"] = paired(tables[name])["estimate"]
        lines.append(line | {"difference (dB)": words(gain), "reads": gain["verdict"] if gain else "–"})
    return pd.DataFrame(lines)


def deviations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, of :func:`differences`, those of choices that the unofficial implementation makes, costliest first."""
    return sorted((row for row in rows if VARIANTS[row["variant"]].described), key=lambda row: row["estimate"])


def draw(ax: Axes, records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Draw each variant's difference with its interval, and each song's as a point, seeds averaged.

    A difference of too few songs for an interval is hollow.
    """
    tables = {name: table(own, "usdr") for name, own in tidy(records).groupby("system", sort=False)}
    base = tables[BASE]
    ax.axvline(0, color="0.4", linewidth=0.8)
    for y, row in enumerate(rows):
        songs = (tables[row["variant"]] - base).mean(axis=1, skipna=False)
        ax.plot(songs, np.full(len(songs), y - 0.22), "o", color=COLOURS["blue"], alpha=0.5, markersize=3.5)
        draw_interval(ax, y, Interval.of(row), across=True)
    labels = [textwrap.fill(VARIANTS[row["variant"]].asks, 38) for row in rows]
    ax.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.5))
    seeds = base.shape[1]
    title = f"points: {len(base)} songs" + (f", means of {seeds} trainings" if seeds > 1 else "")
    hollow = f"\n{HOLLOW}" if any(np.isnan(Interval.of(row).low) for row in rows) else ""
    ax.set(xlabel=f"uSDR against the paper's design (dB){hollow}", title=f"{title}; bars: 95 %")


def gain_of(rows: Sequence[dict[str, Any]], variant: str) -> Interval | None:
    """Return a variant's difference from the base, None where it was not trained."""
    row = next((r for r in rows if r["variant"] == variant), None)
    return row and Interval.of(row)
