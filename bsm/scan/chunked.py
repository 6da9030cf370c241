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

CHUNK = 64  # steps; sequences up to WHOLE go in one chunk, which needs no states at all
WHOLE = 128
# exp(+-limit / 2) and its product with the data must be finite, also where the product is masked out afterwards.
TOTAL_LIMIT = {torch.float32: 120.0, torch.float64: 1000.0}
# Above this decay per step (a mean over the chunk) the factored form has too few digits left for the gradients.
STEP_LIMIT = 2.0
# Its gradient of the decays is a difference of nearly equal sums, whose rounding error grows with the chunk's total.
# Above this total, that gradient alone is computed by head, and all else stays factored.
GRADIENT_LIMIT = 32.0


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
        B_g, C_g = B[:, :, group], C[:, :, group]
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
        x = ctx.saved_tensors[0]
        with torch.autocast(x.device.type, enabled=False):  # as in the forward pass, also where the caller's is on
            return _ChunkedScan._backward(ctx, dy, dstate)

    @staticmethod
    def _backward(ctx, dy, dstate):
        x, dt, A, B, C, D, initial_state, y = ctx.saved_tensors
        plan: Plan = ctx.plan
        if dy is None:
            dy = torch.zeros_like(y)
        heads, headdim = x.shape[2:]
        grads = [torch.empty(v.shape, dtype=v.dtype, device=v.device) for v in (x, dt, B, C)]
        dA = torch.zeros_like(A, dtype=torch.float64)
        dD = None if D is None else torch.zeros_like(D, dtype=torch.float64)
        dinitial = None if initial_state is None else torch.empty_like(initial_state)
        for rows in plan.slabs(x.shape[0], heads * headdim):
            inputs = [v[rows].to(plan.dtype) for v in (x, dt, B, C, y, dy)]
            states = [None if v is None else v[rows].to(plan.dtype).flatten(1, 2) for v in (initial_state, dstate)]
            entry = _backward_slab(*inputs, A, D, *states, plan, [g[rows] for g in grads], dA, dD)
            if dinitial is not None:
                dinitial[rows] = entry.view(dinitial[rows].shape)
        dx, ddt, dB, dC = grads
        dD = None if D is None else dD.to(D.dtype)
        return dx, ddt, dA.to(A.dtype), dB, dC, dD, dinitial, None


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
            inner = (products @ v).view(x_c.shape)
        if state is not None:
            state.mul_(by_channel(chunk.enter, headdim))
            outer = torch.bmm(C_c, state.mT).view(x_c.shape)
            y = (outer.mul_(chunk.after[..., None]).add_(inner)) if plan.by_head else outer.add_(inner)
        else:
            y = inner
        if not plan.by_head:
            y.mul_(chunk.after[..., None])
        out[:, cut] = y if D is None else torch.addcmul(y, x_c, D.to(y.dtype)[:, None])
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


def _backward_slab(x, dt, B, C, y, dy, A, D, state, dstate, plan: Plan, grads, dA, dD) -> Tensor | None:
    """Fill the gradients of a slab; return the gradient of its initial state, if it had one."""
    headdim = x.shape[3]
    dx, ddt, dB, dC = grads
    cuts = plan.chunks(x.shape[1])
    chunks = [Chunk(dt[:, cut], A, plan) for cut in cuts]
    entries = _entry_states(x, dt, B, state, cuts, chunks, headdim)
    for cut, chunk, R in zip(cuts[::-1], chunks[::-1], entries[::-1], strict=True):
        x_c, dt_c, B_c, C_c, dy_c = (t[:, cut] for t in (x, dt, B, C, dy))
        scale = dt_c * chunk.w
        v = (x_c * scale[..., None]).flatten(2)
        scaled_dy = (dy_c * chunk.after[..., None]).flatten(2)
        products = plan.causal_(C_c @ B_c.mT)
        if plan.by_head:
            du, dproducts, crossing = _inner_by_head(x_c, dt_c, dy_c, products, chunk, plan)
            dv = None
        else:
            dproducts = plan.causal_(torch.bmm(scaled_dy, v.mT))
            dv = torch.bmm(products.mT, scaled_dy)
            D_part = 0 if D is None else (dy_c * x_c).sum(-1) * D.to(x.dtype)
            da = (dy_c * y[:, cut]).sum(-1) - D_part  # what reaches step i, summed; less below what leaves step j
        dC_c, dB_c = torch.bmm(dproducts, B_c), torch.bmm(dproducts.mT, C_c)
        dthrough = leaving = dR = None
        if R is not None:
            dC_c.baddbmm_(scaled_dy, R)
            dR = torch.bmm(scaled_dy.mT, C_c)
        if dstate is not None:  # gradient of the exit state
            dT = dstate * by_channel(chunk.keep, headdim)
            dB_c.baddbmm_(v, dT)
            from_state = torch.bmm(B_c, dT.mT)
            leaving = (v * from_state).view(x_c.shape).sum(-1)  # (b, q, h)
            carried = dstate * by_channel(chunk.carry, headdim) if plan.by_head else dT
            if R is not None:
                dthrough = (carried * R).view(R.shape[0], 1, -1, headdim * R.shape[2]).sum(-1)  # (b, 1, h)
                dR = dR.add_(carried)
            if plan.by_head:
                du = du.add_(from_state.view(x_c.shape) * chunk.w[..., None])
            else:
                dv.add_(from_state)
        if not plan.by_head:
            du = dv.view(x_c.shape).mul_(chunk.w[..., None])
        dxu = (du * x_c).sum(-1)  # (b, q, h)
        if plan.by_head:
            ddecay = _passing(crossing, scaled_dy, C_c, R, leaving, dthrough, plan)
        else:
            ddecay = plan.sum_from((da - dxu * dt_c).double())
            if leaving is not None:
                ddecay += leaving.sum(1, keepdim=True)
            if dthrough is not None:
                ddecay += dthrough
            if (few := plan.wary).numel():
                crossing = _crossing_of(few, x_c, dt_c, dy_c, products, chunk, plan)
                few_dy = scaled_dy.view(x_c.shape)[:, :, few].flatten(2)
                R_few = None if R is None else R.unflatten(1, (-1, headdim))[:, few].flatten(1, 2)
                parts = [None if v is None else v[:, :, few] for v in (leaving, dthrough)]
                ddecay[:, :, few] = _passing(crossing, few_dy, C_c, R_few, *parts, plan)
        ddt[:, cut] = dxu + ddecay * A
        dA += (ddecay * dt_c).sum((0, 1))
        du *= dt_c[..., None]
        if D is not None:
            du.addcmul_(dy_c, D.to(x.dtype)[:, None])
            dD += (dy_c * x_c).sum((0, 1, 3))
        dx[:, cut], dB[:, cut], dC[:, cut] = du, dB_c, dC_c
        dstate = None if dR is None else dR.mul_(by_channel(chunk.enter, headdim))
    return dstate


