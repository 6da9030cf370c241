"""Scores of the ablations' variants, each compared with the base trained alike, paired over songs and seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import nn
from tqdm import tqdm

from bsm.config import ModelConfig, TrainConfig
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.inference import separate
from bsm.metrics import usdr
from bsm.stats import Interval, crossed_interval, interval_text, verdict
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
        own = _recorded(model).replace(seed=base.seed, workers=base.workers).to_dict()
        expected = changed(model.variant, ModelConfig(), base)[1].to_dict()
        if other := [name for name, value in expected.items() if own[name] != value]:
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


def table_of(records: Sequence[dict[str, Any]], variant: str) -> pd.DataFrame:
    """Return a variant's uSDR in dB, a row per song, a column per seed."""
    frame = pd.DataFrame([r for r in records if r["variant"] == variant])
    return frame.astype({"usdr": float}).pivot(index="track", columns="seed", values="usdr")


def differences(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare every variant with the base, paired over songs and seeds.

    Args:
        records: of :func:`scores`, or as a result file holds them.

    Returns:
        One record per variant: ``variant``, ``songs``, ``seeds``, the mean difference in uSDR in dB as ``estimate``
        with its 95 % interval ``low`` and ``high``, ``n`` pairs, ``dropped``, ``method``, the ``verdict`` in words.
    """
    base, rows = table_of(records, BASE), []
    for name in dict.fromkeys(r["variant"] for r in records if r["variant"] != BASE):
        gain = table_of(records, name) - base
        found = crossed_interval(gain.to_numpy())
        rows.append(
            {"variant": name, "songs": len(gain), "seeds": gain.shape[1]}
            | found._asdict()
            | {"verdict": verdict(found)}
        )
    return rows


def score_table(
    records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], parameters: dict[str, int]
) -> pd.DataFrame:
    """Return each variant's parameters, mean uSDR, and difference from the base.

    Args:
        records: of :func:`scores`.
        rows: of :func:`differences`.
        parameters: number of each variant's.
    """
    gains = {row["variant"]: row for row in rows}
    lines = []
    for name in dict.fromkeys(r["variant"] for r in records):
        table = table_of(records, name)
        mean, gain = crossed_interval(table.to_numpy()), gains.get(name)
        lines.append(
            {
                "variant": name,
                "": VARIANTS[name].asks,
                "parameters": parameters[name],
                "uSDR (dB)": mean.estimate,
                "95 % interval": interval_text(mean.low, mean.high),
                "difference (dB)": gain["estimate"] if gain else None,
                "its 95 % interval": interval_text(gain["low"], gain["high"]) if gain else "–",
                "seen": gain["verdict"] if gain else "–",
            }
        )
    return pd.DataFrame(lines)


def deviations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, of :func:`differences`, those of choices that the unofficial implementation makes, costliest first."""
    return sorted((row for row in rows if VARIANTS[row["variant"]].described), key=lambda row: row["estimate"])


def deviation_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return what each deviation of the described implementation costs.

    Args:
        rows: of :func:`deviations`.
    """
    columns = ["deviation", "costs (dB uSDR)", "95 % interval", "n", "against the paper's design"]
    lines = [
        (VARIANTS[r["variant"]].asks, -r["estimate"], interval_text(-r["high"], -r["low"]), r["n"], r["verdict"])
        for r in rows
    ]
    return pd.DataFrame(lines, columns=columns)


def draw(ax: Axes, records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Draw each variant's difference with its interval, and each song's as a point, seeds averaged.

    A difference of too few songs for an interval is hollow.
    """
    base = table_of(records, BASE)
    ax.axvline(0, color="0.4", linewidth=0.8)
    for y, row in enumerate(rows):
        songs = (table_of(records, row["variant"]) - base).mean(axis=1, skipna=False)
        ax.plot(songs, np.full(len(songs), y - 0.22), "o", color=COLOURS["blue"], alpha=0.5, markersize=3.5)
        draw_interval(ax, y, gain_of([row], row["variant"]), across=True)
    labels = [textwrap.fill(VARIANTS[row["variant"]].asks, 38) for row in rows]
    ax.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.5))
    seeds = base.shape[1]
    title = f"points: {len(base)} songs" + (f", means of {seeds} trainings" if seeds > 1 else "")
    hollow = f"\n{HOLLOW}" if any(np.isnan(gain_of(rows, row["variant"]).low) for row in rows) else ""
    ax.set(xlabel=f"uSDR against the paper's design (dB){hollow}", title=f"{title}; bars: 95 %")


def gain_of(rows: Sequence[dict[str, Any]], variant: str) -> Interval | None:
    """Return a variant's difference from the base, None where it was not trained."""
    row = next((r for r in rows if r["variant"] == variant), None)
    return row and Interval.of(row)
