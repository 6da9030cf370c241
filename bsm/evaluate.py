"""Score separators on a data set, track by track, and keep the scores in a journal."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.inference import check_channels, separate
from bsm.metrics import bleedless_fullness, csdr_frames, ideal_ratio_mask, median, si_sdr, usdr
from bsm.model import BSMamba2

log = logging.getLogger(__name__)

Separator = Callable[[Track], np.ndarray]
"""Returns the estimated vocals of a track, ``(channels, samples)`` at the track's rate."""

METRICS = ("usdr", "csdr", "si_sdr", "bleedless", "fullness")
"""Scores of a track: three ratios in dB, then two scores from 0 to 100. Higher is better in all of them."""


def model_separator(model: BSMamba2, **options: Any) -> Separator:
    """Return :func:`bsm.inference.separate` with a model and its options fixed."""
    return lambda track: separate(model, torch.from_numpy(track.mixture()), track.rate, **options).numpy()


BASELINES: dict[str, Separator] = {
    "mixture": lambda track: track.mixture(),
    "silence": lambda track: np.zeros_like(track.mixture()),
    "ideal ratio mask": lambda track: ideal_ratio_mask(track.mixture(), track.read("vocals"), track.accompaniment()),
}
"""Baselines: the mixture itself, silence, and an oracle that knows the sources."""


def fitting(tracks: Sequence[Track], channels: int, skipped: dict[str, str] | None = None) -> list[Track]:
    """Return the tracks that a model of ``channels`` channels can separate.

    The other tracks are logged and entered in ``skipped``, with the reason.

    Raises:
        InputError: the model cannot separate a track, and ``skipped`` is None; or it can separate no track.
    """
    found = []
    for track in tracks:
        try:
            check_channels(track.channels, channels, track.name)
            found.append(track)
        except InputError as error:
            if skipped is None or (track is tracks[-1] and not found):
                raise
            skipped[track.name] = str(error)
            log.warning("skipping song %r: %s", track.name, error)
    return found


def score(reference: np.ndarray, estimate: np.ndarray, rate: int) -> dict[str, Any]:
    """Score an estimate of the vocals ``reference``, both ``(channels, samples)`` at ``rate`` Hz.

    Returns:
        All of :data:`METRICS`, and ``csdr_frames``, the per-second values whose median is the cSDR. An undefined score,
        such as the cSDR of a track without vocals, is NaN.
    """
    frames = csdr_frames(reference, estimate, rate)
    bleedless, fullness = bleedless_fullness(reference, estimate, rate)
    return {
        "usdr": usdr(reference, estimate),
        "csdr": median(frames),
        "si_sdr": si_sdr(reference, estimate),
        "bleedless": bleedless,
        "fullness": fullness,
        "csdr_frames": frames.tolist(),
    }


def evaluate(
    tracks: Sequence[Track],
    separators: dict[str, Separator],
    *,
    processes: int = 2,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """Separate and score every track with every separator.

    Separation runs in this process, one track at a time. Scoring is slow, so it runs in other processes meanwhile.
    Separation waits for scoring where needed: memory holds at most ``processes + 1`` estimates.

    Args:
        tracks: the tracks to score.
        separators: name -> separator.
        processes: number of scoring processes.
        journal: gets each record as soon as it is computed. Records that it has are not computed again.

    Returns:
        One record per track and separator, in that order: ``track``, ``separator`` and the scores of :func:`score`.

    Raises:
        InputError: a track cannot be separated, a scoring process died or cannot start, or the journal cannot be read
            or written, or has the scores of other settings.
        OSError: the journal's folder cannot be made.
    """
    done: dict[tuple[str, str], dict[str, Any]] = {}
    if journal:
        journal.path.parent.mkdir(parents=True, exist_ok=True)  # fails before minutes of computing
        done = {(r["track"], r["separator"]): r for r in journal.read()}
        log.info("%s holds %d scores and gets each new one", journal.path, len(done))
    jobs = [(track, name) for track in tracks for name in separators]
    missing = [(track, name) for track, name in jobs if (track.name, name) not in done]
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="evaluate", unit="track") as bar:
        for record in _scored(missing, separators, processes):
            if journal:
                journal.append(record)
            done[record["track"], record["separator"]] = record
            bar.update()
    return [done[track.name, name] for track, name in jobs]


