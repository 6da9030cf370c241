"""Loops over float32 data on a CPU, compiled by numba.

An operation of PyTorch passes over all its data once. A compiled loop does the work of several operations in one pass.
Each loop stands next to the definition that it equals, which computes everything else: other devices, other types, and
what ``torch.compile`` traces. numba compiles a loop when it is first called, within a second or two, and keeps the
result in a cache on the disk. In an inner loop, index arrays directly: a view of a row costs numba a reference count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

Result, Function = TypeVar("Result"), TypeVar("Function", bound=Callable[..., Any])

SHARE = 1 << 18  # elements; starting a thread for fewer costs more than it gains
ONE, HALF = np.float32(1), np.float32(0.5)
LOG2_E, LN2_HIGH, LN2_LOW = (np.float32(v) for v in (1.4426950408889634, 0.693359375, -2.12194440e-4))
LARGEST = np.float32(87)  # exp(87) is finite
EXP = [np.float32(v) for v in (1.987569150e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, HALF)]
E0, E1, E2, E3, E4, E5 = EXP  # of exp(r) = 1 + r + r^2 (E5 + E4 r + ...), from the Cephes library


def _compile(*fastmath: str) -> Callable[[Function], Function]:
    """Return a decorator that compiles a loop with some freedoms in floating-point operations."""
    options = {"fastmath": set(fastmath), "error_model": "numpy", "nogil": True}

    def decorate(function: Function) -> Function:
        try:
            return numba.njit(function, cache=True, **options)
        except RuntimeError:  # there is nowhere to write a cache
            _say_uncached()
            return numba.njit(function, **options)

    return decorate


@cache
def _say_uncached() -> None:
    log.warning("numba finds no folder for its cache, and compiles loops anew in each run: set NUMBA_CACHE_DIR")


compiled = _compile("contract", "nsz", "arcp")  # keeps the order of sums
compiled_sum = _compile("contract", "nsz", "arcp", "reassoc")


def applies(*tensors: Tensor) -> bool:
    """Return whether compiled loops can take these tensors: plain float32 on a CPU, and nothing traces the call."""
    plain = all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    here = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return plain and here and not torch.compiler.is_compiling()


def over_rows(loop: Callable[..., Result], tensors: Sequence[Tensor], *rest: Any) -> list[Result]:
    """Call a compiled loop with shares of the rows of some tensors, one share for each of PyTorch's threads.

    A loop releases Python's lock, so that the shares run at the same time. Small tensors are not divided, nor are any
    for two threads: PyTorch's own threads wait busily for a while, which then costs more than sharing gains.

    Args:
        loop: takes the arrays of a share, then ``rest``.
        tensors: have equally many rows. Those that the loop writes to must be contiguous.
        rest: what every call gets; tensors among it are given as arrays.

    Returns:
        The results of the calls, in the order of the rows.
    """
    arrays, rest = [_array(v) for v in tensors], [_array(v) if isinstance(v, Tensor) else v for v in rest]
    rows, elements = len(arrays[0]), max(v.size for v in arrays)
    shares = min(torch.get_num_threads(), rows, elements // SHARE)
    if shares <= 2:
        return [loop(*arrays, *rest)]
    cuts = [rows * i // shares for i in range(shares + 1)]
    with ThreadPoolExecutor(shares) as pool:
        calls = [pool.submit(loop, *(v[i:j] for v in arrays), *rest) for i, j in pairwise(cuts)]
        return [call.result() for call in calls]


def _array(tensor: Tensor) -> np.ndarray:
    """Return the values as a contiguous array, which shares the tensor's memory if that is contiguous."""
    return tensor.detach().contiguous().numpy()


@compiled
def sigmoid(x):
    """Return ``1 / (1 + exp(-x))`` of a float32; loops that call it work on several values at a time."""
    x = min(max(-x, -LARGEST), LARGEST)
    n = np.floor(x * LOG2_E + HALF)
    r = x - n * LN2_HIGH - n * LN2_LOW  # exp(x) = 2^n exp(r)
    exp = (((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5) * (r * r) + r + ONE
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)  # 2^n, by its bits
    return ONE / (ONE + exp * power)
