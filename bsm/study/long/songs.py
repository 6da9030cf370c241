"""The experiment on songs: the study's small model with each time block, trained alike and scored by window.

The songs are synthesised at 16 kHz, mono (:mod:`bsm.data.demo`). They say nothing about real music.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bsm.baseline import RoformerConfig
from bsm.config import ModelConfig, TrainConfig
from bsm.data.demo import GENERATOR_VERSION, make_corpus
from bsm.data.tracks import Track, load_tracks
from bsm.errors import InputError
from bsm.evaluate import Separator, model_separator
from bsm.networks import count_parameters, network_config
from bsm.study import baselines
from bsm.study.records import checksum, mark, write_result
from bsm.study.variants import VARIANTS, changed
from bsm.train import read_log, train
from bsm.weights.files import load_model, save_model

RATE, SECONDS = 16000, 64.0
SONGS = {"train": 64, "valid": 8, "test": 64}
SCORED = 24  # songs of the test split that every model is scored on
WINDOWS: tuple[float | None, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, None)  # s; None: the whole song
BATCH = 8  # windows in one forward pass
PRESET = "study-16k"
DATA = f"songs of {SECONDS:g} s at 16 kHz, mono, synthesised, version {GENERATOR_VERSION}"
BASELINES = "baselines"
SONGS_FOLDER = "songs-16k"


def corpus(folder: Path) -> dict[str, list[Track]]:
    """Make the songs that are missing in a folder, and open all of them, by split."""
    make_corpus(folder, songs=SONGS, seconds=SECONDS, rate=RATE, channels=1, processes=1)
    return {split: load_tracks(folder, split) for split in SONGS}


def model_config(arm: str, preset: str = PRESET) -> ModelConfig | RoformerConfig:
    """Return the configuration of an arm's network.

    Args:
        arm: ``bs-roformer``, a time block in the study's base, or a variant of the base
            (:data:`bsm.study.variants.VARIANTS`).
        preset: name of the base's size.
    """
    base = ModelConfig.preset(preset)
    return changed(arm, base, TrainConfig())[0] if arm in VARIANTS else network_config(arm, base)


def train_config(arm: str, *, segment_seconds: float = 1.0, **settings: Any) -> TrainConfig:
    """Return an arm's training: the preset ``study`` with the given ``settings``, fields of TrainConfig.

    The batch is as large as the same seconds of audio per update allow, and at least one segment. A segment comes from
    a window of twice its length in which the source sounds for more than half of the time.
    """
    base = TrainConfig.preset("study")
    batch = max(1, round(base.batch_size * base.segment_seconds / segment_seconds))
    lengths = {"segment_seconds": segment_seconds, "window_seconds": 2 * segment_seconds, "batch_size": batch}
    config = base.replace(**lengths, **settings)
    return changed(arm, ModelConfig.preset(PRESET), config)[1] if arm in VARIANTS else config


def experiment(
    path: Path,
    *,
    folder: Path,
    arm: str,
    seed: int = 0,
    asked: bool = True,
    **settings: Any,
) -> None:
    """Train an arm on the songs, score its best weights, and write the result and the weights.

    Args:
        path: of the result, a JSON file; the weights take the same name with ``.safetensors``.
        folder: holds the ``songs`` and the ``trainings``, from whose checkpoints an interrupted run goes on.
        arm: one of :func:`model_config`, or ``baselines``, which scores the trivial separators.
        seed: of the initial weights and the training segments.
        asked: False for a training that only serves the choice of a learning rate.
        settings: of the training (:func:`train_config`).
    """
    started, tracks = mark(), corpus(folder / SONGS_FOLDER)
    test = tracks["test"][:SCORED]
    # The folder lies outside the checkout, so its path would name a place on this machine: its checksum stands for it.
    given: dict[str, Any] = {"arm": arm, "songs_sha256": checksum(folder / SONGS_FOLDER)}
    values: dict[str, Any] = {}
    if arm == BASELINES:
        values["scores"] = baselines.scores(test, tracks["train"])
    else:
        config = train_config(arm, seed=seed, **settings)
        model, values = trained(folder / "trainings" / path.stem, model_config(arm), config, tracks)
        given |= {"parameters": count_parameters(model), "train": config, "model": model.config}
        if asked:
            values["scores"] = scores(model, test)
            save_model(model, path.with_suffix(".safetensors"), {"data": DATA, "seed": seed, "arm": arm})
    write_result(
        path,
        measured="songs: uSDR, SI-SDR and level of the output relative to the target's, dB, song by song",
        parameters=given,
        values=values,
        seed=seed,
        started=started,
        data=DATA,
        inputs=[],
    )


def trained(
    run: Path,
    model: ModelConfig | RoformerConfig,
    config: TrainConfig,
    tracks: Mapping[str, Sequence[Track]],
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network in the folder of a run.

    Returns:
        The model of the best validation, and the training's ``history`` and ``training_seconds``.
    """
    train(run, model, config, {split: tracks[split] for split in ("train", "valid")}, device="cpu")
    log = read_log(run)
    history = [
        {"update": row["step"], "sdr": row["valid_usdr"], "loss": row["valid_loss"]}
        for row in log
        if "valid_usdr" in row
    ]
    seconds = round(sum(row["seconds"] for row in log), 1)
    return load_model(best_weights(run)), {"history": history, "training_seconds": seconds}


def best_weights(run: Path) -> Path:
    """Return the averaged weights of a run's best validation.

    Raises:
        InputError: The run has none.
    """
    found = sorted((run / "best").glob("*.safetensors"))
    if len(found) != 1:
        raise InputError(f"{run}: {len(found)} best weights, where the study keeps one; train the run again")
    return found[0]


def separator(model: nn.Module, window: float | None) -> Separator:
    """Return a model's separator in windows of so many s without overlap, or of whole songs where that is None."""
    if window is None:
        return model_separator(model, whole=True)
    return model_separator(model, window=window, hop=window, batch_size=BATCH)


def scores(model: nn.Module, tracks: list[Track]) -> list[dict[str, Any]]:
    """Score a model on songs with each of :data:`WINDOWS`: one record per song and window."""
    records = []
    for window in WINDOWS:
        separators = {"": separator(model, window)}
        for track, _, own in baselines.scored(tracks, separators, *baselines.METRICS, doing=f"windows of {window} s"):
            records.append(rounded({"track": track, "window": window} | own))
    return records


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    """Round the floats of a record to three decimals."""
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in record.items()}