def _scored(
    jobs: Sequence[tuple[Track, str]], separators: dict[str, Separator], processes: int
) -> Iterator[dict[str, Any]]:
    """Yield the jobs' records in order, each as soon as it and those before it are finished."""
    if not jobs:
        return
    waiting = deque()  # a job's name and future
    # Spawned, because a forked process would inherit the locks of PyTorch's threads. Each process computes in one
    # thread: separation needs the other cores.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    started = pool.submit(int)  # fails at once, in the spawned process, in a script without a main guard
    try:
        for track, name in jobs:
            try:
                estimate = separators[name](track)
            except InputError as error:
                raise InputError(f"{track.name}: {error}") from error
            future = pool.submit(score, track.read("vocals"), estimate, track.rate)
            waiting.append(({"track": track.name, "separator": name}, future))
            del estimate  # now the pool alone holds it, and frees it after scoring
            while waiting and (len(waiting) > processes or waiting[0][1].done()):
                job, future = waiting.popleft()
                yield job | future.result()
        for job, future in waiting:
            yield job | future.result()
    except BrokenProcessPool as error:
        if started.exception():
            raise InputError(
                "no scoring process could start; in a script, call this below `if __name__ == '__main__':`"
            ) from error
        raise InputError(
            f"a scoring process died, perhaps because memory ran out; use fewer than {processes} processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Journal:
    """Keep scores in the file ``path`` as they are computed, so that a stopped evaluation can resume.

    The file has JSON lines: first ``settings``, JSON values of everything that could change a score, then one record
    per line. A file with other settings is refused. NaN is written as ``NaN``, as Python's JSON does. A last line that
    was cut short is dropped, and its track is scored again.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))

    def read(self) -> list[dict[str, Any]]:
        """Return the records so far; an empty list if the file does not exist.

        Raises:
            InputError: The file cannot be read, is not a journal, or has other settings; the message names those.
        """
        try:
            *lines, cut = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from error
        records = self._checked(lines) if lines else []  # no whole line: the settings were cut short
        if cut:
            with self.path.open("rb+") as file:
                file.truncate(sum(len(line) + 1 for line in lines))
        return records

    def _checked(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """Return the records in a file's whole lines after a check of the settings in the first."""
        try:
            found, *records = [json.loads(line) for line in lines]
            if not isinstance(found, dict) or not all({"track", "separator"} <= r.keys() for r in records):
                raise ValueError("no settings, or no records")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self.path}: not a list of scores ({error}); delete it to start again") from error
        if found != self.settings:
            names = sorted(k for k in found | self.settings if found.get(k) != self.settings.get(k))
            others = "; ".join(f"{k} was {found.get(k)!r}, is {self.settings.get(k)!r}" for k in names)
            raise InputError(
                f"{self.path}: holds the scores of another evaluation ({others}); "
                "choose another result file, or delete this one to start again"
            )
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Write a record to the file. A full disk, or a file that cannot be written, is an InputError."""
        # backslashreplace writes bytes of a track's name that are not UTF-8 as JSON escapes.
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                lines = [record] if file.tell() else [self.settings, record]
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); free space or make it writable, and try again"
            ) from error


def fingerprint(tracks: Sequence[Track]) -> str:
    """Return a short hash of the songs' identities. It changes with the songs, but not with their place."""
    return hashlib.sha256(json.dumps([track.identity() for track in tracks]).encode()).hexdigest()[:16]


def digest(settings: dict[str, Any]) -> str:
    """Return a short hash of an evaluation's settings, for the names of its files."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
