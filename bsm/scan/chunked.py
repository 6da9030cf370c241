"""The state-space-dual block algorithm in plain PyTorch: matrix products inside chunks, a state between them.

The default without a GPU. Inside a chunk, step ``j`` reaches step ``i`` with the weight ``exp(a_i - a_j) C_i . B_j``,
where ``a`` is the running sum of ``dt A`` (Dao & Gu 2024, section 6). There are two exact ways to compute it:

- *factored*: ``exp(a_i - m) (C_i . B_j) exp(m - a_j)`` with ``m`` half the chunk's total. All heads share one product
  ``C B^T``, and the exponentials scale vectors only. But ``exp`` overflows where a chunk's total decay is large.
- *by head*: the matrix ``exp(a_i - a_j)`` for each head, with no entry above 1. Right for any decay, and slower.

Each head is factored if its decays allow it, and otherwise computed by head. The batch is cut into slabs of rows that
fit into the cache. The forward pass keeps only its inputs and output, and the backward pass recomputes the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.compiled import applies
from bsm.scan import compute_dtype
from bsm.scan._chunk import Plan, forward_slab
from bsm.scan._chunk_backward import backward_slab
from bsm.scan._whole import WholeScan

CHUNK = 64  # steps of a chunk
WHOLE = 128  # steps; a sequence up to this length is one chunk, which needs no states
# Largest total decay in a chunk of a factored head. exp(+-limit / 2) and its product with the data must be finite, even
# where the product is masked out afterwards.
TOTAL_LIMIT = {torch.float32: 120.0, torch.float64: 1000.0}
# Largest mean decay per step of a factored head. Above it, the gradients would have too few digits.
STEP_LIMIT = 2.0
# The factored form computes the gradient of the decays as a difference of nearly equal sums. Its rounding error grows
# with the chunk's total. For a head above this total, a *wary* one, only that gradient is computed by head.
GRADIENT_LIMIT = 48.0


def scan(x, dt, A, B, C, D, *, initial_state, reverse, final_state) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`."""
    length, groups = x.shape[1], B.shape[2]
    plan = Plan(length if length <= WHOLE else CHUNK, reverse, final_state, compute_dtype(x.dtype))
    totals = _largest_totals(dt, A, plan)
    if groups == 1:  # without slices, each of which would cost a copy of its gradient
        B, C, ways = B.squeeze(2), C.squeeze(2), _ways(totals, plan)
        simple = torch.is_grad_enabled() and initial_state is None and D is not None and _is_simple(ways, plan, length)
        if simple and applies(x, dt, A, B, C, D):
            return WholeScan.apply(x, dt, A, B, C, D, plan), None
        return _ChunkedScan.apply(x, dt, A, B, C, D, initial_state, ways, plan)
    per_group = x.shape[2] // groups
    ys, states = [], []
    for group in range(groups):
        own = slice(group * per_group, (group + 1) * per_group)
        inputs = x[:, :, own], dt[:, :, own], A[own], B[:, :, group], C[:, :, group]
        rest = None if D is None else D[own], None if initial_state is None else initial_state[:, own]
        y, state = _ChunkedScan.apply(*inputs, *rest, _ways(totals[own], plan), plan)
        ys.append(y)
        states.append(state)
    return torch.cat(ys, dim=2), torch.cat(states, dim=1) if final_state else None


@dataclass(frozen=True)
class _Way:
    """The heads of a group that are computed in one way."""

    heads: Tensor | None  # their indices; None for all heads, which then need no copies
    by_head: bool
    wary: Tensor  # indices, among these heads, of those whose gradient of the decays is computed by head

    def of(self, tensor: Tensor | None, dim: int) -> Tensor | None:
        """Return these heads of a tensor that has all heads along ``dim``."""
        return tensor if tensor is None or self.heads is None else tensor.index_select(dim, self.heads)

    def empty(self, like: Tensor) -> Tensor:
        """Return memory for these heads of ``(b, l, h, ...)``, for :meth:`put`; for all heads, the tensor itself."""
        return like if self.heads is None else like.new_empty(*like.shape[:2], len(self.heads), *like.shape[3:])

    def put(self, part: Tensor, tensor: Tensor, dim: int) -> None:
        """Write these heads into a tensor that has all heads along ``dim``; nothing to do if it is that tensor."""
        if self.heads is not None:
            tensor.index_copy_(dim, self.heads, part)
        elif part is not tensor:
            tensor.copy_(part)


def _ways(totals: Tensor, plan: Plan) -> list[_Way]:
    """Divide the heads of a group by the way, given their largest total decay within a chunk, ``(heads,)``."""
    limit = min(TOTAL_LIMIT[plan.dtype], STEP_LIMIT * plan.chunk)
    largest = totals.tolist()
    ways = []
    for by_head in (False, True):
        # Written as a branch: torch.compile traces totals as symbols, and cannot compare `total > limit` with by_head.
        heads = [i for i, total in enumerate(largest) if (by_head if total > limit else not by_head)]
        wary = [] if by_head else [i for i, head in enumerate(heads) if largest[head] > GRADIENT_LIMIT]
        if heads:
            indices = None if len(heads) == len(largest) else torch.tensor(heads, device=totals.device)
            ways.append(_Way(indices, by_head, torch.tensor(wary, dtype=torch.int64, device=totals.device)))
    return ways