def _entry_states(x, dt, B, state, cuts, chunks, headdim) -> list[Tensor | None]:
    """Recompute the scaled state ``R`` with which each chunk is entered, ``(b, h * p, n)``; None for zeros."""
    entries: list[Tensor | None] = []
    for cut, chunk in zip(cuts, chunks, strict=True):
        entries.append(None if state is None else state * by_channel(chunk.enter, headdim))
        if cut is cuts[-1]:
            break
        v = (x[:, cut] * (dt[:, cut] * chunk.w)[..., None]).flatten(2)
        state = torch.bmm(v.mT, B[:, cut]).mul_(by_channel(chunk.keep, headdim))
        if entries[-1] is not None:
            state.addcmul_(entries[-1], by_channel(chunk.carry, headdim))
    return entries


def _inner_by_head(x, dt, dy, products, chunk: Chunk, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients inside a chunk, by head: of ``u`` (b, q, h, p), of ``C B^T`` (b, q, q), and :func:`_crossing`."""
    decay = chunk.decay_matrix(plan)  # (b, h, q, q)
    dy, u = dy.transpose(1, 2), (x * dt[..., None]).transpose(1, 2)  # (b, h, q, p)
    dweights = dy @ u.mT
    dproducts = plan.causal_((dweights * decay).sum(1))
    weights = decay.mul_(products[:, None])
    du = (weights.mT @ dy).transpose(1, 2)
    return du, dproducts, _crossing(dweights.mul_(weights), plan)


def _crossing_of(heads: Tensor, x, dt, dy, products, chunk: Chunk, plan: Plan) -> Tensor:
    """:func:`_crossing` of some heads alone, ``(b, q, len(heads))``."""
    x, dt, dy = (v[:, :, heads] for v in (x, dt, dy))
    dweights = dy.transpose(1, 2) @ (x * dt[..., None]).transpose(1, 2).mT
    return _crossing(dweights.mul_(chunk.decay_matrix(plan, heads)).mul_(products[:, None]), plan)


def _crossing(reached: Tensor, plan: Plan) -> Tensor:
    """Sum, for each step, what passes over it inside a chunk: leaves a step before it and arrives at it or later.

    It is summed as such and not as a difference of row and column sums, whose rounding residue would drown what a
    strong decay leaves, and would then be multiplied by the long step that made the decay.

    Args:
        reached: the loss's gradient of each log-weight from step j to step i, ``(b, h, i, j)``, zero for j after i.
        plan: gives the direction.

    Returns:
        ``(b, q, h)``.
    """
    before = torch.ones_like(reached[0, 0])  # (j, t): j before t
    before = before.tril_(-1) if plan.reverse else before.triu_(1)
    return plan.causal_(reached @ before).sum(-2).transpose(1, 2)


def _passing(crossing, scaled_dy, C, R, leaving, dthrough, plan: Plan) -> Tensor:
    """Gradient of each step's log-decay, ``(b, q, h)``: of all that passes over it, sums without differences.

    Args:
        crossing: from steps of this chunk to steps of this chunk, ``(b, q, h)``.
        scaled_dy: with ``C`` and ``R`` (None for zeros), gives what arrives from the entry state.
        C: ``(b, q, n)``.
        R: scaled entry state, ``(b, h * p, n)``.
        leaving: from each step to the exit state, ``(b, q, h)``, or None.
        dthrough: from the entry state to the exit state, ``(b, 1, h)``, or None.
        plan: gives the direction.
    """
    total = crossing.double()
    if R is not None:
        arriving = (scaled_dy * torch.bmm(C, R.mT)).unflatten(2, (crossing.shape[2], -1)).sum(-1)
        total += plan.sum_from(arriving.double())
    if leaving is not None:
        total += plan.sum_before(leaving)
    if dthrough is not None:
        total += dthrough
    return total
