"""The experiment on real singing: the networks of the experiment on songs, cross-validated over the singers of MIR-1K.

Every singer is tested once, by a network that never heard the singer: the singers are dealt into :data:`FOLDS` groups,
and each group is tested by a training on the others. Two of those others serve validation. The clips are karaoke
singing at 16 kHz, mono. Voice and accompaniment were recorded apart, and are mixed at equal level.

A clip lasts 4 to 13 s. For longer windows, :func:`joined` measures the trained networks on the clips of each singer,
joined end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from bsm.data.layouts import SPLITS, open_tracks
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError
from bsm.inference import separate
from bsm.networks import count_parameters
from bsm.study import baselines
from bsm.study.compare import cluster_of
from bsm.study.long import regions, songs
from bsm.study.records import checksum, mark, write_result
from bsm.weights.files import load_model

FOLDS = 4  # by default
VALIDATED = 2  # singers of a fold's training that choose its checkpoint
WINDOWS: tuple[float | None, ...] = (None, 1.0, 4.0)  # s; None is the whole clip
JOINED_WINDOWS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # s
THRESHOLD_DB = -30.0  # of vocal activity: the voice's channel holds breath and noise


def dealt(tracks: Sequence[Track], folds: int = FOLDS) -> list[dict[str, list[Track]]]:
    """Deal clips into cross-validation over singers: for each fold, the clips by split.

    Raises:
        InputError: there are too few singers.
    """
    singers = sorted({cluster_of(track.name) for track in tracks})
    if len(singers) < 2 * folds:
        raise InputError(f"{len(singers)} singers: cross-validation in {folds} folds needs {2 * folds}; add clips")
    found = []
    for fold in range(folds):
        test, valid = singers[fold::folds], singers[(fold + 1) % folds :: folds][:VALIDATED]
        chosen = {"test": set(test), "valid": set(valid), "train": set(singers) - {*test, *valid}}
        found.append({name: [t for t in tracks if cluster_of(t.name) in own] for name, own in chosen.items()})
    return found


def experiment(
    path: Path,
    *,
    folder: Path,
    data: str,
    arm: str,
    seed: int = 0,
    preset: str = songs.PRESET,
    folds: int = FOLDS,
    asked: bool = True,
    **settings: Any,
) -> None:
    """Train an arm once per fold, score each training's best weights on the singers left out, and write the result.

    Args:
        path: of the result, a JSON file.
        folder: holds the ``trainings``, from whose checkpoints an interrupted run goes on.
        data: folder of MIR-1K's clips, or of a part of them.
        arm: see :func:`bsm.study.long.songs.experiment`.
        seed: fixes the initial weights and the training segments, which differ from fold to fold.
        preset: name of the base's size.
        folds: number of the trainings, each of which tests singers of its own.
        asked: False for a training of the first fold that only serves the choice of a learning rate.
        settings: of each training (:func:`bsm.study.long.songs.train_config`).
    """
    started = mark()
    clips = clips_in(data)
    splits = dealt(clips, folds)
    # The folder is outside the checkout that trains, so that its name would be that of a place on this machine.
    given: dict[str, Any] = {"arm": arm, "songs_sha256": checksum(data), "folds": folds}
    values: dict[str, Any] = {"scores": [], "regions": [], "history": [], "training_seconds": 0.0}
    for number, split in enumerate(splits if asked else splits[:1]):
        own: dict[str, Any] = {"fold": number}
        if arm == songs.BASELINES:
            values["scores"] += [own | songs.rounded(row) for row in baselines.scores(split["test"], split["train"])]
            continue
        config = songs.train_config(arm, seed=folds * seed + number, **settings)
        run = folder / "trainings" / f"{path.stem}-fold{number}"
        model, learned = songs.trained(run, songs.model_config(arm, preset), config, split)
        values["history"] += [own | row for row in learned["history"]]
        values["training_seconds"] += learned["training_seconds"]
        given |= {"parameters": count_parameters(model), "train": config, "model": model.config}
        if asked:
            measured = measure(model, split["test"])
            values |= {name: values[name] + [own | row for row in rows] for name, rows in measured.items()}
    write_result(
        path,
        measured="real singing: uSDR, SI-SDR and level of the output relative to the target's, dB, clip by clip, each "
        "by a training that never heard its singer; SDR of each vocal region, dB",
        parameters=given,
        values={name: value for name, value in values.items() if value},
        seed=seed,
        started=started,
        data=said_of(clips),
        inputs=[],
    )


def clips_in(data: str) -> list[Track]:
    """Open all clips of a folder, whatever split MIR-1K's manifest has them in."""
    return [track for split in SPLITS for track in open_tracks(Path(data), split)[1]]


