"""The state-space-dual block algorithm in plain PyTorch: matrix products inside chunks, a state between them.

The default without a GPU. Inside a chunk, step ``j`` reaches step ``i`` with the weight ``exp(a_i - a_j) C_i . B_j``,
where ``a`` is the running sum of ``dt A`` (Dao & Gu 2024, section 6). Two exact ways to form it:

- *factored*: ``exp(a_i - m) (C_i . B_j) exp(m - a_j)`` with ``m`` half the chunk's total. One product ``C B^T`` serves
  all heads and the weights touch only vectors, but ``exp`` overflows where a chunk's total decay is large.
- *by head*: the matrix ``exp(a_i - a_j)`` for each head, every entry at most 1. Right for any decay, and dearer.

Each head goes the way its decays allow. Work proceeds in slabs of rows small enough for the cache, and the backward
pass recomputes what the forward pass did not keep, so that memory stays near that of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.scan import compute_dtype
from bsm.scan._chunk import Chunk, Plan, by_channel
from bsm.scan._chunk_backward import backward_slab

CHUNK = 64  # steps; sequences up to WHOLE go in one chunk, which needs no states at all
WHOLE = 128
# exp(+-limit / 2) and its product with the data must be finite, also where the product is masked out afterwards.
TOTAL_LIMIT = {torch.float32: 120.0, torch.float64: 1000.0}
# Above this decay per step (a mean over the chunk) the factored form has too few digits left for the gradients.
STEP_LIMIT = 2.0
# Its gradient of the decays is a difference of nearly equal sums, whose rounding error grows with the chunk's total.
# Above this total, that gradient alone is computed by head, and all else stays factored.
GRADIENT_LIMIT = 48.0


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    initial_state: Tensor | None,
    reverse: bool,
    final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`."""
    dtype = compute_dtype(x.dtype)
    heads, groups = x.shape[2], B.shape[2]
    chunk = x.shape[1] if x.shape[1] <= WHOLE else CHUNK
    totals = _largest_totals(dt, A, chunk, dtype)
    strong = totals > min(TOTAL_LIMIT[dtype], STEP_LIMIT * chunk)
    wary = totals > GRADIENT_LIMIT
    ys, states = [], []
    per_group = heads // groups
    for group in range(groups):
        first = group * per_group
        B_g, C_g = (v.squeeze(2) if groups == 1 else v[:, :, group] for v in (B, C))
        weak_set, strong_set = (_heads(strong == flag, first, per_group) for flag in (False, True))
        parts = []
        for selected, by_head in ((weak_set, False), (strong_set, True)):
            if selected is None:
                continue
            args = [_take(v, selected, dim) for v, dim in ((x, 2), (dt, 2), (A, 0), (D, 0), (initial_state, 1))]
            x_s, dt_s, A_s, D_s, state_s = args
            few = None if by_head else _take(wary, selected, 0).nonzero().squeeze(-1)
            plan = Plan(chunk, by_head, few, reverse, final_state, dtype)
            y, state = _ChunkedScan.apply(x_s, dt_s, A_s, B_g, C_g, D_s, state_s, plan)
            parts.append((y, state))
        if len(parts) == 1:
            y, state = parts[0]
        else:  # back into the order of the heads
            order = torch.cat([weak_set, strong_set]).argsort()
            y = torch.cat([p[0] for p in parts], dim=2).index_select(2, order)
            state = torch.cat([p[1] for p in parts], dim=1).index_select(1, order) if final_state else None
        ys.append(y)
        states.append(state)
    y = ys[0] if groups == 1 else torch.cat(ys, dim=2)
    if not final_state:
        return y, None
    return y, states[0] if groups == 1 else torch.cat(states, dim=1)


