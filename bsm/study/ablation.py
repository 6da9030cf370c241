"""Scores of the ablations' variants, compared with the base, which was trained alike, by song and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.metrics import usdr
from bsm.study import baselines, figures
from bsm.study.baselines import CONSTANT, EQUALISER, scored
from bsm.study.compare import CORRECTED, corrected, paired, tables, words
from bsm.study.profiles import Profile
from bsm.study.records import checksum, read_result
from bsm.study.subjects import Subject, card_of
from bsm.study.variants import BASE, VARIANTS, changed

Records = Sequence[dict[str, Any]]


def recipe(found: Sequence[Subject]) -> TrainConfig:
    """Return the training of the base, the first subject, as the card beside its weights records it.

    Raises:
        InputError: weights have no card, or their training differs from the base's in more than seed and variant.
    """
    cards = [card_of(model.path) for model in found]
    if missing := [model.path.with_suffix(".json") for model, card in zip(found, cards, strict=True) if not card]:
        raise InputError(f"{missing[0]}: missing; it records the training of the weights beside it; train them again")
    base = TrainConfig.from_dict(cards[0]["train"])
    for model, card in zip(found, cards, strict=True):
        own = TrainConfig.from_dict(card["train"]).to_dict()
        expected = changed(model.name, ModelConfig(), base)[1].to_dict()
        compared = set(expected) - {"seed", *NO_EFFECT}
        if other := sorted(name for name in compared if own[name] != expected[name]):
            raise InputError(f"{model.path}: trained unlike the base; these differ: {', '.join(other)}; train it again")
    return base


def scores(found: Sequence[Subject], tracks: Sequence[Track], window: float) -> list[dict[str, Any]]:
    """Separate every song with every model, in windows of ``window`` s without overlap, and score it.

    Returns:
        One record each: ``track``, ``variant``, ``seed``, ``usdr`` (dB).
    """
    separators = {(model.name, model.seed): model.separator(window=window) for model in found}
    return [
        {"track": track, "variant": name, "seed": seed} | own
        for track, (name, seed), own in scored(tracks, separators, usdr, doing="score variants")
    ]


def trivial(settings: Profile) -> list[dict[str, Any]]:
    """Return the trivial separators' scores of the profile's test songs (:func:`bsm.study.baselines.scores`).

    They are those of the profile's result ``baselines`` if that is of these songs. Otherwise they are measured here.
    """
    path = Profile(settings.values | {"out": ""}).result("baselines")
    if path.is_file():
        record = read_result(path)
        if checksum(settings.data_folder) in record["inputs"].values():
            return record["values"]
    tracks = settings.tracks()
    return baselines.scores(tracks["test"], tracks["train"])


def unbeaten(records: Records, trivial: Records) -> dict[str, float]:
    """Return the mean uSDR of those trivial separators that the base scores below, of a constant and an equaliser.

    Args:
        records: of :func:`scores`.
        trivial: of :func:`trivial`, on the same songs.

    Raises:
        ValueError: the songs are others.
    """
    base = tables(records, "usdr")[BASE]
    for name in (CONSTANT, EQUALISER):
        if {row["track"] for row in trivial if row["separator"] == name} != set(base.index.get_level_values("track")):
            raise ValueError(f"{name} was scored on other songs than the base")
    means = baselines.means(trivial, CONSTANT, EQUALISER)
    return {name: mean for name, mean in means.items() if paired(base)["estimate"] < mean}


def reading(floors: Mapping[str, float]) -> str:
    """End a caption: say how verdicts were corrected, or why there are none. ``floors`` are of :func:`unbeaten`."""
    end = f"; {CORRECTED}" if EQUALISER not in floors else ""
    if floors:
        names = " and ".join(f"{name} ({mean:.2f} dB)" for name, mean in floors.items())
        end += f". The base scores below {names}: no difference here decides anything"
    return end


def differences(records: Records) -> list[dict[str, Any]]:
    """Compare every variant with the base, paired over songs and seeds.

    Returns:
        One record of :func:`bsm.study.compare.paired` per ``variant``; verdicts are corrected for their number.
    """
    found = tables(records, "usdr")
    return corrected([{"variant": name} | paired(own, found[BASE]) for name, own in found.items() if name != BASE])


def score_table(
    records: Records,
    rows: Records,
    parameters: Mapping[str, int] | None = None,
    *,
    floors: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """List mean uSDR and difference from the base: the base first, then the variants from worst to best.

    ``rows`` are those records of :func:`differences` that are listed. ``parameters`` are their numbers by variant, for
    a column of the table. A base below the static equaliser has learned too little for verdicts, so that there is no
    column of them; ``floors`` are of :func:`unbeaten`.
    """
    found = tables(records, "usdr")
    gains = {BASE: None} | {row["variant"]: row for row in sorted(rows, key=lambda row: row["estimate"])}
    lines = []
    for name, gain in gains.items():
        line = {"change": VARIANTS[name].asks} | ({"parameters": parameters[name]} if parameters else {})
        line["uSDR (dB)"] = paired(found[name])["estimate"]
        reads = {} if EQUALISER in (floors or {}) else {"reads": gain["verdict"] if gain else "–"}
        lines.append(line | {"difference (dB)": words(gain)} | reads)
    return pd.DataFrame(lines)


@figures.style()
def figure(records: Records, rows: Records) -> Figure:
    """Draw each variant's difference from the base: every song as a point, and the mean with its interval."""
    found = tables(records, "usdr")
    gains = {VARIANTS[row["variant"]].asks: found[row["variant"]] - found[BASE] for row in rows}
    drawn, ax = plt.subplots(figsize=(7, 1 + 0.45 * len(gains)))
    figures.dots(ax, gains, against=0, colour=figures.COLOURS["blue"])
    ax.set(xlabel="uSDR minus that of the paper's design (dB)", title="Points: songs; squares: means, 95 % intervals")
    return drawn
