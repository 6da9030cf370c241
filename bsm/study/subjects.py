"""The trained models and the songs that a notebook studies: the profile's own, or any others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.evaluate import Separator, model_separator
from bsm.networks import count_parameters, network_name
from bsm.stats import FEWEST
from bsm.study.compare import cluster_of, covers, how_many
from bsm.study.figures import LABELS
from bsm.study.profiles import Profile
from bsm.study.published import open_songs
from bsm.weights import registry as weights
from bsm.weights.files import load_model

_ALIKE = {"recipe": "recipe versions", "data": "songs"}
"""Fields of the card beside weights that must be equal for models that are compared, in words."""


@dataclass(frozen=True)
class Subject:
    """A trained model, in evaluation mode. Models that differ only in their seed share a name.

    ``seed`` is None if it is not known. ``trained_seconds`` is the length of the training segments in s.
    """

    name: str
    seed: int | None
    path: Path
    network: nn.Module
    trained_seconds: float

    def separator(self, **options: Any) -> Separator:
        """Return what separates a track; see :func:`bsm.inference.separate` for the options."""
        return model_separator(self.network, **options)


def subjects(
    settings: Profile,
    chosen: str | Mapping[str, str] | None = None,
    *,
    backbones: Sequence[str] = ("bsmamba2",),
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
) -> list[Subject]:
    """Load the models to study onto a device.

    Args:
        settings: the profile. Its ``segment_seconds`` are assumed for weights without a card that tells theirs.
        chosen: weights: a file, a name of ``bsm weights list``, or a mapping of names to such. By default the models
            are the profile's own runs.
        backbones: networks of the profile's own runs.
        seeds: of the profile's own runs; every backbone is loaded under each seed.
        device: PyTorch's name of the device.

    Raises:
        InputError: weights are missing, do not load or were not trained alike, or a backbone is unknown.
    """
    if chosen is not None:
        named = chosen if isinstance(chosen, Mapping) else {"": chosen}
        if not named or not all(isinstance(place, str | Path) and str(place) for place in named.values()):
            raise InputError(f"weights must be a path, a name, or a mapping of names to such, not {chosen!r}")
        return [_load(settings, device, weights.locate(place), str(name)) for name, place in named.items()]
    if unknown := [name for name in backbones if name not in LABELS]:
        raise InputError(f"backbones: there is no {unknown[0]!r}; choose of: {', '.join(LABELS)}")
    if not backbones or not seeds:
        raise InputError("backbones and seeds: name at least one of each")
    return own_runs(settings, backbones, seeds, device)


def own_runs(settings: Profile, names: Sequence[str], seeds: Sequence[int], device: str = "cpu") -> list[Subject]:
    """Load a profile's own runs of some networks or variants, each under every seed.

    Raises:
        InputError: a run is missing, or two were trained by different recipe versions or on different songs. The
            message says how to train them.
    """
    runs = [(settings.run_folder(seed, name) / "model.safetensors", name, seed) for name in names for seed in seeds]
    first, first_card = runs[0][0], card_of(runs[0][0])
    for path, name, seed in runs:
        if not path.is_file():
            option = "backbone" if name in LABELS else "variant"
            command = f"bsm train {settings.profile} --{option} {name} --seed {seed}"
            raise InputError(f"{path}: not trained yet; run `{command}` first")
        if other := [what for field, what in _ALIKE.items() if card_of(path).get(field) != first_card.get(field)]:
            count = max(seeds) - settings.values.get("seed", 0) + 1  # the workflow counts from the profile's own
            raise InputError(
                f"{first} and {path}: trained by different {' and '.join(other)}, not to be combined; train them "
                f"alike: `make reproduce PROFILE={settings.profile} SEEDS={count}`"
            )
    return [_load(settings, device, *run) for run in runs]


def card_of(path: Path) -> dict[str, Any]:
    """Return the card beside weights, a JSON file that records their training; empty if there is none."""
    card = path.with_suffix(".json")
    return json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}


def _load(settings: Profile, device: str, path: Path, name: str = "", seed: int | None = None) -> Subject:
    network, train = load_model(path).to(device), card_of(path).get("train", {})
    block = getattr(network.config, "time_block", "mamba2")
    name = name or (network_name(network.config) if block == "mamba2" else block)
    seed = train.get("seed") if seed is None else seed
    seconds = float(train.get("segment_seconds", settings.segment_seconds))
    return Subject(LABELS.get(name, name), seed, path, network, seconds)


def coverage(found: Sequence[Subject], tracks: Sequence[Track]) -> str:
    """Say in a caption what the intervals cover: these songs, and the training seeds of the first of these models."""
    text = covers(sum(subject.name == found[0].name for subject in found))
    count = len({cluster_of(track.name) for track in tracks})
    return text if count >= FEWEST else f"{text}; {how_many(count, 'song')} cannot give any"


def songs(settings: Profile, dataset: str = "") -> tuple[str, list[Track], bool]:
    """Open the test songs of a data set, by default the profile's.

    Returns:
        The name of the data, the songs, and whether the paper's scores are of these songs.
    """
    return open_songs(dataset) if dataset else (settings.data_title, settings.tracks()["test"], settings.comparable)


def described(found: Sequence[Subject]) -> str:
    """List the models in Markdown."""
    lines = []
    for s in found:
        seed, count = "" if s.seed is None else f", seed {s.seed}", count_parameters(s.network)
        lines.append(f"- {s.name}{seed}: {count:,} parameters, trained on segments of {s.trained_seconds:g} s")
    if len({s.name for s in found}) == 1:
        lines.append(f"\nOnly {found[0].name} is here: there is nothing to compare it with.")
    return "\n".join(lines)
