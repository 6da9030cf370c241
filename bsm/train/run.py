"""What a run is, and whether its folder is free for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bsm.baseline import RoformerConfig
from bsm.config import ModelConfig, TrainConfig
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.files import code_checksum
from bsm.networks import network_name

log = logging.getLogger(__name__)

# What the weights depend on: when one of these changes, a finished run is trained anew.
# The songs' synthesis is among it, for the data are known by name and length alone.
SOURCES = (
    "activity",
    "audio",
    "bands",
    "baseline",
    "config",
    "conv",
    "data/demo",
    "data/mixing",
    "data/tracks",
    "fast",
    "time_blocks",
    "loss",
    "mamba2",
    "model",
    "networks",
    "scan",
    "stft",
    "train",
)


def run_identity(
    model: ModelConfig | RoformerConfig, config: TrainConfig, tracks: dict[str, Sequence[Track]]
) -> dict[str, Any]:
    """Describe a run by all that its weights depend on: network, recipe, songs and code.

    Raises:
        InputError: no tracks to train or validate on; a rate or channel count that differs from the model's.
    """
    for split in ("train", "valid"):
        if not tracks.get(split):
            raise InputError(f"no tracks in split {split!r}; training needs 'train' and 'valid'")
        for track in tracks[split]:
            if (track.rate, track.channels) != (model.sample_rate, model.channels):
                raise InputError(
                    f"track {track.name!r} has {track.rate} Hz, {track.channels} channels; the model wants "
                    f"{model.sample_rate} Hz, {model.channels}"
                )
    data = {split: [[t.name, t.samples] for t in tracks[split]] for split in ("train", "valid")}
    settings = {"network": network_name(model), "model": model.to_dict(), "train": config.to_dict(), "data": data}
    return json.loads(json.dumps(settings)) | {"code": code_fingerprint()}


def code_fingerprint() -> str:
    """Return a checksum of :data:`SOURCES`."""
    return code_checksum(pattern for name in SOURCES for pattern in (f"{name}.py", f"{name}/*.py"))


def clear(run: Path, identity: dict[str, Any], supersede: bool) -> None:
    """Make sure that the folder is free or holds this very run; set aside one that other code began, or any other.

    Raises:
        InputError: it holds another run, or one whose ``run.json`` is damaged or gone.
    """
    path = run / "run.json"
    if not path.is_file():
        if any((run / name).exists() for name in ("state.ckpt", "model.safetensors")):
            raise InputError(f"{run}: holds a run without run.json; choose another folder or delete this one")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(k for k in identity if found.get(k) != identity[k])
    except (ValueError, AttributeError) as error:  # not JSON, or not a mapping
        raise InputError(f"{path}: damaged ({error}); delete the folder to train from the start") from error
    if not differing:
        return
    if differing != ["code"] and not supersede:
        raise InputError(
            f"{run}: holds a run with another {', '.join(d for d in differing if d != 'code')}; "
            "choose another folder or delete this one"
        )
    # Named by the code that began it, so that no two runs want one name.
    aside = run.with_name(f"{run.name}.code-{found.get('code')}")
    number = 1
    while aside.exists():
        number += 1
        aside = run.with_name(f"{run.name}.code-{found.get('code')}-{number}")
    changed = ", ".join(differing)
    log.warning("%s: %s changed since this run began; it is kept as %s and begun anew", run, changed, aside.name)
    run.replace(aside)
