"""A run's identity, the lock of its folder, and the rules for a folder that holds a run already."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bsm.baseline import RoformerConfig
from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.files import alone
from bsm.networks import NETWORKS, network_name
from bsm.versions import RECIPE
from bsm.weights.files import load_model

log = logging.getLogger(__name__)

SPLITS = ("train", "valid")
MOST_SONGS = 5  # songs of a split that a message names
ELSEWHERE = "choose another folder, or move this one away"


# ---- identity


def run_identity(
    model: ModelConfig | RoformerConfig, config: TrainConfig, tracks: dict[str, Sequence[Track]]
) -> dict[str, Any]:
    """Return a run's identity, as plain JSON values: everything that its weights depend on.

    It has the name of the ``network`` and its configuration (``model``), the training settings (``train``), the songs
    of each split (``data``) and the ``recipe`` version (:data:`bsm.versions.RECIPE`). It also records the settings in
    :data:`bsm.config.NO_EFFECT`; :func:`differences` ignores them.

    Raises:
        InputError: there are no tracks to train or validate on, a track's rate or channel count is not the model's, or
            an audio file cannot be read.
    """
    for split in SPLITS:
        if not tracks.get(split):
            raise InputError(f"no tracks in split {split!r}; training needs 'train' and 'valid'")
        for track in tracks[split]:
            if (track.rate, track.channels) != (model.sample_rate, model.channels):
                raise InputError(
                    f"track {track.name!r} has {track.rate} Hz, {track.channels} channels; the model wants "
                    f"{model.sample_rate} Hz, {model.channels}"
                )
    settings = {"network": network_name(model), "model": model.to_dict(), "train": config.to_dict()}
    settings |= {"data": {split: [track.identity() for track in tracks[split]] for split in SPLITS}, "recipe": RECIPE}
    return json.loads(json.dumps(settings))


def differences(found: dict[str, Any], identity: dict[str, Any]) -> dict[str, str]:
    """Compare the content of ``run.json`` with a new run's identity.

    A setting that the file lacks is newer than the file; it counts with its default value.

    Returns:
        What differs, and a text about it: ``recipe``, names of settings such as ``lr`` or ``stft.n_fft``, and
        ``train songs`` or ``valid songs``. Empty if nothing differs.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: ``found`` is not an identity.
    """
    texts = {}
    if "recipe" not in found:
        texts["recipe"] = "begun by an earlier version of bsm, which recorded no recipe version"
    elif found["recipe"] != identity["recipe"]:
        texts["recipe"] = f"recipe version was {found['recipe']!r}, is {identity['recipe']!r}"
    same_network = found["network"] == identity["network"]
    was, now = (_settings(run, with_sizes=same_network) for run in (found, identity))
    for name in was | now:
        if (old := was.get(name)) != (new := now.get(name)):
            texts[name] = f"{name} was {reprlib.repr(old)}, is {reprlib.repr(new)}"
    for split in SPLITS:
        if songs := _changed_songs(split, found["data"][split], identity["data"][split]):
            texts[f"{split} songs"] = "; ".join(songs)
    return texts


def _settings(identity: dict[str, Any], *, with_sizes: bool) -> dict[str, Any]:
    """Return the settings that a run's weights depend on, as one flat dictionary; the network's sizes if wanted."""
    settings = {"network": identity["network"]}
    if with_sizes:
        settings |= _flat(NETWORKS[identity["network"]][0]().to_dict()) | _flat(identity["model"])
    settings |= _flat(TrainConfig().to_dict()) | _flat(identity["train"])
    return json.loads(json.dumps({name: value for name, value in settings.items() if name not in NO_EFFECT}))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _changed_songs(split: str, found: list, now: list) -> list[str]:
    """Return texts about the songs of a split that differ. Earlier versions recorded ``[name, samples]`` only."""
    songs = [s if isinstance(s, dict) else dict(zip(("name", "samples"), s, strict=True)) for s in found]
    was = {song["name"]: song for song in songs}
    by_name = {song["name"]: song for song in now}
    texts = [f"{split} song {name!r} is new" for name in by_name if name not in was]
    texts += [f"{split} song {name!r} is gone" for name in was if name not in by_name]
    for name in (name for name in was if name in by_name):
        other = {key for key, value in was[name].items() if by_name[name].get(key) != value}
        if other:
            texts.append(f"{split} song {name!r} has " + ("other contents" if other == {"files"} else "another length"))
    if not texts and list(was) != list(by_name):
        texts = [f"{split} songs are in another order"]
    rest = len(texts) - MOST_SONGS
    return texts if rest <= 0 else [*texts[:MOST_SONGS], f"{rest} more {split} songs differ"]


# ---- the folder


def claim(run: Path, identity: dict[str, Any], *, supersede: bool, held: ExitStack) -> bool:
    """Take a folder for a run; return whether the run is finished already.

    A run of the same identity goes on. A run that was begun with fewer steps also goes on, if its weights are then the
    same as those of a run with all the steps from the start. A run of another recipe version is set aside, and a new
    one begins. Nothing is deleted.

    Args:
        run: the folder.
        identity: of :func:`run_identity`.
        supersede: set aside a run with other settings or songs, instead of raising an InputError.
        held: keeps the folder's lock until it is closed.

    Raises:
        InputError: another process trains here, or the folder holds another run or a damaged one.
    """
    if (run / "run.json").is_file() and not _read(run, identity)[1] and _has_weights(run):
        return True
    run.mkdir(parents=True, exist_ok=True)
    _lock(run, held)
    if not (run / "run.json").is_file():
        if any((run / name).exists() for name in ("state.ckpt", "model.safetensors")):
            raise InputError(f"{run}: holds a run without run.json; {ELSEWHERE}")
        return False
    found, changed = _read(run, identity)
    if not changed:
        return _has_weights(run)  # another process may have finished it before the lock was taken
    refusal = ""
    if changed.keys() == {"steps"}:
        refusal = _why_not(run, found)
        if not refusal and found["train"]["steps"] < identity["train"]["steps"]:
            _keep_finished(run, found["train"]["steps"], identity["train"]["steps"])
            return False
    if changed.keys() != {"recipe"} and not supersede:
        told = [text for name, text in changed.items() if name != "recipe"]
        told += [f"it cannot go on: {refusal}"] if refusal else []
        raise InputError(f"{run}: holds another run: {'; '.join(told)}; {ELSEWHERE}")
    aside = _free(run.with_name(f"{run.name}.earlier"))
    told = "; ".join(changed.values())
    log.warning("%s: %s; the earlier run is kept as %s, and a new one begins", run, told, aside.name)
    run.replace(aside)
    run.mkdir()
    _lock(run, held)  # the first lock went with the folder
    return False


def _lock(run: Path, held: ExitStack) -> None:
    held.enter_context(alone(run / "lock", f"{run}: another process trains here"))


def _read(run: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the content of ``run.json``, and its differences from an identity."""
    path = run / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found, differences(found, identity)
    except (ValueError, AttributeError, KeyError, TypeError) as error:  # not JSON, or not an identity
        raise InputError(f"{path}: damaged ({error!r}); {ELSEWHERE}") from error