def said_of(clips: Sequence[Track]) -> str:
    """Name the data of a result."""
    return f"{len(clips)} clips of MIR-1K by {len({cluster_of(track.name) for track in clips})} singers"


def measure(model: nn.Module, tracks: Sequence[Track]) -> dict[str, list[dict[str, Any]]]:
    """Separate clips in each of :data:`WINDOWS`, and score them.

    Returns:
        ``scores``: uSDR, SI-SDR and level, dB, by track and window. ``regions``: what
        :func:`bsm.study.long.regions.regions_of` says of each vocal region of the whole clips.
    """
    separators = {window: songs.separator(model, window) for window in WINDOWS}
    found: dict[str, list[dict[str, Any]]] = {"scores": [], "regions": []}
    for track, mixture, vocals, sung in regions.heard(tracks, threshold_db=THRESHOLD_DB):
        for window, separator in separators.items():
            estimate = separator(track)
            scores = {metric.__name__: metric(vocals, estimate) for metric in baselines.METRICS}
            found["scores"].append(songs.rounded({"track": track.name, "window": window} | scores))
            if window is None:
                records = regions.regions_of(mixture, vocals, estimate, track.rate, sung)
                found["regions"] += [songs.rounded({"track": track.name} | record) for record in records]
    return found


def joined(path: Path, *, folder: Path, data: str, arm: str, trainings: str, seed: int = 0, folds: int = FOLDS) -> None:
    """Score finished trainings in each of :data:`JOINED_WINDOWS`, clip by clip, and write the result.

    The clips of a singer follow each other in the order of their names, so that a long window holds clips of one song
    where there are any. The estimate is cut into clips again, and each clip is scored.

    Args:
        path: of the result, a JSON file.
        folder: see :func:`experiment`.
        data: see :func:`experiment`.
        arm: what was trained.
        trainings: name of the run of :func:`experiment` whose trainings, one per fold, are measured.
        seed: of those trainings.
        folds: number of those trainings.
    """
    started, clips = mark(), clips_in(data)
    given = {"arm": arm, "songs_sha256": checksum(data), "folds": folds, "trainings": trainings, "weights_sha256": []}
    scores = []
    for number, split in enumerate(dealt(clips, folds)):
        weights = songs.best_weights(folder / "trainings" / f"{trainings}-fold{number}")
        given["weights_sha256"].append(checksum(weights))
        model, tested = load_model(weights), sorted(split["test"], key=lambda track: track.name)
        for _, own in groupby(tested, lambda track: cluster_of(track.name)):
            scores += [songs.rounded({"fold": number} | row) for row in measure_joined(model, list(own))]
    write_result(
        path,
        measured="real singing, the clips of each singer joined end to end: uSDR, SI-SDR and level of the output "
        "relative to the target's, dB, clip by clip and window by window, by trainings that never heard the singer",
        parameters=given,
        values={"scores": scores},
        seed=seed,
        started=started,
        data=said_of(clips),
        inputs=[],
    )


def measure_joined(model: nn.Module, tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Separate tracks of one rate, joined end to end, and score each of them: a record per track and window.

    ``seconds`` is the length of all tracks together.
    """
    mixture = torch.from_numpy(np.concatenate([track.mixture() for track in tracks], axis=1))
    ends = np.cumsum([track.samples for track in tracks])
    records = []
    for window in tqdm(JOINED_WINDOWS, desc=cluster_of(tracks[0].name), unit="window"):
        estimate = separate(model, mixture, tracks[0].rate, window=window, hop=window, batch_size=songs.BATCH).numpy()
        for track, own in zip(tracks, np.split(estimate, ends[:-1], axis=1), strict=True):
            row = {"track": track.name, "window": window, "seconds": float(ends[-1] / track.rate)}
            records.append(row | {metric.__name__: metric(track.read(VOCALS), own) for metric in baselines.METRICS})
    return records
