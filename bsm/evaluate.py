"""Score separators on a data set, track by track, with no more than a few estimates in memory."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.inference import separate
from bsm.metrics import bleedless_fullness, csdr_frames, ideal_ratio_mask, si_sdr, usdr
from bsm.model import BSMamba2

log = logging.getLogger(__name__)

Separator = Callable[[Track], np.ndarray]
"""Gives the estimated vocals of a track, ``(channels, samples)`` at the track's rate."""

METRICS = ("usdr", "csdr", "si_sdr", "bleedless", "fullness")
"""What :func:`score` gives for a track: three ratios in dB and two scores from 0 to 100; more is better in all."""


def model_separator(model: BSMamba2, **options: Any) -> Separator:
    """Return :func:`bsm.inference.separate` with a model and its options fixed."""
    return lambda track: separate(model, torch.from_numpy(track.mixture()), track.rate, **options).numpy()


BASELINES: dict[str, Separator] = {
    "mixture": lambda track: track.mixture(),
    "silence": lambda track: np.zeros_like(track.mixture()),
    "ideal ratio mask": lambda track: ideal_ratio_mask(track.mixture(), track.read("vocals"), track.accompaniment()),
}
"""What a score is read against: no separation, no output, and an oracle that is shown the sources."""


def score(reference: np.ndarray, estimate: np.ndarray, rate: int) -> dict[str, Any]:
    """Score one estimate by all of :data:`METRICS`, with the per-second values behind cSDR as ``csdr_frames``.

    NaN stands for what is undefined: cSDR of a track without vocals, say.
    """
    frames = np.asarray(csdr_frames(reference, estimate, rate))
    bleedless, fullness = bleedless_fullness(reference, estimate, rate)
    return {
        "usdr": usdr(reference, estimate),
        "csdr": float(np.nanmedian(frames)) if not np.isnan(frames).all() else float("nan"),
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

    Separation runs here, one track at a time; scoring, which museval makes slow, runs in other processes meanwhile.
    Where they fall behind, separation waits: at most ``processes + 1`` estimates are held.

    Args:
        tracks: what to evaluate.
        separators: by name.
        processes: that score.
        journal: keeps each record as soon as it is there; what it holds already is not computed again.

    Returns:
        One record per track and separator, in that order: ``track``, ``separator`` and the scores of :func:`score`.

    Raises:
        InputError: a scoring process died, or the journal is of another evaluation.
    """
    done: dict[tuple[str, str], dict[str, Any]] = {}
    if journal:
        journal.path.parent.mkdir(parents=True, exist_ok=True)  # fails now, not after minutes of computing
        done = {(r["track"], r["separator"]): r for r in journal.read()}
        log.info("scores are kept in %s as they come; it holds %d", journal.path, len(done))
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
    """Yield the jobs' records as they are finished."""
    if not jobs:
        return
    waiting: dict[Future, dict[str, str]] = {}
    # Spawned, not forked: a fork would inherit the locks of PyTorch's threads. One thread each: separation needs them.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        for track, name in jobs:
            try:
                estimate = separators[name](track)
            except InputError as error:
                raise InputError(f"{track.name}: {error}") from error
            future = pool.submit(score, track.read("vocals"), estimate, track.rate)
            waiting[future] = {"track": track.name, "separator": name}
            del estimate, future  # the queue alone holds it, until it is scored
            yield from _finished(waiting, most=processes)
        yield from _finished(waiting, most=0)
    except BrokenProcessPool as error:
        raise InputError(
            f"a scoring process died, for want of memory perhaps; try fewer than {processes} processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(waiting: dict[Future, dict[str, str]], most: int) -> Iterator[dict[str, Any]]:
    """Yield what is scored, and wait until no more than ``most`` are left."""
    while waiting:
        ready, _ = wait(waiting, timeout=0 if len(waiting) <= most else None, return_when=FIRST_COMPLETED)
        if not ready and len(waiting) <= most:
            return
        for future in ready:
            yield waiting.pop(future) | future.result()


class Journal:
    """Scores as they come, so that an evaluation that was stopped goes on where it was.

    A file of JSON lines: the first holds the settings, every further one a record. Undefined values stay NaN, which
    strict JSON lacks and Python reads. A last line that was cut short is scored again.

    Args:
        path: the file; it appears with the first record.
        settings: JSON values, all that could change a score; records made under others are refused.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))

    def read(self) -> list[dict[str, Any]]:
        """Return the records so far; none where there is no file yet.

        Raises:
            InputError: not such a file, or its settings are others; it names them.
        """
        try:
            *lines, cut = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from error
        records = self._checked(lines) if lines else []  # without a whole line: the first record was cut short
        if cut:
            with self.path.open("rb+") as file:
                file.truncate(sum(len(line) + 1 for line in lines))
        return records

    def _checked(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """Return the records of a file's whole lines, the first of which must hold the settings."""
        try:
            found, *records = [json.loads(line) for line in lines]
            if not isinstance(found, dict) or not all({"track", "separator"} <= r.keys() for r in records):
                raise ValueError("no settings, or no records")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self.path}: not a list of scores ({error}); delete it to start anew") from error
        if found != self.settings:
            names = sorted(k for k in found | self.settings if found.get(k) != self.settings.get(k))
            others = "; ".join(f"{k} was {found.get(k)!r}, is {self.settings.get(k)!r}" for k in names)
            raise InputError(
                f"{self.path}: holds the scores of another evaluation ({others}); "
                "choose another result file, or delete this one to start anew"
            )
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; it is in the file when this returns.

        Raises:
            InputError: the file cannot be written, or the disk is full.
        """
        # backslashreplace: a track's name that is not UTF-8 becomes JSON's escape of it.
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                lines = [record] if file.tell() else [self.settings, record]
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); make room or make it writable, and run it again"
            ) from error


def fingerprint(tracks: Sequence[Track]) -> str:
    """Return what changes when songs do: a short hash of names, rates, lengths, and the files' sizes and times."""
    parts = []
    for track in tracks:
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in track.files]
        parts.append([track.name, track.rate, track.samples, sorted(stats)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
