"""The forward pass of the ``chunked`` backend over a slab of rows, and what both passes share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# A slab is a group of rows of the batch. Its size is the number of elements of its input within one chunk.
SLAB_ELEMENTS = 1 << 19  # a slab of this size fits into a core's share of the cache
SMALL_SLAB = 1 << 18  # in smaller slabs, calling the operations takes longer than the arithmetic


@dataclass(frozen=True)
class Plan:
    """How a sequence is cut into chunks, and in which direction it is scanned."""

    chunk: int  # steps of a chunk
    reverse: bool
    final_state: bool  # whether to return it
    dtype: torch.dtype  # of states and sums

    def chunks(self, length: int) -> list[slice]:
        """Return the steps of each chunk, in the order of the scan."""
        cuts = [slice(i, min(i + self.chunk, length)) for i in range(0, length, self.chunk)]
        return cuts[::-1] if self.reverse else cuts

    def slabs(self, batch: int, channels: int, elements: int = SLAB_ELEMENTS) -> Iterator[slice]:
        """Yield the rows of each slab, which is ``elements`` large and has at least one row."""
        rows = max(1, elements // (self.chunk * channels))
        return (slice(i, min(i + rows, batch)) for i in range(0, batch, rows))

    def backward_elements(self, batch: int, length: int, channels: int, state: int) -> int:
        """Return the size of a slab of the backward pass: its memory is then about that of all inputs.

        Per row and channel, the backward pass holds a state for each chunk and about eight arrays of a chunk's length.
        """
        rows = round(1.4 * batch * length) // (len(self.chunks(length)) * state + 8 * self.chunk)
        return max(SMALL_SLAB, min(SLAB_ELEMENTS, rows * self.chunk * channels))

    def running_sum(self, values: Tensor) -> Tensor:
        """Return sums of ``(b, q, h)`` from the chunk's first step to each step, both included, in scan order."""
        return values.flip(1).cumsum(1).flip(1) if self.reverse else values.cumsum(1)

    def sum_before(self, values: Tensor) -> Tensor:
        """Return sums over the steps before each step. Its own value is left out, not added and subtracted again."""
        shifted = values.roll(-1 if self.reverse else 1, 1)
        shifted[:, -1 if self.reverse else 0] = 0
        return self.running_sum(shifted)

    def sum_from(self, values: Tensor) -> Tensor:
        """Return sums from each step to the chunk's last step, both included: the adjoint of :meth:`running_sum`."""
        return values.cumsum(1) if self.reverse else values.flip(1).cumsum(1).flip(1)

    def causal_(self, products: Tensor, diagonal: bool = True) -> Tensor:
        """Set entries (i, j) to 0, in place, where j comes after i in scan order; without ``diagonal``, also j = i."""
        return products.triu_(0 if diagonal else 1) if self.reverse else products.tril_(0 if diagonal else -1)


class Chunk:
    """The scale factors of one chunk of some rows, for heads that are all computed in one way.

    ``a`` is the running sum of ``dt A`` up to each step, and ``T`` its value at the last step, the total. With the
    entry state ``S``, ``R = enter S`` and ``v = scale x``, where ``scale = dt left``, the chunk's exit state is
    ``keep (carry R + v^T B)``. Its output has a part from the entry state, one from steps of the chunk, and ``D x``:

    ===============  ===============================  =======================================
    factor           factored                         by head
    ===============  ===============================  =======================================
    ``after``        ``exp(a - T / 2)``               ``exp(a)``
    ``left``         ``exp(T / 2 - a)``               ``exp(T - a)``
    ``enter, keep``  ``exp(T / 2)`` each              1
    ``carry``        1                                ``exp(T)``
    from the entry   ``after C R^T``                  ``after C R^T``
    from the chunk   ``after causal(C B^T) v``        ``(decay_matrix * causal(C B^T)) dt x``
    ===============  ===============================  =======================================
    """

    def __init__(self, dt: Tensor, A: Tensor, plan: Plan, by_head: bool) -> None:
        # Running sums in float64: after a strong decay, float32 has too few digits left for a weak one.
        self.a = a = plan.running_sum(dt.double() * A.double())  # (b, q, h)
        self.total = a[:, 0] if plan.reverse else a[:, -1]  # (b, h)
        self.by_head = by_head
        if by_head:
            left = (self.total[:, None] - a).exp()  # decay from each step to the chunk's exit
            self.after = a.exp().to(plan.dtype)
        else:
            after = (a - self.total[:, None] / 2).exp()
            left = after.reciprocal()
            self.after = after.to(plan.dtype)
        self.left = left.to(plan.dtype)
        self.scale = dt * self.left

    def enter_(self, state: Tensor | None) -> Tensor | None:
        """Turn the entry state ``(b, h * p, n)`` into ``R``, in place; None stands for zeros."""
        return state if state is None or self.by_head else _scale_(state, (self.total / 2).exp())

    def exit(self, R: Tensor | None, v: Tensor, B: Tensor, overwrite: bool = False) -> Tensor:
        """Return the exit state ``(b, h * p, n)``; with ``overwrite``, in the memory of ``R``."""
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
        """Return ``exp(a_i - a_j)``, ``(b, h, q, q)``; zero where j comes after i in scan order."""
        a = self.a.transpose(1, 2)
        return plan.causal_((a[..., :, None] - a[..., None, :]).to(plan.dtype).clamp_(max=0).exp_())


def _scale_(state: Tensor, factor: Tensor) -> Tensor:
    """Multiply a state ``(b, h * p, n)`` by a factor per head, ``(b, h)``, in place."""
    state.unflatten(1, (factor.shape[1], -1)).mul_(factor.to(state.dtype)[..., None, None])
    return state


def forward_slab(x, dt, A, B, C, D, state, plan: Plan, by_head: bool, out: Tensor) -> Tensor | None:
    """Scan a slab of rows and write the result to ``out``; return the last state, ``(b, h * p, n)``, if planned.

    Args:
        x: ``(b, l, h, p)``, the heads of a group that are computed in one way.
        dt: ``(b, l, h)``.
        A: ``(h,)``.
        B: ``(b, l, n)``.
        C: ``(b, l, n)``.
        D: ``(h,)``, or None.
        state: before the first step, ``(b, h * p, n)``, or None for zeros.
        plan: how the sequence is cut, and its direction.
        by_head: the way: by head, or factored.
        out: where to write ``y``, shaped as ``x``.
    """
    cuts = plan.chunks(x.shape[1])
    state = None if state is None else state.clone()
    for cut in cuts:
        x_c, dt_c, B_c, C_c = x[:, cut], dt[:, cut], B[:, cut], C[:, cut]
        chunk = Chunk(dt_c, A, plan, by_head)
        last = cut is cuts[-1] and not plan.final_state
        products = plan.causal_(torch.bmm(C_c, B_c.mT))  # (b, q, q), the same for all heads
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
