"""Scores of the ablations' variants, each compared with the base trained alike, paired over songs and seeds."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.metrics import usdr
from bsm.networks import count_parameters
from bsm.study import figures
from bsm.study.baselines import scored
from bsm.study.compare import corrected, counted, paired, tables, words
from bsm.study.profiles import Profile
from bsm.study.subjects import Subject, card_of, own_runs
from bsm.study.variants import BASE, VARIANTS, changed

Records = Sequence[dict[str, Any]]


def load(settings: Profile, names: Sequence[str], seeds: Sequence[int]) -> list[Subject]:
    """Load the variants' models under every seed, by the variants' names.

    Raises:
        InputError: one is not trained yet, or not by the same recipe version on the same songs as the others.
    """
    for name, seed in itertools.product(names, seeds):
        path = settings.run_folder(seed, name) / "model.safetensors"
        if not path.is_file():
            command = f"bsm train {settings.profile} --variant {name} --seed {seed}"
            raise InputError(f"{path}: not trained yet; run `{command}` first")
    return own_runs(settings, names, seeds)


def recipe(found: Sequence[Subject]) -> TrainConfig:
    """Return the base's training as the card beside its weights records it; the base is the first of :func:`load`.

    Raises:
        InputError: weights have no card, or were trained unlike the base in more than seed and variant.
    """
    base = _recorded(found[0])
    for model in found:
        own = _recorded(model).to_dict()
        expected = changed(model.name, ModelConfig(), base)[1].to_dict()
        compared = set(expected) - {"seed", *NO_EFFECT}
        if other := sorted(name for name in compared if own[name] != expected[name]):
            raise InputError(f"{model.path}: trained unlike the base; these differ: {', '.join(other)}; train it again")
    return base


def _recorded(model: Subject) -> TrainConfig:
    if not (card := card_of(model.path)):
        place = model.path.with_suffix(".json")
        raise InputError(f"{place}: missing; it records the training of the weights beside it; train them again")
    return TrainConfig.from_dict(card["train"])


def scores(found: Sequence[Subject], tracks: Sequence[Track], window: float) -> list[dict[str, Any]]:
    """Separate every song with every model, in windows of some seconds without overlap, and score it.

    Returns:
        One record each: ``track``, ``variant``, ``seed``, ``usdr`` (dB).
    """
    separators = {(model.name, model.seed): model.separator(window=window) for model in found}
    return [
        {"track": track, "variant": name, "seed": seed} | own
        for track, (name, seed), own in scored(tracks, separators, usdr, doing="score variants")
    ]


def differences(records: Records) -> list[dict[str, Any]]:
    """Compare every variant with the base, paired over songs and seeds.

    Returns:
        One record of :func:`bsm.study.compare.paired` per ``variant``; verdicts are corrected for their number.
    """
    found = tables(records, "usdr")
    return corrected([{"variant": name} | paired(own, found[BASE]) for name, own in found.items() if name != BASE])


def score_table(records: Records, rows: Records, parameters: Mapping[str, int] | None = None) -> pd.DataFrame:
    """List variants' mean uSDR and difference from the base, the base first and then the worst.

    Args:
        records: of :func:`scores`.
        rows: of :func:`differences`, of the variants to list.
        parameters: their number by variant, where it is to be shown.
    """
    found = tables(records, "usdr")
    gains = {BASE: None} | {row["variant"]: row for row in sorted(rows, key=lambda row: row["estimate"])}
    lines = []
    for name, gain in gains.items():
        line = {"change": _asks(name)} | ({"parameters": parameters[name]} if parameters else {})
        line["uSDR (dB)"] = paired(found[name])["estimate"]
        lines.append(line | {"difference (dB)": words(gain), "reads": gain["verdict"] if gain else "–"})
    return pd.DataFrame(lines)


def parameters(found: Sequence[Subject]) -> dict[str, int]:
    """Count the parameters of each variant."""
    return {model.name: count_parameters(model.network) for model in found}


def _asks(name: str) -> str:
    return VARIANTS[name].asks if name in VARIANTS else name


def deviations(rows: Records) -> list[dict[str, Any]]:
    """Return, of :func:`differences`, those of choices that the unofficial implementation makes, costliest first."""
    return sorted((row for row in rows if VARIANTS[row["variant"]].described), key=lambda row: row["estimate"])


@figures.style()
def figure(records: Records, rows: Records) -> Figure:
    """Draw each variant's difference from the base: every song as a point, and the mean with its interval."""
    found = tables(records, "usdr")
    gains = {_asks(row["variant"]): found[row["variant"]] - found[BASE] for row in rows}
    drawn, ax = plt.subplots(figsize=(7, 1 + 0.45 * len(gains)))
    figures.dots(ax, gains, against=0, colour=figures.COLOURS["blue"])
    ax.set(xlabel="uSDR minus that of the paper's design (dB)", title="Points: songs; squares: means, 95 % intervals")
    return drawn


def answer(rows: Records, steps: int) -> str:
    """Say in Markdown what the changes do to the score, costliest first, and what so short a training cannot tell."""
    if not rows:
        return "No variant was trained beside the base.\n"
    lines = [
        f"- {textwrap.shorten(_asks(row['variant']), 80)}: {words(row)} dB, {counted(row)}: {row['verdict']}."
        for row in sorted(rows, key=lambda row: row["estimate"])
    ]
    seen = sum(row["verdict"] in ("better", "worse") for row in rows)
    told = f"Of {len(rows)} changes, {seen} are seen to change uSDR after {steps} updates (verdicts corrected by Holm)."
    return "\n".join([told, "", *lines]) + "\n"
