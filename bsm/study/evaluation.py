"""Score a trained model on a data set: the result file of ``bsm evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bsm import __version__
from bsm.data.layouts import open_tracks
from bsm.data.musdb18 import need_ffmpeg
from bsm.evaluate import METRICS, Journal, digest, evaluate, fingerprint, fitting, model_separator
from bsm.files import check_writable, sha256
from bsm.inference import check_windows
from bsm.stats import bootstrap_interval, summary
from bsm.study.published import WINDOW, published_songs, songs_title
from bsm.study.records import check_result_path, mark, plain, read_result, write_result
from bsm.versions import SCORING
from bsm.weights.files import load_model

FOLDER = Path("runs/evaluate")
"""Folder of result files without a given name, relative to the working directory."""
COLUMNS = (
    "low, high: 95 % interval of the mean over tracks, the wider of bootstrap and t; "
    "median_low, median_high: of the median; std: of the sample"
)
"""The columns of :attr:`Evaluation.table`, explained."""


class Evaluation(NamedTuple):
    """The scores of a model on a data set."""

    result: Path  # the result file
    table: pd.DataFrame  # a row per metric, a column per statistic over tracks
    skipped: dict[str, str]  # the faults of skipped songs, by name


def evaluate_weights(
    weights: Path,
    root: Path,
    *,
    split: str = "test",
    window: float = WINDOW,
    hop: float | None = None,
    whole: bool = False,
    batch_size: int = 1,
    device: str = "cpu",
    processes: int = 2,
    skip_bad: bool = False,
    output: Path | None = None,
) -> Evaluation:
    """Score a model on one split of a data set and write the result file.

    Each track's scores are kept in ``<result>.tracks.jsonl`` as soon as they are known. A second call with the same
    settings scores only the tracks that are missing there. If none is, the result file stays as it is.

    Args:
        weights: file of the model.
        root: folder of the data set, in any layout of :func:`bsm.data.layouts.open_tracks`.
        split: ``train``, ``valid`` or ``test``.
        window: length of the windows in s.
        hop: distance from window to window in s; None for no overlap.
        whole: separate each song in one pass instead of windows.
        batch_size: windows per forward pass.
        device: PyTorch's name of the device that separates.
        processes: number of scoring processes.
        skip_bad: skip songs that are damaged or incomplete, instead of failing at the first one.
        output: result file (JSON); None for a file in :data:`FOLDER`, named after weights, data and settings.

    Raises:
        InputError: the weights do not load, the songs cannot be read or separated, ffmpeg is missing, the result cannot
            be written, or the file of kept scores is of other settings.
    """
    started = mark()
    check_windows(window, hop, whole=whole)
    skipped: dict[str, str] = {}
    layout, tracks = open_tracks(root, split, skipped=skipped if skip_bad else None)
    model = load_model(weights).to(device)
    tracks = fitting(tracks, model.config.channels, skipped if skip_bad else None)
    hop = window if hop is None else hop
    settings = {"bsm": __version__, "scoring": SCORING, "weights_sha256": sha256(weights)}
    settings |= {"layout": layout, "split": split, "files": fingerprint(tracks)}
    settings |= {"whole": True} if whole else {"window": window, "hop": hop}
    output = output or FOLDER / f"{weights.stem}-{root.resolve().name}-{digest(settings)}.json"
    journal = Journal(output.with_suffix(".tracks.jsonl"), settings)
    check_result_path(output)
    check_writable(journal.path)
    need_ffmpeg("cSDR needs")
    separator = model_separator(model, window=window, hop=hop, whole=whole, batch_size=batch_size)
    records = evaluate(tracks, {"model": separator}, processes=processes, journal=journal)
    rows = {}
    for name in METRICS:
        values = [record[name] for record in records]
        median = bootstrap_interval(values, np.median)  # published scores are means or medians
        rows[name] = summary(values) | {"median_low": median.low, "median_high": median.high}
    found = Evaluation(output, pd.DataFrame(rows).T.astype({"n": int, "dropped": int}), skipped)
    parameters = settings | {"weights": str(weights), "skipped": skipped, "device": device}
    if output.is_file():
        held = read_result(output)
        if (held["values"], held["parameters"]) == (plain(records), plain(parameters)):
            return found  # the file says when, where and by which revision these scores were computed
    title = songs_title(layout, tracks) if split == "test" else layout
    as_published = split == "test" and not whole and window == hop == WINDOW
    write_result(
        output,
        measured="scores per track: uSDR, cSDR, SI-SDR in dB, bleedless and fullness from 0 to 100",
        parameters=parameters,
        values=records,
        data=str(root) if layout == "songs" else f"{title}, {split}",
        started=started,
        inputs=[root],
        comparable_with_paper=as_published and published_songs(layout, tracks) and not skipped,
        summary=rows,
    )
    return found
