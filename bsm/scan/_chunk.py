"""The forward pass of the ``chunked`` backend over a slab of rows, and what both passes share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SLAB_ELEMENTS = 1 << 19  # of one chunk's input, all rows of a slab together: what stays in a core's share of cache
SMALL_SLAB = 1 << 18  # below this size, the calls of a slab cost more than its arithmetic


@dataclass(frozen=True)
class Plan:
    """How a sequence is cut, and in which direction it is scanned."""

    chunk: int  # steps
    reverse: bool
    final_state: bool
    dtype: torch.dtype

    def chunks(self, length: int) -> list[slice]:
        """Cut the sequence into chunks, in the order in which the state passes through them."""
        cuts = [slice(i, min(i + self.chunk, length)) for i in range(0, length, self.chunk)]
        return cuts[::-1] if self.reverse else cuts

    def slabs(self, batch: int, channels: int, elements: int = SLAB_ELEMENTS) -> Iterator[slice]:
        """Cut the batch into rows that are worked through together."""
        rows = max(1, elements // (self.chunk * channels))
        return (slice(i, min(i + rows, batch)) for i in range(0, batch, rows))

    def backward_elements(self, batch: int, length: int, channels: int, state: int) -> int:
        """Size of a slab whose entry states and workspace, in the backward pass, keep near the size of the inputs.

        A row takes, per channel, a state for each chunk and some eight arrays as long as a chunk.
        """
        rows = round(1.4 * batch * length) // (len(self.chunks(length)) * state + 8 * self.chunk)
        return max(SMALL_SLAB, min(SLAB_ELEMENTS, rows * self.chunk * channels))

    def running_sum(self, values: Tensor) -> Tensor:
        """Sum ``(b, q, h)`` from the chunk's entry up to and including each step."""
        return values.flip(1).cumsum(1).flip(1) if self.reverse else values.cumsum(1)

    def sum_before(self, values: Tensor) -> Tensor:
        """Sum the steps strictly before each, in scan order. A step's own value does not enter, not even to cancel."""
        shifted = values.roll(-1 if self.reverse else 1, 1)
        shifted[:, -1 if self.reverse else 0] = 0
        return self.running_sum(shifted)

    def sum_from(self, values: Tensor) -> Tensor:
        """Sum from each step to the chunk's exit: the adjoint of :meth:`running_sum`."""
        return values.cumsum(1) if self.reverse else values.flip(1).cumsum(1).flip(1)

    def causal_(self, products: Tensor, diagonal: bool = True) -> Tensor:
        """Zero, in place, what would reach backwards: entries (i, j) with j after i in scan order."""
        return products.triu_(0 if diagonal else 1) if self.reverse else products.tril_(0 if diagonal else -1)


class Chunk:
    """The scale factors of one chunk of some rows, for heads that all go one way.

    With entry state ``S``, ``R = enter S`` and ``v = scale x``, the chunk gives
    ``y = after (C R^T + inner) + D x`` and the exit state ``keep (carry R + v^T B)``. Factored, ``enter`` and ``keep``
    are half of the chunk's decay and ``carry`` is one. By head, ``carry`` is all of it and the others are one.
    """

    def __init__(self, dt: Tensor, A: Tensor, plan: Plan, by_head: bool) -> None:
        # Running sums in float64 (they are small next to x): past a strong decay, float32 has no digits for a weak one.
        self.a = a = plan.running_sum(dt.double() * A.double())  # (b, q, h)
        self.total = a[:, 0] if plan.reverse else a[:, -1]  # (b, h)
        self.by_head, self.dtype = by_head, plan.dtype
        if by_head:
            left = (self.total[:, None] - a).exp()  # of what enters at a step, at the chunk's exit
            self.after = a.exp().to(plan.dtype)
        else:
            after = (a - self.total[:, None] / 2).exp()
            left = after.reciprocal()
            self.after = after.to(plan.dtype)
        self.left = left.to(plan.dtype)
        self.scale = dt * self.left

    def enter_(self, state: Tensor | None) -> Tensor | None:
        """Turn the entry state ``(b, h * p, n)`` into ``R``, in place; None is zeros."""
        return state if state is None or self.by_head else _scale_(state, (self.total / 2).exp())

    def exit(self, R: Tensor | None, v: Tensor, B: Tensor, overwrite: bool = False) -> Tensor:
        """Return the exit state ``(b, h * p, n)``, in the memory of ``R`` if it may be overwritten."""
        if R is None:
            state = torch.bmm(v.mT, B)
        else:
            carried = self.carried(R if overwrite else R.clone())
            state = carried.baddbmm_(v.mT, B)
        return state if self.by_head else _scale_(state, (self.total / 2).exp())

    def carried(self, R: Tensor) -> Tensor:
        """Scale by ``carry``, in place."""
        return _scale_(R, self.total.exp()) if self.by_head else R

    def decay_matrix(self, plan: Plan) -> Tensor:
        """Return exp(a_i - a_j), zero where j comes after i, ``(b, h, q, q)``."""
        a = self.a.transpose(1, 2)
        return plan.causal_((a[..., :, None] - a[..., None, :]).to(plan.dtype).clamp_(max=0).exp_())


def _scale_(state: Tensor, factor: Tensor) -> Tensor:
    """Multiply a state ``(b, h * p, n)`` by a factor per head, ``(b, h)``, in place."""
    state.unflatten(1, (factor.shape[1], -1)).mul_(factor.to(state.dtype)[..., None, None])
    return state


def forward_slab(x, dt, A, B, C, D, state, plan: Plan, by_head: bool, out: Tensor) -> Tensor | None:
    """Scan a slab of rows into ``out``; return the last state, ``(b, h * p, n)``, if the plan wants it."""
    cuts = plan.chunks(x.shape[1])
    state = None if state is None else state.clone()
    for cut in cuts:
        x_c, dt_c, B_c, C_c = x[:, cut], dt[:, cut], B[:, cut], C[:, cut]
        chunk = Chunk(dt_c, A, plan, by_head)
        last = cut is cuts[-1] and not plan.final_state
        products = plan.causal_(torch.bmm(C_c, B_c.mT))  # (b, q, q), one for all heads
        v = None if by_head and last else (x_c * chunk.scale[..., None]).flatten(2)
        R = chunk.enter_(state)
        if by_head:
            weights = chunk.decay_matrix(plan).mul_(products[:, None])
            y = (weights @ (x_c * dt_c[..., None]).transpose(1, 2)).transpose(1, 2)  # (b, q, h, p)
            if R is not None:
                y = torch.bmm(C_c, R.mT).view(x_c.shape).mul_(chunk.after[..., None]).add_(y)
        else:
            y = torch.bmm(products, v)  # (b, q, h * p)
            if R is not None:
                y.baddbmm_(C_c, R.mT)
            y = y.view(x_c.shape).mul_(chunk.after[..., None])
        if D is None:
            out[:, cut] = y
        else:
            torch.addcmul(y, x_c, D[:, None], out=out[:, cut])
        if last:
            return None
        state = chunk.exit(R, v, B_c, overwrite=True)
    return state
