"""The Mamba-2 selective scan: one function with several interchangeable backends.

Each head ``h`` carries a state of ``headdim x state`` numbers through the sequence::

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T          y_t = S_t C_t + D x_t

This is the state-space-dual form of Mamba-2 (Dao & Gu 2024, section 3). Shapes and names are those of the official
implementation (mamba-ssm, ``mamba_chunk_scan_combined``).
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from bsm.errors import BackendUnavailable, known

log = logging.getLogger(__name__)

# One line per backend. Its module has a function `scan`, called with the same arguments after they were checked here.
# If it needs a package or a device, it also has `unavailable(device)`, which returns what is missing, or None.
EXACT: tuple[str, ...] = (
    "sequential",
    "chunked",
    "quadratic",
    "triton",
    "selective",
)
APPROXIMATE: tuple[str, ...] = ("feedthrough",)


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
    """Scan a sequence of any length, on any device.

    The precision is that of the arguments: autocast is off inside.

    Args:
        x: input, ``(batch, length, heads, headdim)``.
        dt: step sizes after softplus, ``(batch, length, heads)``, not negative.
        A: decay rates, ``(heads,)``, not positive. Signs are checked on the CPU only: reading a value from a GPU would
            make every call wait for it.
        B: input projections, ``(batch, length, groups, state)``; ``groups`` divides ``heads``.
        C: output projections, shaped as ``B``.
        D: weights of the direct term, ``(heads,)``, or None for none.
        initial_state: state before the first step, ``(batch, heads, headdim, state)``, or None for zeros.
        backend: a name in :data:`EXACT` or :data:`APPROXIMATE`, or ``auto`` for the fastest exact one here.
        reverse: run from the last step to the first, as in the backward half of a bidirectional block.
        final_state: whether to compute the last state.

    Returns:
        ``y``, shaped and typed as ``x``, and the state after the last step, ``(batch, heads, headdim, state)`` in
        float32 (float64 for float64 input); None without ``final_state``.

    Raises:
        ValueError: An argument has the wrong shape, type, device or sign, or the backend is unknown.
        BackendUnavailable: The backend needs a package or a device that is missing.
    """
    _check(x, dt, A, B, C, D, initial_state)
    device = x.device.type
    if backend == "auto":
        backend = _choose(device, x.dtype)
    module = _module(backend, device)
    with torch.autocast(device, enabled=False):
        return module.scan(x, dt, A, B, C, D, initial_state=initial_state, reverse=reverse, final_state=final_state)


def available(device: str | None = None) -> dict[str, str | None]:
    """Return, for each backend, what it lacks to run on a device, or None. Imports no large package."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {name: _unavailable(name, device) for name in EXACT + APPROXIMATE}


@cache
def _module(backend: str, device: str) -> ModuleType:
    known("scan backend", backend, ("auto", *EXACT, *APPROXIMATE))
    if reason := _unavailable(backend, device):
        raise BackendUnavailable(f"scan backend {backend!r}: {reason}")
    return importlib.import_module(f"bsm.scan.{backend}")


def _unavailable(backend: str, device: str) -> str | None:
    module = importlib.import_module(f"bsm.scan.{backend}")
    return module.unavailable(device) if hasattr(module, "unavailable") else None


@cache
def _choose(device: str, dtype: torch.dtype) -> str:
    """Choose the fastest exact backend, and log it once for each kind of device and precision.

    The choice depends on the installed packages. If the chosen backend then fails, its error is raised: no other
    backend takes over. In our measurements, from 20 steps on, ``chunked`` was faster than ``quadratic`` at any length.
    """
    if device == "cuda" and dtype != torch.float64:
        lacks = _unavailable("triton", device)
        picked, why = ("chunked", f"plain PyTorch; triton: {lacks}") if lacks else ("triton", "kernels of mamba-ssm")
    else:
        picked, why = "chunked", "plain PyTorch"
    log.info("scan backend for %s on %s: %s (%s)", str(dtype).removeprefix("torch."), device, picked, why)
    return picked


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
        # With half-precision inputs, parameters, steps and states may stay in float32.
        if tensor is not None and tensor.dtype not in (x.dtype, compute_dtype(x.dtype)):
            raise ValueError(f"{name} must be {x.dtype} or {compute_dtype(x.dtype)}, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on {x.device} like x, got {tensor.device}")
    if x.device.type == "cpu":
        if (largest := A.detach().max()) > 0:
            raise ValueError(f"A must not be positive (states would grow), its largest value is {largest:g}")
        if (smallest := dt.detach().min()) < 0:
            raise ValueError(f"dt must not be negative (apply softplus first), its smallest value is {smallest:g}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of states and sums for an input type: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
