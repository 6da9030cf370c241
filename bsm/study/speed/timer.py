"""Time, memory and how quiet the machine was. Cases take turns within one run, so that their ratios can be trusted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

SEED = 0
"""Seed of the random inputs and initial values that are measured with."""
WAITED = 1.1
"""A round that computes counts as disturbed if its wall time exceeds its processor time by this factor."""
SPREAD = 1.5
"""A round counts as disturbed if it takes longer than the best round of the same case by this factor."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Rounds:
    """The times of cases that took turns.

    Attributes:
        seconds: wall time of every kept round, s, by case.
        processor_seconds: processor time of this process in these rounds, s, by case; None for cases that wait for a
            GPU, a disk or other processes.
        found: what the measurements returned beside their times in these rounds, by case.
        repeated: rounds measured beyond the number asked for, because others were disturbed.
    """

    seconds: dict[Any, list[float]]
    processor_seconds: dict[Any, list[float]] | None
    found: dict[Any, list[tuple[Any, ...]]]
    repeated: int

    def of(self, case: Any = None) -> dict[str, Any]:
        """Return ``seconds``, ``processor_seconds`` and ``rounds_repeated`` of a case, or of all as mappings."""
        seconds, processor = (
            times if case is None or times is None else times[case] for times in (self.seconds, self.processor_seconds)
        )
        return {"seconds": seconds, "processor_seconds": processor, "rounds_repeated": self.repeated}

    def records(self, called: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a record per case: the given fields, the case in the field ``called``, and its times (:meth:`of`)."""
        return [{**fields, called: case} | self.of(case) for case in self.seconds]


def repeated(
    functions: Mapping[Any, Callable[[], Any]], repeats: int, *, warm_up: int = 1, waits: bool = False
) -> Rounds:
    """Time functions in turn, after ``warm_up`` rounds that do not count; see :func:`turns`."""
    for _ in range(warm_up):
        for function in functions.values():
            function()
    return turns({name: partial(timed, function) for name, function in functions.items()}, repeats, waits=waits)


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Call a function; return its wall time and this process's processor time, s. Work queued on a GPU is awaited."""
    finish()
    started = time.perf_counter(), time.process_time()
    function()
    finish()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def turns(measures: Mapping[Any, Callable[[], tuple[Any, ...]]], repeats: int, *, waits: bool = False) -> Rounds:
    """Take measurements in turn, round after round, so that a slow spell affects all of them.

    A round in which any case was disturbed (:func:`disturbed`) is measured again, until there are ``repeats`` quiet
    rounds, or twice as many rounds in all. If too few are quiet, disturbed rounds are kept as well. :func:`is_quiet`
    then says so.

    Args:
        measures: functions by case; each returns a wall time and a processor time, s, as :func:`timed` does, and may
            return more.
        repeats: number of kept rounds.
        waits: the cases wait for a disk or other processes, so processor times say nothing; always true on a GPU.
    """
    taken: list[dict[Any, tuple[Any, ...]]] = []
    quiet: list[int] = []

    def times(case: Any, rounds: Sequence[int]) -> list[list[float]]:
        return [[taken[turn][case][clock] for turn in rounds] for clock in (0, 1)]

    while len(quiet) < repeats and len(taken) < 2 * repeats:
        taken.append({case: measure() for case, measure in measures.items()})
        waits = waits or torch.cuda.is_initialized()
        both = [times(case, range(len(taken))) for case in measures]
        marks = [disturbed(wall, None if waits else own) for wall, own in both]
        quiet = [turn for turn, marked in enumerate(zip(*marks, strict=True)) if not any(marked)]
    others = [turn for turn in range(len(taken)) if turn not in quiet]
    kept = sorted([*quiet, *others][:repeats])
    wall, own = ({case: times(case, kept)[clock] for case in measures} for clock in (0, 1))
    found = {case: [taken[turn][case][2:] for turn in kept] for case in measures}
    return Rounds(wall, None if waits else own, found, len(taken) - repeats)


def disturbed(seconds: Sequence[float], processor_seconds: Sequence[float] | None = None) -> list[bool]:
    """Tell for each round of a case whether it waited (:data:`WAITED`) or took too long (:data:`SPREAD`)."""
    longest = SPREAD * min(seconds, default=0.0)
    processor_seconds = processor_seconds or seconds
    return [wall > longest or wall > WAITED * own for wall, own in zip(seconds, processor_seconds, strict=True)]


def is_quiet(record: Mapping[str, Any]) -> bool:
    """Tell whether a timing of :meth:`Rounds.of` counts: no round that it holds was disturbed."""
    seconds, processor = record["seconds"], record.get("processor_seconds")
    if isinstance(seconds, Mapping):
        return not any(any(disturbed(own, (processor or {}).get(name))) for name, own in seconds.items())
    return not any(disturbed(seconds, processor))


def finish() -> None:
    """Wait for the work that is queued on a GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def matmul_rate(device: str = "cpu") -> float:
    """Measure a device's float32 matrix-product rate, in operations (multiplications and additions) a second."""
    size = 1536
    a, b = torch.randn(2, size, size, device=device)
    seconds = repeated({"matmul": lambda: a @ b}, 5).seconds["matmul"]
    return 2 * size**3 / min(seconds)


def compiling(plain: Callable[[], Any], compiled: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Time a function and its compiled form in turns. ``compile_seconds`` is the compiled form's first call."""
    seconds, _ = timed(compiled)
    return {"compile_seconds": seconds} | repeated({"plain": plain, "compiled": compiled}, repeats).of()


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """Call an importable function in a fresh process, with as many threads as here; return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(torch.set_num_threads, torch.get_num_threads()).result()
        return pool.submit(function, *args).result()


def resident(function: Callable[[], Any]) -> tuple[Any, int | None, int | None]:
    """Call a function; return its result, and this process's resident memory before it and at its peak, in bytes.

    The memory is None outside Linux, which alone has ``/proc/self/clear_refs``.
    """
    if not _CLEAR.exists():
        return function(), None, None
    _CLEAR.write_text("5")  # the high-water mark starts again here
    before = _status("VmRSS")
    return function(), before, _status("VmHWM")


def peak_memory_cuda(run: Callable[[], Any]) -> int:
    """Measure by how many bytes ``run()`` raises the memory that PyTorch has allocated on the GPU."""
    finish()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    finish()
    return torch.cuda.max_memory_allocated() - before


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
