"""The definition, one step at a time: the reference for every test and the baseline of every timing."""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan import compute_dtype


def scan(x, dt, A, B, C, D, *, initial_state, reverse, final_state) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`.

    The tensors are cut into steps before the loop. Each ``x[:, t]`` in the loop would cost a gradient of the whole
    length, and the other backends would look faster than they are.
    """
    dtype = compute_dtype(x.dtype)
    out_dtype, heads = x.dtype, x.shape[2]
    x, dt, A, B, C = (v.to(dtype) for v in (x, dt, A, B, C))
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2) for v in (B, C))
    decay = torch.exp(dt * A)[..., None, None]  # (batch, length, heads, 1, 1)
    inputs = (x * dt[..., None])[..., None]  # (batch, length, heads, headdim, 1)
    steps = [v.unbind(1) for v in (decay, inputs, B[:, :, :, None, :], C[..., None])]
    state = x.new_zeros(()) if initial_state is None else initial_state.to(dtype)
    outputs = []
    for decay_t, input_t, B_t, C_t in zip(*(reversed(s) if reverse else s for s in steps), strict=True):
        state = torch.addcmul(input_t * B_t, state, decay_t)  # (batch, heads, headdim, state)
        outputs.append((state @ C_t).squeeze(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1)
    if D is not None:
        y = y + x * D.to(dtype)[:, None]
    return y.to(out_dtype), state if final_state else None
