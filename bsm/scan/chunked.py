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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.scan import compute_dtype

CHUNK = 64  # steps; sequences up to WHOLE go in one chunk, which needs no states at all
WHOLE = 128
SLAB_ELEMENTS = 1 << 19  # of one chunk's input, all rows of a slab together: what stays in a core's share of cache
# exp(+-limit / 2) and its product with the data must be finite, also where the product is masked out afterwards.
TOTAL_LIMIT = {torch.float32: 120.0, torch.float64: 1000.0}
# Above this decay per step (a mean over the chunk) the factored form's gradient of the decays, a difference of nearly
# equal sums, has too few digits left.
STEP_LIMIT = 2.0


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
    strong = _strong_heads(dt, A, chunk, dtype)
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
            y, state = _ChunkedScan.apply(
                x_s, dt_s, A_s, B_g, C_g, D_s, state_s, _Plan(chunk, by_head, reverse, final_state, dtype)
            )
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


def _strong_heads(dt: Tensor, A: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    """Mark the heads, ``(heads,)`` bool, whose decay within a chunk is too strong for the factored form."""
    with torch.no_grad():
        decay = dt.to(dtype) * -A.to(dtype)
        totals = torch.stack([c.sum(1) for c in decay.split(chunk, 1)], 1)  # (batch, chunks, heads)
        return totals.amax((0, 1)) > min(TOTAL_LIMIT[dtype], STEP_LIMIT * chunk)


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


@dataclass(frozen=True)
class _Plan:
    chunk: int
    by_head: bool
    reverse: bool
    final_state: bool
    dtype: torch.dtype

    def chunks(self, length: int) -> list[slice]:
        """Cut the sequence, in the order in which the state passes through it."""
        cuts = [slice(i, min(i + self.chunk, length)) for i in range(0, length, self.chunk)]
        return cuts[::-1] if self.reverse else cuts

    def slabs(self, batch: int, channels: int) -> Iterator[slice]:
        rows = max(1, SLAB_ELEMENTS // (self.chunk * channels))
        return (slice(i, min(i + rows, batch)) for i in range(0, batch, rows))

    def running_sum(self, values: Tensor, dim: int = 1) -> Tensor:
        """Sum from the chunk's entry up to and including each step."""
        return values.flip(dim).cumsum(dim).flip(dim) if self.reverse else values.cumsum(dim)

    def sum_before(self, values: Tensor, dim: int = 1) -> Tensor:
        """Sum of the steps strictly before each, in scan order: no step's own value enters, not even to cancel."""
        shifted = values.roll(-1 if self.reverse else 1, dim)
        shifted.select(dim, -1 if self.reverse else 0).zero_()
        return self.running_sum(shifted, dim)

    def sum_from(self, values: Tensor, dim: int = 1) -> Tensor:
        """Sum from each step to the chunk's exit: the adjoint of :meth:`running_sum`."""
        return values.cumsum(dim) if self.reverse else values.flip(dim).cumsum(dim).flip(dim)

    def causal_(self, products: Tensor, diagonal: bool = True) -> Tensor:
        """Zero, in place, what would reach backwards: entries (i, j) with j after i in scan order."""
        return products.triu_(0 if diagonal else 1) if self.reverse else products.tril_(0 if diagonal else -1)


class _Chunk:
    """One chunk of one slab: the scale factors that both passes need.

    With entry state S, scaled entry state ``R = enter S``, inputs ``u = dt x`` and ``v = w u``:
    ``y = after (C R^T + inner) + D x`` and exit state ``carry R + keep v^T B``.
    """

    def __init__(self, dt: Tensor, A: Tensor, plan: _Plan) -> None:
        # Running sums in float64 (they are small next to x): past a strong decay, float32 has no digits for a weak one.
        self.a = a = plan.running_sum(dt.double() * A.double())  # (b, q, h)
        total = a[:, :1] if plan.reverse else a[:, -1:]  # (b, 1, h)
        if plan.by_head:
            one = torch.ones_like(total)
            factors = (total - a).exp(), a.exp(), one, total.exp(), one
        else:
            half = (total / 2).exp()
            factors = (total / 2 - a).exp(), (a - total / 2).exp(), half, half, half
        self.w, self.after, self.enter, self.carry, self.keep = (f.to(plan.dtype) for f in factors)

    def decay_matrix(self, plan: _Plan) -> Tensor:
        """Return exp(a_i - a_j), zero where j comes after i, ``(b, h, q, q)``."""
        a = self.a.transpose(1, 2)
        weights = (a[..., :, None] - a[..., None, :]).to(plan.dtype)
        return plan.causal_(weights.clamp_(max=0).exp_())


def _by_channel(factor: Tensor, headdim: int) -> Tensor:
    """Spread a per-head factor ``(b, 1, h)`` over the rows of a state ``(b, h * headdim, n)``."""
    return factor.repeat_interleave(headdim, dim=-1).mT


class _ChunkedScan(torch.autograd.Function):
    """The scan of the heads of one group, all factored or all by head."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, initial_state, plan: _Plan):
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
        x, dt, A, B, C, D, initial_state, y = ctx.saved_tensors
        plan: _Plan = ctx.plan
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


def _forward_slab(x, dt, A, B, C, D, state, plan: _Plan, out: Tensor) -> Tensor | None:
    """Scan a slab of rows into ``out``; return the last state, ``(b, h * p, n)``, if the plan wants it."""
    headdim = x.shape[3]
    state = None if state is None else state.flatten(1, 2).clone()
    cuts = plan.chunks(x.shape[1])
    for cut in cuts:
        chunk = _Chunk(dt[:, cut], A, plan)
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
            state.mul_(_by_channel(chunk.enter, headdim))
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
            state = torch.baddbmm(state.mul_(_by_channel(chunk.carry, headdim)), v.mT, B_c)
            continue
        else:
            state.baddbmm_(v.mT, B_c)
        state.mul_(_by_channel(chunk.keep, headdim))
    return state


def _backward_slab(x, dt, B, C, y, dy, A, D, state, dstate, plan: _Plan, grads, dA, dD) -> Tensor | None:
    """Fill the gradients of a slab; return the gradient of its initial state, if it had one."""
    headdim = x.shape[3]
    dx, ddt, dB, dC = grads
    cuts = plan.chunks(x.shape[1])
    chunks = [_Chunk(dt[:, cut], A, plan) for cut in cuts]
    entries = _entry_states(x, dt, B, state, cuts, chunks, headdim)
    for cut, chunk, R in zip(cuts[::-1], chunks[::-1], entries[::-1], strict=True):
        x_c, dt_c, B_c, C_c, dy_c = (t[:, cut] for t in (x, dt, B, C, dy))
        scale = dt_c * chunk.w
        v = (x_c * scale[..., None]).flatten(2)
        scaled_dy = (dy_c * chunk.after[..., None]).flatten(2)
        products = plan.causal_(C_c @ B_c.mT)
        if plan.by_head:
            du, dproducts, da = _inner_by_head(x_c, dt_c, dy_c, products, chunk, plan)
            dv = None
        else:
            dproducts = plan.causal_(torch.bmm(scaled_dy, v.mT))
            dv = torch.bmm(products.mT, scaled_dy)
            D_part = 0 if D is None else (dy_c * x_c).sum(-1) * D.to(x.dtype)
            da = (dy_c * y[:, cut]).sum(-1) - D_part  # what reaches step i, summed; less below what leaves step j
        dC_c, dB_c = torch.bmm(dproducts, B_c), torch.bmm(dproducts.mT, C_c)
        dtotal = None
        dR = None
        if R is not None:
            dC_c.baddbmm_(scaled_dy, R)
            dR = torch.bmm(scaled_dy.mT, C_c)
            if plan.by_head:
                da += (scaled_dy * torch.bmm(C_c, R.mT)).view(x_c.shape).sum(-1)
        if dstate is not None:  # gradient of the exit state
            dT = dstate * _by_channel(chunk.keep, headdim)
            dB_c.baddbmm_(v, dT)
            from_state = torch.bmm(B_c, dT.mT)
            leaving = (v * from_state).view(x_c.shape).sum(-1)  # (b, q, h)
            carried = dstate * _by_channel(chunk.carry, headdim) if plan.by_head else dT
            if R is not None:
                dtotal = (carried * R).view(R.shape[0], -1, headdim * R.shape[2]).sum(-1)  # (b, h)
                dR = dR.add_(carried)
            if plan.by_head:
                du = du.add_(from_state.view(x_c.shape) * chunk.w[..., None])
                later = plan.sum_before(leaving)  # exp(total - a_j) holds the decays after step j alone
            else:
                dv.add_(from_state)
                dtotal = leaving.sum(1) if dtotal is None else dtotal + leaving.sum(1)
        if not plan.by_head:
            du = dv.view(x_c.shape).mul_(chunk.w[..., None])
        dxu = (du * x_c).sum(-1)  # (b, q, h)
        if not plan.by_head:
            da -= dxu * dt_c
        ddecay = plan.sum_from(da.double())
        if plan.by_head and dstate is not None:
            ddecay += later
        if dtotal is not None:
            ddecay += dtotal[:, None]
        ddt[:, cut] = dxu + ddecay * A
        dA += (ddecay * dt_c).sum((0, 1))
        du *= dt_c[..., None]
        if D is not None:
            du.addcmul_(dy_c, D.to(x.dtype)[:, None])
            dD += (dy_c * x_c).sum((0, 1, 3))
        dx[:, cut], dB[:, cut], dC[:, cut] = du, dB_c, dC_c
        dstate = None if dR is None else dR.mul_(_by_channel(chunk.enter, headdim))
    return dstate


def _entry_states(x, dt, B, state, cuts, chunks, headdim) -> list[Tensor | None]:
    """Recompute the scaled state ``R`` with which each chunk is entered, ``(b, h * p, n)``; None for zeros."""
    entries: list[Tensor | None] = []
    for cut, chunk in zip(cuts, chunks, strict=True):
        entries.append(None if state is None else state * _by_channel(chunk.enter, headdim))
        if cut is cuts[-1]:
            break
        v = (x[:, cut] * (dt[:, cut] * chunk.w)[..., None]).flatten(2)
        state = torch.bmm(v.mT, B[:, cut]).mul_(_by_channel(chunk.keep, headdim))
        if entries[-1] is not None:
            state.addcmul_(entries[-1], _by_channel(chunk.carry, headdim))
    return entries


def _inner_by_head(x, dt, dy, products, chunk: _Chunk, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients inside a chunk, by head: of ``u`` (b, q, h, p), of ``C B^T`` (b, q, q), of the running sums (b, q, h).

    The last one leaves out each step's own weight, exp(0), so that strong decays leave no rounding residue.
    """
    decay = chunk.decay_matrix(plan)  # (b, h, q, q)
    dy, u = dy.transpose(1, 2), (x * dt[..., None]).transpose(1, 2)  # (b, h, q, p)
    dweights = dy @ u.mT
    dproducts = plan.causal_((dweights * decay).sum(1))
    weights = decay.mul_(products[:, None])
    du = (weights.mT @ dy).transpose(1, 2)
    reached = plan.causal_(dweights.mul_(weights), diagonal=False)
    return du, dproducts, (reached.sum(-1) - reached.sum(-2)).transpose(1, 2)
