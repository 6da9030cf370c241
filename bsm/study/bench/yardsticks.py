"""What the scan backends are measured against: nobody's code here should be used for anything else.

All take ``x, dt, A, B, C, D`` as :func:`bsm.scan.scan` does, with one group, and return ``y``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def indexed_loop(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Loop over steps the seed documents' way, indexing ``x[:, t]``.

    The backward of every index fills a gradient as long as the sequence: quadratic in the length.
    """
    state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[3])
    decay = torch.exp(dt * A)
    outputs = []
    for t in range(x.shape[1]):
        inputs = (x[:, t] * dt[:, t, :, None])[..., None]  # (batch, heads, headdim, 1)
        state = state * decay[:, t, :, None, None] + inputs * B[:, t, :, None]
        outputs.append((state @ C[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1) + x * D[:, None]


def textbook(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 64) -> Tensor:
    """Scan by chunks as the Mamba-2 paper lists it (Dao & Gu 2024, listing 1): segment sums and einsum, autograd."""
    length, heads = x.shape[1], x.shape[2]
    pad = (-length) % chunk
    inputs, log_decay, B, C = (
        F.pad(v, (0, 0) * (v.ndim - 2) + (0, pad)).unflatten(1, (-1, chunk))
        for v in (x * dt[..., None], dt * A, B.repeat_interleave(heads, 2), C.repeat_interleave(heads, 2))
    )
    log_decay = log_decay.permute(0, 3, 1, 2)  # (b, h, c, l)
    total = log_decay.cumsum(-1)
    y = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, _segment_sums(log_decay).exp(), inputs)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, (total[..., -1:] - total).exp(), inputs)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    between = _segment_sums(F.pad(total[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    y = y + torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, total.exp())
    return y.flatten(1, 2)[:, :length] + x * D[:, None]


def _segment_sums(a: Tensor) -> Tensor:
    """Sum ``a`` from after step ``j`` to step ``i``, for every pair; minus infinity above the diagonal."""
    size = a.shape[-1]
    mask = torch.ones(size, size, dtype=torch.bool, device=a.device)
    repeated = a[..., None].expand(*a.shape, size).masked_fill(~mask.tril(-1), 0)
    return repeated.cumsum(-2).masked_fill(~mask.tril(), -torch.inf)