def _has_weights(run: Path) -> bool:
    """Return whether the final weights exist and can be loaded. The run makes damaged ones again."""
    path = run / "model.safetensors"
    if not path.is_file():
        return False
    try:
        load_model(path)
    except InputError as error:
        log.warning("not used, the run goes on from its checkpoint: %s", error)
        return False
    return True


def _why_not(run: Path, found: dict[str, Any]) -> str:
    """Return why a run cannot go on to more steps as a run of that many steps would have; empty if it can."""
    was = TrainConfig().to_dict() | found["train"]
    if was["schedule"] != "constant":
        return f"the {was['schedule']} schedule sets every learning rate by the number of steps"
    if was["patience"] and was["steps"] % was["validate_every"]:
        return "its last validation is out of turn, and patience counts it"
    if (run / "model.safetensors").is_file() and not (run / "state.ckpt").is_file():
        return "its checkpoint state.ckpt is gone"
    return ""


def _keep_finished(run: Path, was: int, now: int) -> None:
    """Rename the final weights of a run that goes on to more steps: their name is free for its new final weights."""
    kept = run / f"model-{was}-steps.safetensors"
    for path in (run / "model.safetensors", run / "model.json"):
        if path.is_file():
            path.replace(kept.with_suffix(path.suffix))
    log.info("%s: steps was %d, is %d; the run goes on; final weights so far, if any: %s", run, was, now, kept.name)


def _free(path: Path) -> Path:
    """Return the path, or the first of ``<path>-2``, ``<path>-3``, ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
