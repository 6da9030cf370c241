"""The published model on MUSDB18-HQ beside its published scores; what is missing for that, and what can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bsm.data.layouts import open_tracks
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.evaluate import METRICS, Journal, digest, fingerprint
from bsm.files import sha256
from bsm.stats import FEWEST, Interval, bootstrap_interval
from bsm.study import figures
from bsm.study.compare import counted, paired, tables, words
from bsm.study.profiles import Profile
from bsm.study.records import ROOT
from bsm.versions import SCORING
from bsm.weights import registry as weights

PUBLISHED = (
    {"model": "BSMamba2", "csdr": 11.03, "usdr": 10.70, "source": "arXiv 2508.14556 and the author's README"},
    {"model": "BS-RoFormer, same training code", "csdr": 10.47, "usdr": 10.29, "source": "the author's README"},
)
"""dB, on the 50 test songs of MUSDB18-HQ; which statistic over songs the cSDR is, the author does not say."""
AUTHOR = "author"  # name of the weights that these scores are of
NOTE = (
    "bleedless and fullness by the definition and settings of Music-Source-Separation-Training, not as the author's "
    "code logs them (reference and estimate swapped, another STFT)"
)
"""What a table of scores says of two of them."""
WINDOW = 8.0  # s, without overlap: the author's evaluation
TEST_HOURS = 3.0  # MUSDB18-HQ's test songs last longer; excerpts of them in the same layout do not
LABELS = {
    "usdr": "uSDR (dB)",
    "csdr": "cSDR (dB)",
    "si_sdr": "SI-SDR (dB)",
    "bleedless": "bleedless (0-100)",
    "fullness": "fullness (0-100)",
}


@dataclass(frozen=True)
class Case:
    """What is evaluated, and what a comparison with the published scores lacks.

    Attributes:
        weights: file of the model.
        name: of the weights, for tables.
        tracks: the songs.
        data: name of the data set.
        missing: what is lacking, one sentence each.
        paper_data: whether songs and windows, whatever the weights, are those of the published scores.
        journal: keeps scores as they come; None for a profile's own songs.
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
    among them are relative to the repository.

    Args:
        settings: the profile.
        name: a name of ``bsm weights list``, or a file.
        dataset: folder of MUSDB18-HQ, or of any songs.
        window: seconds that the model sees at a time.
        hop: seconds from window to window.

    Raises:
        InputError: what is here is damaged, or the profile has neither a model nor songs yet.
    """
    missing = []
    named = [name] if name else [_rooted(name) for name in settings.values.get("published_weights", [])]
    path, name, checksum = _weights(named, missing)
    if path is None:
        path, checksum = settings.run_folder(settings.seed) / "model.safetensors", ""
        weights.locate(path)
    if not dataset and (own := settings.values.get("published_dataset")):
        dataset = str(ROOT / own)  # a kernel may have been started in another folder
    layout, tracks = _songs(dataset, missing)
    if (window, hop) != (WINDOW, WINDOW):
        missing.append(f"The published scores are of windows of {WINDOW:g} s without overlap.")
    kept = None
    if tracks is None:
        tracks, data = settings.tracks()["test"], settings.data_title
    else:
        data = layout if layout == "MUSDB18-HQ" else f"{layout}: {Path(dataset).name}"
        own = {"weights_sha256": checksum or sha256(path), "window": window, "hop": hop}
        kept = journal(settings, "published", tracks, **own)
    paper_data = (layout, window, hop) == ("MUSDB18-HQ", WINDOW, WINDOW)
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


def _rooted(name: str) -> str:
    """Return a profile's path under the repository; the name of weights is left as it is."""
    return str(ROOT / name) if (ROOT / name).is_file() else name


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


def _songs(dataset: str, missing: list[str]) -> tuple[str, list[Track] | None]:
    """Return layout and test songs of a folder, or None; note where they are not MUSDB18-HQ's."""
    layout, tracks = "", None
    try:
        layout, tracks = open_tracks(dataset, "test") if dataset else ("", None)
    except InputError as error:
        missing.append(f"Songs: {error}.")
        return layout, None
    if layout == "MUSDB18-HQ" and not published_songs(layout, tracks):
        layout = "excerpts of MUSDB18-HQ"
    if layout != "MUSDB18-HQ":
        missing.append(
            "The published scores are of the 50 test songs of MUSDB18-HQ (22.7 GB, zenodo.org/records/3338373, for "
            "educational purposes only): unpack it and name its folder as `dataset`. Excerpts cannot settle the score "
            "of a whole song."
        )
    return layout, tracks


def score_table(records: Sequence[dict[str, Any]], *, published: bool) -> pd.DataFrame:
    """Summarise scores by separator and metric, with mean and median: a published score may be either.

    Both have a 95 % interval; the median has none where tracks are clips that are drawn together. ``published`` sets
    the published scores beside them.
    """
    rows, found_of = [], {metric: tables(records, metric) for metric in METRICS}
    for separator in found_of["usdr"]:
        for metric in METRICS:
            scores = found_of[metric][separator]
            known, found = scores.iloc[:, 0].dropna(), paired(scores)
            alone = FEWEST <= found["songs"] == len(known)
            median = (
                bootstrap_interval(known, np.median) if alone else Interval(known.median(), *[np.nan] * 2, 0, 0, "")
            )
            row = {"": separator, "metric": LABELS[metric], "n": counted(found), "mean": words(found)}
            row |= {"median": words(median), "std": known.std()}
            rows.append(row | ({p["model"]: p.get(metric) for p in PUBLISHED} if published else {}))
    return pd.DataFrame(rows)


@figures.style()
def figure(records: Sequence[dict[str, Any]], data: str, *, published: bool) -> Figure:
    """Draw uSDR and cSDR of every song by separator, with the published means as lines if asked for."""
    drawn, axes = plt.subplots(1, 2, figsize=(8, 1.6 + 0.5 * len({r["separator"] for r in records})), sharey=True)
    for ax, metric in zip(axes, ("usdr", "csdr"), strict=True):
        figures.dots(ax, tables(records, metric))
        ax.set(xlabel=LABELS[metric], title=f"{LABELS[metric].split()[0]}, {data}")
        for row in PUBLISHED if published else ():
            colour = figures.COLOURS["vermilion" if "RoFormer" in row["model"] else "blue"]
            ax.axvline(row[metric], color=colour, linestyle="--", linewidth=1, label=f"published, {row['model']}")
    if published:
        figures.legend_above(drawn, axes[0])
    return drawn


def answer(found: Case, records: Sequence[dict[str, Any]]) -> str:
    """Say in Markdown what the weights score, and whether that can be compared with the published scores."""
    scores = [f"{LABELS[name]} {words(paired(tables(records, name)[found.name]))}" for name in ("usdr", "csdr")]
    compared = "This is the published evaluation." if not found.missing else "This is not the published evaluation."
    return f"{found.name} on {found.data}: {', '.join(scores)}. {compared} Status: {found.status}.\n"


def excerpt(track: Track, seconds: float = 8.0) -> tuple[int, int]:
    """Return start and end, in samples, of the excerpt in which the vocals are loudest; it starts at a whole second."""
    vocals = track.read("vocals")
    power = np.square(vocals, dtype=np.float64).sum(0)
    whole = np.add.reduceat(power, np.arange(0, len(power), track.rate))  # of each second
    count = max(1, round(seconds))
    sums = np.convolve(whole, np.ones(min(count, len(whole))), mode="valid")
    start = int(sums.argmax()) * track.rate
    return start, min(len(power), start + count * track.rate)
