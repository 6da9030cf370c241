"""Mamba-1's selective scan, applied to a Mamba-2 problem: the CUDA path of the unofficial implementation under study.

Mamba-1 has a decay for each channel and state, Mamba-2 one for each head (Dao & Gu 2024, section 2). So this backend
repeats ``A`` over ``headdim x state`` and ``dt`` over ``headdim``. Each channel, step and state costs an exponential.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bsm.scan import _mamba_ssm, compute_dtype

SEGMENT = 64  # steps of the plain recurrence between stored states
KERNEL_STATES = 256  # at most


def unavailable(device: str) -> str | None:
    """Return what is missing for tensors on ``device``, or None. Imports no large package."""
    if device != "cuda":
        return None
    missing = _mamba_ssm.missing("mamba_ssm", "selective_scan_cuda", "triton", "einops")
    if not missing:
        return None
    compiled = "; selective_scan_cuda is mamba-ssm's compiled extension, which MAMBA_SKIP_CUDA_BUILD leaves out"
    return f"needs the packages {', '.join(missing)} ({_mamba_ssm.INSTALL}{compiled})"


def scan(x, dt, A, B, C, D, *, initial_state, reverse, final_state) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`. Uses mamba-ssm's ``selective_scan_fn`` on a GPU and plain PyTorch elsewhere.

    The plain recurrence is our own. mamba-ssm's ``selective_scan_ref`` computes in float32 only, stores
    ``length x channels x state`` numbers several times, and cannot be imported without Triton. A test compares the two.

    The kernel starts from zero and has no gradient through its last state, so both are computed here. By linearity, an
    initial state ``S`` adds ``exp(a_t) C_t . S`` to the output, where ``a`` is the running sum of ``dt A``. The last
    state is ``exp(a_T) S + sum_t exp(a_T - a_t) dt_t x_t B_t^T``. The kernel needs ``dt`` in the precision of ``x``, so
    half precision is converted to float32.

    Raises:
        ValueError: on a GPU, ``x`` is float64 or the state has more than 256 numbers: there is no kernel for either.
    """
    dtype = compute_dtype(x.dtype)
    out_dtype, (_, _, heads, headdim) = x.dtype, x.shape
    x, dt, A, B, C = (v.to(dtype) for v in (x, dt, A, B, C))
    if reverse:
        x, dt, B, C = (v.flip(1) for v in (x, dt, B, C))
    u = x.flatten(2).mT  # (b, h p, l), as Mamba-1 wants it
    delta = dt.repeat_interleave(headdim, dim=2).mT
    rates = A.repeat_interleave(headdim)[:, None].expand(-1, B.shape[3]).contiguous()  # (h p, n)
    weights = None if D is None else D.to(dtype).repeat_interleave(headdim)
    B_g, C_g = (v.permute(0, 2, 3, 1) for v in (B, C))  # (b, g, n, l)
    if x.is_cuda:
        if dtype == torch.float64 or B.shape[3] > KERNEL_STATES:
            raise ValueError(
                "x must not be float64 and the state at most 256 for the selective backend on a GPU, "
                f"got {out_dtype} and {B.shape[3]}"
            )
        kernel = _mamba_ssm.load("ops.selective_scan_interface").selective_scan_fn
        y = kernel(u, delta, rates, B_g, C_g, weights)
    else:
        y = _recurrence(u, delta, rates, B_g, C_g, weights)
    y = y.mT.unflatten(2, (heads, headdim))
    # Running sums in float64: after a strong decay, float32 has too few digits left for a weak one.
    log_decay = (dt * A).double()  # (b, l, h)
    if initial_state is not None:
        S = initial_state.to(dtype)
        each = C.repeat_interleave(heads // C.shape[2], dim=2).transpose(1, 2)  # (b, h, l, n)
        y = y + log_decay.cumsum(1).exp().to(dtype)[..., None] * (each @ S.mT).transpose(1, 2)
    state = None
    if final_state:
        # The decay after each step, summed from the end. A step's own decay is left out, not added and subtracted.
        later = torch.cat([log_decay[:, 1:], torch.zeros_like(log_decay[:, :1])], 1).flip(1).cumsum(1).flip(1)
        kept = (x * (dt * later.exp().to(dtype))[..., None]).permute(0, 2, 3, 1)  # (b, h, p, l)
        state = kept @ B.repeat_interleave(heads // B.shape[2], dim=2).transpose(1, 2)
        if initial_state is not None:
            state = state + log_decay.sum(1).exp().to(dtype)[..., None, None] * S
    return (y.flip(1) if reverse else y).to(out_dtype), state


def _recurrence(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    """Run Mamba-1's selective scan by its definition (Gu & Dao 2023, algorithm 2).

    Input ``u``, step sizes ``delta`` and the result are ``(batch, channels, length)``. Decay rates ``A`` are
    ``(channels, state)``; projections ``B`` and ``C`` are ``(batch, groups, state, length)``; weights ``D`` of the
    direct term are ``(channels,)``, or None. Like the kernel, training keeps the states between segments and recomputes
    those inside.
    """
    state = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for steps in zip(*(v.split(SEGMENT, dim=-1) for v in (u, delta, B, C)), strict=True):
        if torch.is_grad_enabled():
            y, state = checkpoint(_segment, state, A, *steps, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state = _segment(state, A, *steps)
        outputs.append(y)
    y = torch.cat(outputs, dim=-1)
    return y if D is None else y + D[:, None] * u


def _segment(state: Tensor, A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Step through a segment from a state ``(batch, channels, n)``; return the outputs and the last state."""
    per_group = u.shape[1] // B.shape[1]
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(*(v.unbind(-1) for v in (u, delta, B, C)), strict=True):
        B_t, C_t = (v.repeat_interleave(per_group, dim=1) for v in (B_t, C_t))  # (b, channels, n)
        state = torch.exp(delta_t[..., None] * A) * state + (delta_t * u_t)[..., None] * B_t
        outputs.append((state * C_t).sum(-1))
    return torch.stack(outputs, dim=-1), state
