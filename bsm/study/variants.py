"""The ablations' variants: each changes one thing in the paper's design or its loss.

A new variant is a line of :data:`VARIANTS`. A profile with a value ``ablation_steps`` trains all variants, or those of
its value ``variants``, under every seed. The variant's notebook compares them with :data:`BASE`, trained alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bsm import bands
from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.errors import known

BASE = "base"
STFT, SIZE = "08_ablation_stft", "09_ablation_size"
Config = TypeVar("Config", ModelConfig, LossConfig)


@dataclass(frozen=True)
class Variant:
    """Changes of the model's and the loss's configuration.

    Attributes:
        asks: the change in words, for tables.
        notebook: the notebook that scores it.
        model: new values of the model's configuration by field; a function gets the present configuration.
        loss: new values of the loss's configuration, likewise.
        described: whether the unofficial implementation's reports describe this choice.
    """

    asks: str
    notebook: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    described: bool = False


_THREE = {"windows": lambda c: c.windows[1:4]}  # 2048, 1024, 512 at 44.1 kHz
VARIANTS: dict[str, Variant] = {
    BASE: Variant("the paper's design and loss"),
    "loss-3-windows": Variant("3 windows instead of 5", STFT, loss=_THREE),
    "loss-1-window": Variant("1 window instead of 5", STFT, loss={"windows": lambda c: c.windows[1:2]}),
    "loss-magnitude": Variant("magnitudes instead of complex values", STFT, loss={"magnitude": True}),
    "loss-mean": Variant("mean over windows instead of their sum", STFT, loss={"mean": True}),
    "loss-uncentred": Variant("frames not centred", STFT, loss={"center": False}),
    "loss-3-magnitude": Variant("3 windows, magnitudes", STFT, loss=_THREE | {"magnitude": True}),
    "loss-reduced": Variant(
        "3 windows, magnitudes, mean, not centred: the optimisation report's",
        STFT,
        loss=_THREE | {"magnitude": True, "mean": True, "center": False},
        described=True,
    ),
    "loss-blind": Variant("spectra compared with silence, a control", STFT, loss={"blind": True}),
    "mono": Variant(
        "average of the channels in, one estimate for both out", STFT, model={"mono": True}, described=True
    ),
    "bands-48": Variant("48 equal bands", SIZE, model={"bands": lambda c: bands.equal(c.stft.bins, 48)}),
    "bands-equal": Variant(
        "as many equal bands",
        SIZE,
        model={"bands": lambda c: bands.equal(c.stft.bins, len(c.bands))},
        described=True,
    ),
    "bands-mel": Variant(
        "as many Mel bands", SIZE, model={"bands": lambda c: bands.mel(c.stft.bins, len(c.bands), c.sample_rate)}
    ),
    "forward-only": Variant("forward mixers alone", SIZE, model={"directions": "forward"}),
    "shared-directions": Variant("one mixer for both directions", SIZE, model={"directions": "shared"}, described=True),
    "merge-mean": Variant("directions averaged instead of concatenated", SIZE, model={"merge": "mean"}, described=True),
    "time-reshaped": Variant(
        "time path reshaped without transposing", SIZE, model={"time_path": "reshaped"}, described=True
    ),
    "mask-real": Variant(
        "real factors of real and imaginary part, bounded by Tanh", SIZE, model={"mask": "real"}, described=True
    ),
    "half-mask": Variant("mask expansion halved", SIZE, model={"mask_expansion": lambda c: c.mask_expansion // 2}),
    "half-state": Variant("state size halved", SIZE, model={"d_state": lambda c: c.d_state // 2}, described=True),
    "half-expand": Variant(
        "expansion of the mixers halved", SIZE, model={"expand": lambda c: c.expand // 2}, described=True
    ),
}


def of_notebook(notebook: str, names: Sequence[str]) -> list[str]:
    """Return the base and those of the named variants that a notebook scores, in the order of :data:`VARIANTS`.

    Raises:
        InputError: a name is unknown.
    """
    asked = {known("variant", name, VARIANTS) for name in names}
    scored = {n for n, v in VARIANTS.items() if v.notebook == notebook or (v.described and notebook == SIZE)}
    return [name for name in VARIANTS if name == BASE or name in asked & scored]


def changed(name: str, model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig]:
    """Return the configurations of a variant, given those of the base.

    Raises:
        InputError: the name is unknown, or the changed configuration is not valid.
    """
    variant = VARIANTS[known("variant", name, VARIANTS)]
    return _change(model, variant.model), train.replace(loss=_change(train.loss, variant.loss))


def _change(config: Config, changes: Mapping[str, Any]) -> Config:
    return config.replace(**{k: value(config) if callable(value) else value for k, value in changes.items()})
