"""The ablations: variants scored beside the base, which was trained alike, and what their losses cost and miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from bsm.config import NO_EFFECT, LossConfig, ModelConfig, TrainConfig
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss, loss_terms
from bsm.metrics import usdr
from bsm.stats import Interval, bootstrap_interval, interval_words
from bsm.study import baselines, figures
from bsm.study.baselines import CONSTANT, EQUALISER, scored
from bsm.study.compare import CORRECTED, corrected, paired, tables, words
from bsm.study.profiles import Profile
from bsm.study.records import checksum, read_result
from bsm.study.speed.spectra import loss_table, timed_losses
from bsm.study.subjects import Subject, card_of
from bsm.study.variants import BASE, STFT, VARIANTS, changed
from bsm.study.windows import loudest

Records = Sequence[dict[str, Any]]
LATE = 1e-3  # s
FLIPPED, DELAYED, MIXTURE, SILENCE = "sign flipped", "1 ms late", "mixture", "silence"
"""Estimates of the vocals that are wrong in a known way."""


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
        said = {} if EQUALISER in (floors or {}) else {"verdict": gain["verdict"] if gain else "–"}
        lines.append(line | {"difference (dB)": words(gain)} | said)
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


def loss_configs(model: ModelConfig, train: TrainConfig) -> dict[str, LossConfig]:
    """Return the base's loss, and by variant every loss that notebook ``08_ablation_stft`` scores."""
    names = [name for name, v in VARIANTS.items() if name == BASE or (v.notebook == STFT and v.loss)]
    return {name: changed(name, model, train)[1].loss for name in names}


def loss_costs(losses: dict[str, LossConfig], *, samples: int, channels: int, repeats: int) -> list[dict[str, Any]]:
    """Time losses of a segment, value and gradient, in turns: a record of :func:`timed_losses` per ``variant``."""
    functions = {name: partial(bsmamba2_loss, config=config) for name, config in losses.items()}
    return timed_losses(functions, (1, channels, samples), called="variant", repeats=repeats)


def loss_cost_table(records: Records, step: Sequence[float]) -> pd.DataFrame:
    """List the losses' times, and how much faster each is than the base's, the first.

    ``step`` has the seconds of the base's training steps, loss included; the table says what each loss saves of them.
    """
    table = loss_table(records, [VARIANTS[r["variant"]].asks for r in records], reference="the paper's")
    best = table["best (ms)"] / 1e3
    return table.assign(**{"saves of a step (%)": 100 * (best[0] - best) / np.median(step)})


@torch.no_grad()
def blindness(losses: dict[str, LossConfig], tracks: Sequence[Track], seconds: float) -> list[dict[str, Any]]:
    """Compute every loss of estimates that are wrong in a known way.

    Each song's excerpt is ``seconds`` long, where its vocals are loudest.

    Returns:
        One record per song, loss and estimate: ``track``, ``variant``, ``estimate``, ``spectral`` (the sum of the
        spectral terms) and ``total`` (with the waveform's).
    """
    records = []
    for track in tqdm(tracks, desc="blindness of losses", unit="song"):
        start, stop = loudest(track, seconds)
        vocals, mixture = (torch.from_numpy(v) for v in (track.read(VOCALS, start, stop), track.mixture(start, stop)))
        estimates = {
            FLIPPED: -vocals,
            DELAYED: vocals.roll(round(LATE * track.rate), -1),
            MIXTURE: mixture,
            SILENCE: torch.zeros_like(vocals),
        }
        for name, config in losses.items():
            for kind, estimate in estimates.items():
                terms = {k: v.item() for k, v in loss_terms(estimate, vocals, config).items()}
                total = sum(terms.values())
                record = {"track": track.name, "variant": name, "estimate": kind}
                records.append(record | {"spectral": total - terms["waveform"], "total": total})
    return records


def relative(records: Records, term: str = "spectral") -> dict[str, dict[str, Interval]]:
    """Return each loss relative to that of silence, mean over songs with its interval: by estimate, then by variant."""
    frame = pd.DataFrame(records).pivot(index=["variant", "track"], columns="estimate", values=term)
    shares = frame.div(frame[SILENCE], axis=0)
    names = dict.fromkeys(r["variant"] for r in records)
    return {kind: {n: bootstrap_interval(shares.loc[n, kind]) for n in names} for kind in (FLIPPED, DELAYED, MIXTURE)}


def blindness_table(records: Records) -> pd.DataFrame:
    """List the losses of wrong estimates, relative to that of silence."""
    columns = {f"{kind}, spectral terms": found for kind, found in relative(records).items()}
    columns[f"{FLIPPED}, with the waveform's"] = relative(records, "total")[FLIPPED]
    words = {title: [*map(interval_words, found.values())] for title, found in columns.items()}
    names = next(iter(columns.values()))
    return pd.DataFrame({"loss": [VARIANTS[name].asks for name in names]} | words)


def draw_blindness(ax: Axes, records: Records) -> None:
    """Draw the spectral terms of wrong estimates relative to silence, a mark per estimate and loss."""
    found = relative(records)
    names = list(found[FLIPPED])
    ticks = [name.removeprefix("loss-").replace("-", "\n") for name in names]
    figures.interval_plot(ax, ticks, {kind: list(own.values()) for kind, own in found.items()})
    for line in ax.get_lines():
        line.set_linestyle("none")  # losses are no scale
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    songs = len({r["track"] for r in records})
    ax.set(ylabel="spectral loss / that of silence", title=f"Losses of wrong estimates, songs: n = {songs}")


def mono_ceiling(tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Score an estimate whose two channels are both the average of the true vocals' channels.

    No other estimate with equal channels scores better.

    Returns:
        One record per song: ``track``, ``usdr`` (dB).
    """
    vocals = ((track.name, track.read(VOCALS)) for track in tracks)
    return [{"track": name, "usdr": usdr(v, np.broadcast_to(v.mean(0), v.shape))} for name, v in vocals]
