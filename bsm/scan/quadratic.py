"""The scan as one masked product, as in attention. Its cost grows with the square of the length."""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan import compute_dtype


def scan(x, dt, A, B, C, D, *, initial_state, reverse, final_state) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`. Uses plain autograd and shares no code with ``chunked``.

    With ``a`` the running sum of ``dt A``, step ``j`` reaches step ``i`` with the weight
    ``exp(a_i - a_j) C_i . B_j``: the dual, quadratic form of the recurrence (Dao & Gu 2024, section 5).
    """
    dtype = compute_dtype(x.dtype)
    out_dtype, (_, length, heads, _) = x.dtype, x.shape
    x, dt, A, B, C = (v.to(dtype) for v in (x, dt, A, B, C))
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2).transpose(1, 2) for v in (B, C))  # (b, h, l, n)
    # Running sums in float64: after a strong decay, float32 has too few digits left for a weak one.
    log_decay = (dt * A).transpose(1, 2).double()  # (b, h, l)
    total = log_decay.flip(-1).cumsum(-1).flip(-1) if reverse else log_decay.cumsum(-1)
    order = torch.ones(length, length, dtype=torch.bool, device=x.device)
    order = order.triu() if reverse else order.tril()
    # A step's own weight is exp(0) for all decays. As a constant, it adds no rounding error to their gradient.
    own = torch.eye(length, dtype=torch.bool, device=x.device)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~order, -torch.inf).masked_fill(own, 0.0)
    weights = torch.exp(between.to(dtype))
    inputs = (x * dt[..., None]).transpose(1, 2)  # (b, h, l, p)
    y = (weights * (C @ B.mT)) @ inputs
    if initial_state is not None:
        y = y + total.exp().to(dtype)[..., None] * (C @ initial_state.to(dtype).mT)
    y = y.transpose(1, 2)
    if D is not None:
        y = y + x * D.to(dtype)[:, None]
    state = None
    if final_state:
        end = 0 if reverse else length - 1
        last = total[..., end : end + 1]
        state = (inputs * torch.exp(between[..., end, :].to(dtype))[..., None]).mT @ B
        if initial_state is not None:
            state = state + last.exp().to(dtype)[..., None] * initial_state
    return y.to(out_dtype), state