def _largest_totals(dt: Tensor, A: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    """Return the largest decay within a chunk, ``(heads,)``, which decides the way each head goes.

    Acting on it costs a few waits for the device per call on a GPU: the price of being right for every decay.
    """
    with torch.no_grad():
        decay = dt.to(dtype) * -A.to(dtype)
        totals = torch.stack([c.sum(1) for c in decay.split(chunk, 1)], 1)  # (batch, chunks, heads)
        return totals.amax((0, 1))


def _heads(mask: Tensor, first: int, count: int) -> Tensor | slice | None:
    """Return the marked heads of a group: None for none, a slice for all, else their indices."""
    mask = mask[first : first + count]
    if not mask.any():
        return None
    return slice(first, first + count) if mask.all() else first + mask.nonzero().squeeze(-1)


def _take(tensor: Tensor | None, selected: Tensor | slice, dim: int) -> Tensor | None:
    if tensor is None:
        return None
    if isinstance(selected, slice):
        if selected.stop - selected.start == tensor.shape[dim]:  # the gradient of a narrowed tensor would be a copy
            return tensor
        return tensor.narrow(dim, selected.start, selected.stop - selected.start)
    return tensor.index_select(dim, selected)


class _ChunkedScan(torch.autograd.Function):
    """The scan of the heads of one group, all factored or all by head."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, initial_state, plan: Plan):
        batch, length, heads, headdim = x.shape
        ctx.plan = plan
        # Kept in full precision for the backward pass, which takes differences of sums over it.
        y = torch.empty(x.shape, dtype=plan.dtype, device=x.device)
        shape = (batch, heads, headdim, B.shape[-1])
        state = torch.empty(shape, dtype=plan.dtype, device=x.device) if plan.final_state else None
        for rows in plan.slabs(batch, heads * headdim):
            last = _forward_slab(
                *(v[rows].to(plan.dtype) for v in (x, dt)),
                A,
                *(v[rows].to(plan.dtype) for v in (B, C)),
                D,
                None if initial_state is None else initial_state[rows].to(plan.dtype),
                plan,
                y[rows],
            )
            if state is not None:
                state[rows] = last.view(-1, *shape[1:])
        ctx.save_for_backward(x, dt, A, B, C, D, initial_state, y)
        ctx.set_materialize_grads(False)
        return y.to(x.dtype), state

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dstate):
        saved = ctx.saved_tensors  # asked for once: gradient checkpointing does not give them twice
        with torch.autocast(
            saved[0].device.type, enabled=False
        ):  # as in the forward pass, also where the caller's is on
            return _ChunkedScan._backward(ctx, saved, dy, dstate)

    @staticmethod
    def _backward(ctx, saved, dy, dstate):
        x, dt, A, B, C, D, initial_state, y = saved
        plan: Plan = ctx.plan
        if dy is None:
            dy = torch.zeros_like(y)
        heads, headdim = x.shape[2:]
        state_size = B.shape[-1]
        # Side by side, so that whoever split x, B and C from one tensor need not join their gradients by a copy.
        joined = torch.empty(*x.shape[:2], heads * headdim + 2 * state_size, dtype=x.dtype, device=x.device)
        dx, dB, dC = joined.split([heads * headdim, state_size, state_size], dim=-1)
        ddt = torch.empty(dt.shape, dtype=dt.dtype, device=dt.device)
        grads = dx.unflatten(-1, (heads, headdim)), ddt, dB, dC
        dA = torch.zeros_like(A, dtype=torch.float64)
        dD = None if D is None else torch.zeros_like(D, dtype=torch.float64)
        dinitial = None if initial_state is None else torch.empty_like(initial_state)
        most = plan.backward_rows(*x.shape[:2], heads * headdim, state_size)
        for rows in plan.slabs(x.shape[0], heads * headdim, most):
            inputs = [v[rows].to(plan.dtype) for v in (x, dt, B, C, y, dy)]
            states = [None if v is None else v[rows].to(plan.dtype).flatten(1, 2) for v in (initial_state, dstate)]
            entry = backward_slab(*inputs, A, D, *states, plan, [g[rows] for g in grads], dA, dD)
            if dinitial is not None:
                dinitial[rows] = entry.view(dinitial[rows].shape)
        dD = None if D is None else dD.to(D.dtype)
        return grads[0], ddt, dA.to(A.dtype), dB, dC, dD, dinitial, None


def _forward_slab(x, dt, A, B, C, D, state, plan: Plan, out: Tensor) -> Tensor | None:
    """Scan a slab of rows into ``out``; return the last state, ``(b, h * p, n)``, if the plan wants it."""
    headdim = x.shape[3]
    state = None if state is None else state.flatten(1, 2).clone()
    cuts = plan.chunks(x.shape[1])
    for cut in cuts:
        chunk = Chunk(dt[:, cut], A, plan)
        x_c, B_c, C_c = x[:, cut], B[:, cut], C[:, cut]
        products = plan.causal_(C_c @ B_c.mT)  # (b, q, q), one for all heads
        v = None
        if plan.by_head:
            weights = chunk.decay_matrix(plan).mul_(products[:, None])
            inner = (weights @ (x_c * dt[:, cut, :, None]).transpose(1, 2)).transpose(1, 2)  # (b, q, h, p)
        else:
            v = (x_c * (dt[:, cut] * chunk.w)[..., None]).flatten(2)
            inner = products @ v  # (b, q, h * p)
        if state is not None:
            state.mul_(by_channel(chunk.enter, headdim))
            if plan.by_head:
                inner = torch.bmm(C_c, state.mT).view(x_c.shape).mul_(chunk.after[..., None]).add_(inner)
            else:
                inner.baddbmm_(C_c, state.mT)
        y = inner if plan.by_head else inner.view(x_c.shape).mul_(chunk.after[..., None])
        if D is None:
            out[:, cut] = y
        else:
            torch.addcmul(y, x_c, D.to(y.dtype)[:, None], out=out[:, cut])
        if cut is cuts[-1] and not plan.final_state:
            return None
        if v is None:
            v = (x_c * (dt[:, cut] * chunk.w)[..., None]).flatten(2)
        if state is None:
            state = torch.bmm(v.mT, B_c)
        elif plan.by_head:
            state = torch.baddbmm(state.mul_(by_channel(chunk.carry, headdim)), v.mT, B_c)
            continue
        else:
            state.baddbmm_(v.mT, B_c)
        state.mul_(by_channel(chunk.keep, headdim))
    return state
