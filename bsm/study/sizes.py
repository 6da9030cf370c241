"""What the network's sizes and settings cost: parameters, operations, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from bsm import bands
from bsm.config import ModelConfig, TrainConfig
from bsm.model import BSMamba2
from bsm.stats import interval_words, ratio
from bsm.study.counts import KEPT, kept_bytes, operations, parameter_count
from bsm.study.figures import COLOURS
from bsm.study.speed.timer import repeated
from bsm.study.variants import BASE, VARIANTS, changed

PRESETS = ("paper", "vram", "small", "tiny")
_AUTHOR, _UNOFFICIAL = "author's code", "unofficial implementation"
PUBLISHED: dict[str, tuple[ModelConfig, float, str]] = {
    "paper, 256 / 6": (ModelConfig(), 48_098_188, _AUTHOR),
    "256 / 4": (ModelConfig(depth=4), 40.7e6, _AUTHOR),
    "192 / 4": (ModelConfig(dim=192, depth=4), 24.9e6, _AUTHOR),
    "128 / 4": (ModelConfig(dim=128, depth=4), 12.9e6, _AUTHOR),
    "64 / 2": (ModelConfig(dim=64, depth=2), 3.99e6, _AUTHOR),
    "256 / 6, equal bands": (ModelConfig(bands=bands.equal(1025, 62)), 22_061_570, _UNOFFICIAL),
    "vram, 192 / 4, 48 equal bands": (ModelConfig.preset("vram"), 9_533_698, _UNOFFICIAL),
}
"""By width / layers: the configuration, its number of parameters as a source gives it, and the source."""


def published_table() -> pd.DataFrame:
    """Compare the numbers of parameters that sources give for some sizes with those counted here."""
    rows = []
    for name, (config, given, source) in PUBLISHED.items():
        counted, exact = parameter_count(config), isinstance(given, int)  # others are given to three digits
        shown = f"{given:,}" if exact else f"{given / 1e6:g} million"
        rows.append((name, source, shown, f"{counted:,}", (counted if exact else float(f"{counted:.3g}")) == given))
    return pd.DataFrame(rows, columns=["width / layers", "source", "given", "counted", "the same, as far as given"])


def settings(model: ModelConfig) -> dict[str, ModelConfig]:
    """Return the configurations to measure: the presets, the base, and each variant that changes the network."""
    changes = {name: changed(name, model, TrainConfig())[0] for name in VARIANTS}
    return {name: ModelConfig.preset(name) for name in PRESETS} | {
        name: config for name, config in changes.items() if name == BASE or config != model
    }


def measure(configs: dict[str, ModelConfig], *, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Measure networks with random weights on noise, one segment at a time, in turns.

    Returns:
        One record each: ``name``, ``parameters`` by part, ``operations`` of the matrix products of a forward pass
        (multiplications and additions), ``kept_bytes`` for the backward pass, ``audio_seconds``, and the timings of
        ``forward`` and ``training`` (forward and backward), each of :meth:`bsm.study.speed.timer.Rounds.of`.
    """
    torch.manual_seed(0)
    networks = {name: BSMamba2(config) for name, config in configs.items()}
    waves = {n: 0.1 * torch.randn(1, c.channels, round(seconds * c.sample_rate)) for n, c in configs.items()}
    times = [
        repeated({name: partial(run, network, waves[name]) for name, network in networks.items()}, repeats)
        for run in (_forward, _train)
    ]
    return [
        {
            "name": name,
            "parameters": network.parameter_counts(),
            "operations": operations(configs[name], seconds),
            "kept_bytes": kept_bytes(configs[name], seconds),
            "audio_seconds": seconds,
            "forward": times[0].of(name),
            "training": times[1].of(name),
        }
        for name, network in networks.items()
    ]


@torch.inference_mode()
def _forward(network: nn.Module, wave: Tensor) -> None:
    network(wave)


def _train(network: nn.Module, wave: Tensor) -> None:
    network.zero_grad()
    network(wave).abs().mean().backward()


def cost_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List what each size and setting costs, per second of audio, and its training's speed against the base's."""
    base = next(r["training"]["seconds"] for r in records if r["name"] == BASE)
    rows = []
    for r in records:
        total, seconds = r["parameters"]["total"], r["audio_seconds"]
        row = {"": VARIANTS[r["name"]].asks if r["name"] in VARIANTS else f"preset {r['name']}"}
        row |= {"parameters": total, "mask estimator (%)": 100 * r["parameters"]["mask_estimator"] / total}
        row |= {"GFLOP": r["operations"] / seconds / 1e9}
        row |= {"forward (s)": min(r["forward"]["seconds"]) / seconds}
        row |= {"forward + backward (s)": min(r["training"]["seconds"]) / seconds}
        row |= {"speed against the base": interval_words(ratio(base, r["training"]["seconds"]), "x")}
        row |= {"kept for gradients (MiB)": r["kept_bytes"] / seconds / 2**20}
        rows.append(row | {"weights in training (MiB)": KEPT * total / 2**20})
    return pd.DataFrame(rows)


def draw_bands(ax: Axes, model: ModelConfig) -> None:
    """Draw the widths of the base's bands, and of the variants' that change them, over frequency."""
    tables = {"author's": model.bands}
    for name in VARIANTS:
        config, _ = changed(name, model, TrainConfig())
        if config.bands != model.bands:
            tables[VARIANTS[name].asks] = config.bands
    bin_width = model.sample_rate / model.stft.n_fft
    for (name, widths), colour in zip(tables.items(), COLOURS.values(), strict=False):
        edges = bin_width * np.concatenate([[0.5], np.cumsum(widths)])  # from half a bin, for the axis is logarithmic
        label = f"{name}: n = {len(widths)}"
        ax.stairs(bin_width * np.asarray(widths), edges, baseline=None, color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="frequency (Hz)", ylabel="width of the band (Hz)")
    ax.legend(fontsize="small")