def _is_simple(ways: list[_Way], plan: Plan, length: int) -> bool:
    """Return whether a sequence is one chunk without a last state, whose heads are all factored and none is wary."""
    simple = [way.heads is None and not way.by_head and not way.wary.numel() for way in ways]
    return simple == [True] and length == plan.chunk and not plan.final_state


def _largest_totals(dt: Tensor, A: Tensor, plan: Plan) -> Tensor:
    """Return the largest total decay within a chunk, ``(heads,)``. It decides how each head is computed.

    On a GPU, reading these values makes the caller wait once. That is the price of right results for any decay.
    """
    with torch.no_grad():
        sums = [c.sum(1, dtype=plan.dtype).amax(0) for c in dt.split(plan.chunk, 1)]  # (heads,) each
        return torch.stack(sums).amax(0) * -A


class _ChunkedScan(torch.autograd.Function):
    """Scan the heads of one group."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, initial_state, ways: list[_Way], plan: Plan):
        batch, _, heads, headdim = x.shape
        # In full precision: the backward pass takes differences of sums over it.
        y = torch.empty(x.shape, dtype=plan.dtype, device=x.device)
        shape = (batch, heads, headdim, B.shape[-1])
        state = torch.empty(shape, dtype=plan.dtype, device=x.device) if plan.final_state else None
        for way in ways:
            for rows in plan.slabs(batch, heads * headdim):
                inputs = _slab(way, rows, plan, x, dt, A, B, C, D, initial_state)
                target = y[rows]
                out = way.empty(target)
                last = forward_slab(*inputs, plan, way.by_head, out)
                way.put(out, target, 2)
                if state is not None:
                    way.put(last.unflatten(1, (-1, headdim)), state[rows], 1)
        ctx.ways, ctx.plan = ways, plan
        ctx.save_for_backward(x, dt, A, B, C, D, initial_state, y)
        ctx.set_materialize_grads(False)
        return y.to(x.dtype), state

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dstate):
        saved = ctx.saved_tensors  # read once: gradient checkpointing does not give them twice
        with torch.autocast(saved[0].device.type, enabled=False):  # the caller may have switched it on
            return *_backward(*saved, dy, dstate, ctx.ways, ctx.plan), None, None


def _slab(way: _Way, rows: slice, plan: Plan, x, dt, A, B, C, D, state) -> tuple[Tensor | None, ...]:
    """Return some rows and heads of the arguments, in the precision of the sums; the state as ``(b, h * p, n)``."""
    x, dt = (way.of(v[rows].to(plan.dtype), 2) for v in (x, dt))
    B, C = (v[rows].to(plan.dtype) for v in (B, C))
    D = None if D is None else way.of(D.to(plan.dtype), 0)
    state = None if state is None else way.of(state[rows].to(plan.dtype), 1).flatten(1, 2)
    return x, dt, way.of(A, 0), B, C, D, state


def _backward(x, dt, A, B, C, D, initial_state, y, dy, dstate, ways: list[_Way], plan: Plan) -> list[Tensor | None]:
    """Return the gradients of the first seven arguments."""
    dy = torch.zeros_like(y) if dy is None else dy
    heads, headdim = x.shape[2:]
    sizes = [heads * headdim, B.shape[-1], B.shape[-1]]
    # Parts of one tensor: if x, B and C were split from one tensor, their gradients need no copy to be joined.
    joined = torch.empty(*x.shape[:2], sum(sizes), dtype=plan.dtype, device=x.device)
    dx, dB, dC = joined.split(sizes, dim=-1)
    dx = dx.unflatten(-1, (heads, headdim))
    ddt = torch.empty(dt.shape, dtype=dt.dtype, device=dt.device)
    dA, dD = (None if v is None else torch.zeros_like(v, dtype=torch.float64) for v in (A, D))
    dinitial = None if initial_state is None else torch.empty_like(initial_state)
    elements = plan.backward_elements(*x.shape[:2], heads * headdim, B.shape[-1])
    for number, way in enumerate(ways):
        for rows in plan.slabs(x.shape[0], heads * headdim, elements):
            inputs = _slab(way, rows, plan, x, dt, A, B, C, D, initial_state)
            y_s, dy_s = (way.of(v[rows].to(plan.dtype), 2) for v in (y, dy))
            dlast = None if dstate is None else way.of(dstate[rows].to(plan.dtype), 1).flatten(1, 2)
            targets = dx[rows], ddt[rows]
            parts = [way.empty(v) for v in targets]
            grads = *parts, dB[rows], dC[rows]
            dA_s, dD_s, entry = backward_slab(
                *inputs, y_s, dy_s, dlast, plan, way.by_head, way.wary, grads, add=number > 0
            )
            for part, target in zip(parts, targets, strict=True):
                way.put(part, target, 2)
            heads_of = slice(None) if way.heads is None else way.heads
            dA[heads_of] += dA_s
            if D is not None:
                dD[heads_of] += dD_s
            if dinitial is not None:
                way.put(entry.unflatten(1, (-1, headdim)).to(dinitial.dtype), dinitial[rows], 1)
    dD = None if D is None else dD.to(D.dtype)
    return [dx.to(x.dtype), ddt, dA.to(A.dtype), dB.to(B.dtype), dC.to(C.dtype), dD, dinitial]
