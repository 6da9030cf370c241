"""Measure anyone's estimates by vocal region: SDR by duration and by the gap before, leakage where nobody sings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bsm import audio
from bsm.data.layouts import open_tracks
from bsm.data.tracks import SUFFIXES, VOCALS, Track, song_track
from bsm.errors import InputError
from bsm.study import figures, occurrence
from bsm.study.compare import tidy
from bsm.study.occurrence_figures import figure_of_durations
from bsm.study.records import mark, write_result

# Where bsm, museval, musdb, demucs, open-unmix and Music-Source-Separation-Training put the vocals of a song n.
PATTERNS = ("{n}/vocals", "test/{n}/vocals", "{n}.vocals", "{n}_vocals", "{n}/{n}_vocals", "{n}/mixture.vocals", "{n}")
DURATIONS = (1.0, 2.0, 4.0)  # s, edges between bins
GAPS = (0.5, 2.0, 8.0)  # s without vocals before a region, edges between bins


@dataclass(frozen=True)
class Estimates:
    """A system's estimated vocals, as files in a folder; or one file, where there is one song."""

    name: str
    folder: Path
    seed: int | None = None  # of the system's training, None where it is not known

    def separator(self, **_: Any) -> Callable[[Track], np.ndarray]:
        """Return what gives a track's estimate."""
        return self.read

    def find(self, track: Track) -> Path:
        """Return the file of a track's estimate.

        Raises:
            InputError: There is none, or more than one.
        """
        if self.folder.is_file():
            return self.folder
        found = [path for pattern in PATTERNS for path in _sounds(self.folder / pattern.format(n=track.name))]
        if len(found) != 1:
            what = f"{len(found)} files" if found else "no file"
            raise InputError(
                f"{self.folder}: {what} for song {track.name!r}; expected one of {track.name}/vocals.wav, "
                f"{track.name}_vocals.wav, {track.name}.vocals.wav, or the same with .flac"
            )
        return found[0]

    def read(self, track: Track) -> np.ndarray:
        """Read a track's estimate, float32 ``(channels, samples)``."""
        return audio.read(self.find(track))[0]

    def check(self, track: Track) -> None:
        """Check from its header that a track's estimate fits.

        Raises:
            InputError: It is missing, unreadable, or differs from the reference in rate, channels or length.
        """
        path = self.find(track)
        found = audio.info(path)
        theirs, ours = (found.rate, found.channels, found.samples), (track.rate, track.channels, track.samples)
        if theirs != ours:
            raise InputError(
                f"{path}: {found.rate} Hz, {found.channels} channels, {found.samples} samples; the reference has "
                f"{track.rate} Hz, {track.channels}, {track.samples}; convert the estimate"
            )


def _sounds(path: Path) -> list[Path]:
    """List the sound files of a path without suffix."""
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(p for p in there if p.stem == path.name and p.suffix.lower() in SUFFIXES and p.is_file())


def references(root: Path) -> list[Track]:
    """Open the songs of a data set's test split, of a folder of songs, or of one song's folder."""
    return [song_track(root, "test")] if _sounds(root / VOCALS) else open_tracks(root, "test")[1]


def score_regions(root: Path, estimates: Mapping[str, Path], output: Path, *, threshold_db: float = -40.0) -> str:
    """Measure systems' estimates, given by name and folder; return the table as text.

    The values are written to ``output`` (JSON), and a figure (PNG) next to them. A voice sounds above ``threshold_db``,
    dB re the loudest frames. For ``root`` see :func:`references`.

    Raises:
        InputError: An estimate is missing or does not fit its reference; found before anything is measured. Or nobody
            sings above the threshold.
    """
    started, tracks = mark(), references(root)
    systems = [Estimates(name, Path(folder)) for name, folder in estimates.items()]
    if single := [system.folder for system in systems if system.folder.is_file() and len(tracks) > 1]:
        raise InputError(f"{single[0]}: one file for {len(tracks)} songs; give the folder of the system's files")
    for system in systems:
        for track in tracks:
            system.check(track)
    regions, songs = occurrence.measure_all(systems, tracks, window=0.0, threshold_db=threshold_db)
    if not regions:
        raise InputError(f"{root}: nobody sings above {threshold_db:g} dB in these songs; choose a lower threshold")
    found, by_song = tidy(regions), tidy(songs)
    gaps = {f"gap {name}": own for name, own in occurrence.grouped(found, "gap", GAPS).items() if name != "all"}
    by_duration = occurrence.compare(found, occurrence.SDR, occurrence.grouped(found, "duration", DURATIONS))
    by_gap = occurrence.compare(found, occurrence.SDR, gaps)
    rows = by_duration + by_gap + occurrence.compare(by_song, occurrence.LEAKAGE, {"where nobody sings": by_song})
    write_result(
        output,
        measured="SDR (dB) by vocal region, leakage (dB re the mixture) where nobody sings",
        parameters={"estimates": {name: str(path) for name, path in estimates.items()}, "threshold_db": threshold_db},
        values={"regions": regions, "songs": songs, "comparisons": rows},
        started=started,
        data=str(root),
        inputs=[root, *estimates.values()],
    )
    figure = figure_of_durations(by_duration)
    figures.save(figure, output.with_suffix(".png"))
    plt.close(figure)
    return occurrence.comparison_table(rows, "regions").to_string(index=False, float_format="%.2f")
