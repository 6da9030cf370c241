"""The Mamba-2 selective scan: one function, several interchangeable backends.

Every head ``h`` carries a state of ``headdim x state`` numbers through the sequence::

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T          y_t = S_t C_t + D x_t

which is the state-space-dual form of Mamba-2 (Dao & Gu 2024, section 3). Shapes and names are those of the official
implementation (mamba-ssm, ``mamba_chunk_scan_combined``).
"""

from __future__ import annotations

import importlib
import logging
from functools import cache

import torch
from torch import Tensor

from bsm.errors import BackendUnavailable

log = logging.getLogger(__name__)

# One line per backend: its module holds `scan` (same arguments, checked) and, where it can be missing, `unavailable`.
EXACT: tuple[str, ...] = ("sequential", "chunked", "quadratic")
APPROXIMATE: tuple[str, ...] = ()


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
    reverse: bool = False,
    final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Scan a sequence; any length, any device.

    Args:
        x: input, ``(batch, length, heads, headdim)``.
        dt: step sizes after softplus, ``(batch, length, heads)``, not negative.
        A: decay rates, ``(heads,)``, not positive.
        B: input projections, ``(batch, length, groups, state)``; ``groups`` divides ``heads``.
        C: output projections, as ``B``.
        D: weights of the direct term, ``(heads,)``, or None for none.
        initial_state: state before the first step, ``(batch, heads, headdim, state)``, or None for zeros.
        backend: ``auto`` or a name in :data:`EXACT` or :data:`APPROXIMATE`.
        reverse: run from the last step to the first (the backward half of a bidirectional block), without flips.
        final_state: whether to return the last state; leaving it out saves its computation.

    Returns:
        ``y``, shaped and typed as ``x``, and the state after the last step, ``(batch, heads, headdim, state)`` in
        float32 (float64 for float64 input), or None.

    Raises:
        ValueError: shapes, types or signs that do not fit; the message names the argument.
        BackendUnavailable: the backend needs a package or device that is not here.
    """
    _check(x, dt, A, B, C, D, initial_state)
    if backend == "auto":
        backend = _choose(x.device.type)
    module = _module(backend)
    return module.scan(x, dt, A, B, C, D, initial_state=initial_state, reverse=reverse, final_state=final_state)


def available() -> dict[str, str | None]:
    """Map each backend to None where it can run here, else to what it lacks."""
    return {name: _unavailable(name) for name in EXACT + APPROXIMATE}


@cache
def _module(backend: str):
    if backend not in EXACT + APPROXIMATE:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(EXACT + APPROXIMATE)}, got {backend!r}")
    if reason := _unavailable(backend):
        raise BackendUnavailable(f"scan backend {backend!r}: {reason}")
    return importlib.import_module(f"bsm.scan.{backend}")


def _unavailable(backend: str) -> str | None:
    return getattr(importlib.import_module(f"bsm.scan.{backend}"), "unavailable", lambda: None)()


@cache
def _choose(device: str) -> str:
    """Pick the fastest exact backend for a device, and say so once."""
    log.info("scan backend on %s: chunked (plain PyTorch)", device)
    return "chunked"


def _check(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"x must be (batch, length, heads, headdim), none of them 0, got {tuple(x.shape)}")
    batch, length, heads, headdim = x.shape
    if B.ndim != 4 or B.shape[:2] != x.shape[:2] or B.shape[2] == 0 or heads % B.shape[2]:
        raise ValueError(
            f"B must be (batch={batch}, length={length}, groups dividing heads={heads}, state), got {tuple(B.shape)}"
        )
    wanted = {
        "dt": (dt, (batch, length, heads)),
        "A": (A, (heads,)),
        "C": (C, tuple(B.shape)),
        "D": (D, (heads,)),
        "initial_state": (state, (batch, heads, headdim, B.shape[3])),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
    for name, tensor in {"x": x, "B": B, "C": C}.items():
        if tensor.dtype != x.dtype or not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point like x ({x.dtype}), got {tensor.dtype}")
    for name, (tensor, _) in wanted.items():
        # Half-precision inputs come with parameters, steps and states kept in float32.
        if tensor is not None and tensor.dtype not in (x.dtype, compute_dtype(x.dtype)):
            raise ValueError(f"{name} must be {x.dtype} or {compute_dtype(x.dtype)}, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on {x.device} like x, got {tensor.device}")
    if A.detach().max() > 0:
        raise ValueError(f"A must not be positive (states would grow), its largest value is {A.detach().max():g}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of states and sums for an input type: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
