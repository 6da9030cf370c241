"""Compare the published model with its published scores on MUSDB18-HQ, and say what the comparison lacks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsm.data.layouts import open_tracks
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.evaluate import METRICS, Journal, digest, fingerprint
from bsm.files import sha256
from bsm.stats import FEWEST, bootstrap_interval
from bsm.study.compare import LABELS, counted, paired, tables, words
from bsm.study.profiles import Profile
from bsm.study.records import ROOT
from bsm.versions import SCORING
from bsm.weights import registry as weights

PUBLISHED = (
    {"model": "BSMamba2", "csdr": 11.03, "usdr": 10.70, "source": "arXiv 2508.14556 and the author's README"},
    {"model": "BS-RoFormer, same training code", "csdr": 10.47, "usdr": 10.29, "source": "the author's README"},
)
"""Scores in dB on the 50 test songs of MUSDB18-HQ. The author does not say whether cSDR is a mean or a median."""
AUTHOR = "author"  # name of the weights that these scores are of
NOTE = (
    "bleedless and fullness by the definition and settings of Music-Source-Separation-Training, not as the author's "
    "code logs them (reference and estimate swapped, another STFT)"
)
"""The note below a table of scores."""
WINDOW = 8.0  # s, without overlap: the author's evaluation
TEST_HOURS = 3.0  # MUSDB18-HQ's test songs last longer; excerpts of them in the same layout do not


@dataclass(frozen=True)
class Case:
    """What is evaluated, and what a comparison with the published scores lacks.

    Attributes:
        weights: file of the model; ``name`` is its name in tables.
        tracks: the songs; ``data`` describes them.
        missing: what the comparison lacks, one sentence each.
        paper_data: whether songs and windows are those of the published scores, whichever the weights.
        journal: the file that keeps scores as they come; None for a profile's own songs.
        terms: what the publisher of the weights says of a licence.
    """

    weights: Path
    name: str
    tracks: list[Track]
    data: str
    missing: tuple[str, ...]
    paper_data: bool
    journal: Journal | None
    terms: str = ""

    @property
    def status(self) -> str:
        """``measured`` where the published model itself was scored on the published songs, otherwise ``blocked``."""
        return "blocked" if self.missing else "measured"


def case(settings: Profile, name: str = "", dataset: str = "", *, window: float = WINDOW, hop: float = WINDOW) -> Case:
    """Find weights and songs: those that are named, else those that the profile names, else the profile's own.

    A profile names them in ``published_weights`` (the first that is here is taken) and ``published_dataset``. Paths
    among them are relative to the repository. Weights are named as in ``bsm weights list``, or by a file.

    Raises:
        InputError: a weight file or data set is damaged, or the profile has neither a model nor songs yet.
    """
    missing = []
    own = settings.values.get("published_weights", [])
    named = [name] if name else [str(ROOT / n) if (ROOT / n).is_file() else n for n in own]
    path, name, checksum = _weights(named, missing)
    if path is None:
        path, checksum = settings.run_folder(settings.seed) / "model.safetensors", ""
        weights.locate(path)
    if not dataset and (own := settings.values.get("published_dataset")):
        dataset = str(ROOT / own)  # a kernel may have been started in another folder
    data, tracks, paper_songs = _songs(dataset, missing)
    if (window, hop) != (WINDOW, WINDOW):
        missing.append(f"The published scores are of windows of {WINDOW:g} s without overlap.")
    kept = None
    if tracks is None:
        tracks, data = settings.tracks()["test"], settings.data_title
    else:
        own = {"weights_sha256": checksum or sha256(path), "window": window, "hop": hop}
        kept = journal(settings, "published", tracks, **own)
    paper_data = paper_songs and window == hop == WINDOW
    shown = "BSMamba2 of this profile" if not name else Path(name).name
    terms = next((w.terms for w in weights.entries().values() if checksum and w.sha256 == checksum), "")
    return Case(path, shown, tracks, data, tuple(missing), paper_data, kept, terms)


def journal(settings: Profile, name: str, tracks: Sequence[Track], **kept: Any) -> Journal:
    """Return the file under the profile's runs that keeps an evaluation's scores as they come.

    ``kept`` are the settings that the scores depend on, such as weights and windows. A checksum of them, the songs and
    the scoring follows ``name`` in the file's name.
    """
    kept |= {"data": fingerprint(tracks), "scoring": SCORING}
    return Journal(ROOT / "runs" / settings.profile / f"{name}-{digest(kept)}.jsonl", kept)


def _weights(names: Sequence[str], missing: list[str]) -> tuple[Path | None, str, str]:
    """Return the first named file that is here, its name and SHA-256, or None; note where it is not the author's."""
    wanted, path, found, faults = weights.entry(AUTHOR), None, "", []
    for name in names:
        try:
            path, found = weights.locate(name), name
            break
        except InputError as error:
            faults.append(f"Weights: {error}.")
    checksum = sha256(path) if path else ""
    if checksum != wanted.sha256:
        missing += faults
        missing.append(
            f"The published scores are of the author's weights: `bsm weights fetch {AUTHOR}` brings {wanted.title}. "
            f"Licence: {wanted.licence}. {wanted.note}".strip()
        )
    return path, found, checksum


