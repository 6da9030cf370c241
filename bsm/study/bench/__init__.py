"""Speed and memory, measured as ratios within one run, because other work slows a machine unseen."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

SEED = 0
"""Seed of the random inputs and initial values that are measured with."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def repeated(functions: dict[str, Callable[[], Any]], repeats: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Time functions in turn, round after round, so that a slow spell affects all of them.

    Args:
        functions: by name.
        repeats: counted rounds.
        warm_up: rounds before those.

    Returns:
        The seconds of each counted round, by name. Work queued on a GPU is waited for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + repeats):
        for name, function in functions.items():
            finish()
            started = time.perf_counter()
            function()
            finish()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def finish() -> None:
    """Wait for the work that is queued on a GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def matmul_rate(size: int = 1536, repeats: int = 5, device: str = "cpu") -> float:
    """Measure a device's float32 matrix-product rate, in operations (multiplications and additions) a second."""
    a, b = torch.randn(2, size, size, device=device)
    seconds = repeated({"matmul": lambda: a @ b}, repeats)["matmul"]
    return 2 * size**3 / min(seconds)


def peak_memory(prepare: Callable[..., Any], run: Callable[[Any], Any], args: tuple, *, warm_up: tuple) -> int | None:
    """Measure, in a fresh process, by how many bytes ``run(prepare(*args))`` raises resident memory above its inputs.

    The process is fresh because an allocator hands out freed memory again, which would not be seen. There,
    ``run(prepare(*warm_up))`` comes first, with small inputs, so that libraries are loaded. Both functions must be
    importable.

    Returns:
        Bytes; None where the system has no ``/proc/self/clear_refs``, which only Linux has.
    """
    if not _CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, prepare, run, args, warm_up, torch.get_num_threads()).result()


def peak_memory_cuda(run: Callable[[], Any]) -> int:
    """Measure by how many bytes ``run()`` raises the memory that PyTorch has allocated on the GPU."""
    finish()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    finish()
    return torch.cuda.max_memory_allocated() - before


def _measure(prepare: Callable, run: Callable, args: tuple, warm_up: tuple, threads: int) -> int:
    torch.set_num_threads(threads)
    run(prepare(*warm_up))
    prepared = prepare(*args)
    _CLEAR.write_text("5")  # the high-water mark starts again here
    before = _resident("VmRSS")
    run(prepared)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
