"""The official GPU kernels: mamba-ssm's ``mamba_chunk_scan_combined``, written in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan import _mamba_ssm

CHUNK, LEAST_CHUNK = 256, 16  # steps; as in the official layers, and the least that the kernels accept


def unavailable(device: str) -> str | None:
    """Return what is missing for tensors on ``device``, or None. Imports no large package."""
    if not torch.cuda.is_available():
        lacks = ["a CUDA device, and PyTorch sees none"]
    else:
        lacks = [] if device == "cuda" else [f"tensors on a CUDA device (these are on {device})"]
    if missing := _mamba_ssm.missing("triton", "mamba_ssm", "einops"):
        lacks.append(f"the packages {', '.join(missing)} ({_mamba_ssm.INSTALL})")
    return f"needs {', and '.join(lacks)}" if lacks else None


def scan(x, dt, A, B, C, D, *, initial_state, reverse, final_state) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`. The kernels run in one direction only; ``reverse`` flips the sequence.

    They sum in float32 and pass states between chunks in the precision of ``C``. A chunk is the next power of two from
    the length, at most :data:`CHUNK`. On GPUs with TF32, Triton multiplies float32 matrices with about three correct
    digits. To avoid that, set ``TRITON_F32_DEFAULT=ieee`` before the kernels are compiled.

    Raises:
        ValueError: ``x`` is float64: there is no kernel for it.
    """
    if x.dtype == torch.float64:
        raise ValueError("x must be float32, bfloat16 or float16 for the triton backend, got float64")
    combined = _mamba_ssm.load("ops.triton.ssd_combined").mamba_chunk_scan_combined
    chunk = min(CHUNK, max(LEAST_CHUNK, 1 << (x.shape[1] - 1).bit_length()))
    if reverse:
        x, dt, B, C = (v.flip(1) for v in (x, dt, B, C))
    A, D, initial_state = (None if v is None else v.float() for v in (A, D, initial_state))
    result = combined(x, dt, A, B, C, chunk, D=D, initial_states=initial_state, return_final_states=final_state)
    y, state = result if final_state else (result, None)
    return y.flip(1) if reverse else y, None if state is None else state.float()
