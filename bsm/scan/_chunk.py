"""What the passes of the ``chunked`` backend share: how the work is cut, and the scale factors of one chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SLAB_ELEMENTS = 1 << 19  # of one chunk's input, all rows of a slab together: what stays in a core's share of cache
SMALL_SLAB = 1 << 17  # below this size, the calls of a slab cost more than its arithmetic


@dataclass(frozen=True)
class Plan:
    """How the heads of one group, or some of them, are scanned."""

    chunk: int  # steps
    by_head: bool  # the inner weights as one matrix per head, otherwise factored
    wary: Tensor | None  # of the factored heads, those whose gradient of the decays is computed by head
    reverse: bool
    final_state: bool
    dtype: torch.dtype

    def chunks(self, length: int) -> list[slice]:
        """Cut the sequence, in the order in which the state passes through it."""
        cuts = [slice(i, min(i + self.chunk, length)) for i in range(0, length, self.chunk)]
        return cuts[::-1] if self.reverse else cuts

    def slabs(self, batch: int, channels: int, most: int | None = None) -> Iterator[slice]:
        """Cut the batch into rows that are worked through together, ``most`` at a time."""
        rows = SLAB_ELEMENTS // (self.chunk * channels)
        rows = max(1, rows if most is None else min(rows, most))
        return (slice(i, min(i + rows, batch)) for i in range(0, batch, rows))

    def backward_rows(self, batch: int, length: int, channels: int, state: int) -> int:
        """Return how many rows keep entry states and workspace, in the backward pass, near the size of the inputs.

        A row takes, per channel, a state for each chunk and some eight arrays as long as a chunk.
        """
        rows = round(1.4 * batch * length) // (len(self.chunks(length)) * state + 8 * self.chunk)
        return max(rows, SMALL_SLAB // (self.chunk * channels))

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


class Chunk:
    """One chunk of one slab: the scale factors that both passes need.

    With entry state S, scaled entry state ``R = enter S``, inputs ``u = dt x`` and ``v = w u``:
    ``y = after (C R^T + inner) + D x`` and exit state ``carry R + keep v^T B``.
    """

    def __init__(self, dt: Tensor, A: Tensor, plan: Plan) -> None:
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

    def decay_matrix(self, plan: Plan, heads: Tensor | slice = slice(None)) -> Tensor:
        """Return exp(a_i - a_j), zero where j comes after i, ``(b, h, q, q)``, of all or of some heads."""
        a = self.a[:, :, heads].transpose(1, 2)
        weights = (a[..., :, None] - a[..., None, :]).to(plan.dtype)
        return plan.causal_(weights.clamp_(max=0).exp_())


def by_channel(factor: Tensor, headdim: int) -> Tensor:
    """Spread a per-head factor ``(b, 1, h)`` over the rows of a state ``(b, h * headdim, n)``."""
    return factor.repeat_interleave(headdim, dim=-1).mT