def published_songs(layout: str, tracks: Sequence[Track]) -> bool:
    """Tell whether these are MUSDB18-HQ's test songs, whole: those of the published scores."""
    return layout == "MUSDB18-HQ" and sum(track.seconds for track in tracks) >= TEST_HOURS * 3600


def songs_title(layout: str, tracks: Sequence[Track]) -> str:
    """Name test songs in a result: short ones in the layout of MUSDB18-HQ are excerpts of it."""
    excerpts = layout == "MUSDB18-HQ" and not published_songs(layout, tracks)
    return f"excerpts of {layout}" if excerpts else layout


def open_songs(dataset: str) -> tuple[str, list[Track], bool]:
    """Open the test songs of a data set.

    Returns:
        The name of the data, the songs, and whether the published scores are of these songs.
    """
    layout, tracks = open_tracks(dataset, "test")
    if published_songs(layout, tracks):
        return layout, tracks, True
    return f"{songs_title(layout, tracks)}: {Path(dataset).name}", tracks, False


def _songs(dataset: str, missing: list[str]) -> tuple[str, list[Track] | None, bool]:
    """Open songs (:func:`open_songs`), or return None for them; note where they are not MUSDB18-HQ's."""
    found = "", None, False
    try:
        found = open_songs(dataset) if dataset else found
    except InputError as error:
        missing.append(f"Songs: {error}.")
        return found
    if not found[2]:
        missing.append(
            "The published scores are of the 50 test songs of MUSDB18-HQ (22.7 GB, zenodo.org/records/3338373, for "
            "educational purposes only): unpack it and name its folder as `dataset`. Excerpts cannot settle the score "
            "of a whole song."
        )
    return found


def score_table(records: Sequence[dict[str, Any]], *, published: bool) -> pd.DataFrame:
    """Summarise scores by separator and metric, with mean and median: a published score may be either.

    Both have a 95 % interval; the median has none where tracks are clips that are drawn together. ``published`` sets
    the published scores beside them.
    """
    rows, by_metric = [], {metric: tables(records, metric) for metric in METRICS}
    for separator, metric in itertools.product(dict.fromkeys(r["separator"] for r in records), METRICS):
        scores = by_metric[metric][separator]
        known, found = scores.iloc[:, 0].dropna(), paired(scores)
        median = bootstrap_interval(known, np.median)
        if not FEWEST <= found["songs"] == len(known):
            median = median._replace(low=np.nan, high=np.nan)
        row = {"": separator, "metric": LABELS[metric], "n": counted(found), "mean": words(found)}
        row |= {"median": words(median), "std": known.std()}
        rows.append(row | ({p["model"]: p.get(metric) for p in PUBLISHED} if published else {}))
    return pd.DataFrame(rows)
