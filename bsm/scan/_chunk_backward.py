"""The backward pass of the ``chunked`` backend, for one slab of rows. It recomputes the states that it needs."""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan._chunk import Chunk, Plan


def backward_slab(
    x, dt, A, B, C, D, state, y, dy, dlast, plan: Plan, by_head: bool, wary: Tensor, grads, add: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute the gradients of a slab of rows, for heads that are all computed in one way.

    The arguments ``x`` to ``state``, ``plan`` and ``by_head`` are those of :func:`bsm.scan._chunk.forward_slab`. ``y``
    is its result. ``dy`` and ``dlast`` are the gradients of ``y`` and of the last state; ``dlast`` may be None for
    zeros.

    Args:
        wary: indices of factored heads whose gradient of the decays is computed by head.
        grads: where to write the gradients of ``x``, ``dt``, ``B`` and ``C``.
        add: add the gradients of ``B`` and ``C`` to those of other heads, instead of replacing them.

    Returns:
        The gradients of ``A``, of ``D`` and of the initial state; None for ``D`` or a state that is None.
    """
    headdim = x.shape[3]
    cuts = plan.chunks(x.shape[1])
    chunks = [Chunk(dt[:, cut], A, plan, by_head) for cut in cuts]
    dlast = None if dlast is None else dlast.clone()
    entries = _entry_states(x, B, state, cuts, chunks)
    dA = torch.zeros(A.shape, dtype=torch.float64, device=A.device)
    dD = None if D is None else torch.zeros_like(dA)
    ones = x.new_ones(headdim)
    for cut, chunk, R in zip(cuts[::-1], chunks[::-1], entries[::-1], strict=True):
        x_c, dt_c, B_c, C_c, dy_c = (t[:, cut] for t in (x, dt, B, C, dy))
        dx, ddt, dB, dC = (g[:, cut] for g in grads)
        v = (x_c * chunk.scale[..., None]).flatten(2)
        scaled_dy = (dy_c * chunk.after[..., None]).flatten(2)
        products = plan.causal_(torch.bmm(C_c, B_c.mT))
        if by_head:
            dv, dproducts, reached = _inner_by_head(x_c, dt_c, dy_c, products, chunk, plan)
        else:
            dproducts = plan.causal_(torch.bmm(scaled_dy, v.mT))
            dv = torch.bmm(products.mT, scaled_dy).view(x_c.shape)
        # Into new tensors: PyTorch writes a product into a part of a larger tensor row by row.
        dC_c, dB_c = torch.bmm(dproducts, B_c), torch.bmm(dproducts.mT, C_c)
        leaving = passing = dR = None
        if R is not None:
            dC_c.baddbmm_(scaled_dy, R)
            dR = torch.bmm(scaled_dy.mT, C_c)
        if dlast is not None:
            dlast = dlast if by_head else chunk.enter_(dlast)  # times keep, which equals enter
            carried = chunk.carried(dlast.clone()) if by_head else dlast
            dB_c.baddbmm_(v, dlast)
            from_state = torch.bmm(B_c, dlast.mT).view(x_c.shape)
            leaving = (v.view(x_c.shape) * from_state) @ ones  # (b, q, h)
            if R is not None:
                passing = (carried * R).view(R.shape[0], -1, headdim * R.shape[2]).sum(-1)[:, None]  # (b, 1, h)
                dR += carried
            dv = dv.addcmul_(from_state, chunk.left[..., None]) if by_head else dv.add_(from_state)
        for total, own in ((dB, dB_c), (dC, dC_c)):
            total.add_(own) if add else total.copy_(own)
        product = torch.mul(dv, x_c)
        dxu = product @ ones  # (b, q, h)
        if by_head:
            dx_c = dv.mul_(dt_c[..., None])
        else:
            dxu *= chunk.left
            dx_c = dv.mul_(chunk.scale[..., None])
        if D is None:
            dx.copy_(dx_c)
        else:
            torch.addcmul(dx_c, dy_c, D[:, None], out=dx)
            dyx = torch.mul(dy_c, x_c, out=product) @ ones
            dD += dyx.sum((0, 1))
        if by_head:
            ddecay = _decay_by_head(reached, _arriving(scaled_dy, C_c, R, headdim), leaving, passing, plan)
        else:
            inside = (torch.mul(dy_c, y[:, cut], out=product) @ ones).addcmul_(dxu, dt_c, value=-1)
            if D is not None:
                inside.addcmul_(dyx, D, value=-1)
            ddecay = plan.sum_from(inside.double())
            for crossing in (passing, None if leaving is None else leaving.sum(1, keepdim=True)):
                if crossing is not None:
                    ddecay += crossing
            if wary.numel():
                few_dy, few_v = (t.view(x_c.shape).index_select(2, wary) for t in (scaled_dy, v))
                reached = (few_dy.transpose(1, 2) @ few_v.permute(0, 2, 3, 1)).mul_(products[:, None])
                few_R = None if R is None else R.unflatten(1, (-1, headdim)).index_select(1, wary).flatten(1, 2)
                arriving = _arriving(few_dy.flatten(2), C_c, few_R, headdim)
                parts = (t if t is None else t.index_select(2, wary) for t in (leaving, passing))
                ddecay.index_copy_(2, wary, _decay_by_head(reached, arriving, *parts, plan))
        ddt.copy_(torch.addcmul(dxu, ddecay, A))
        dA += (ddecay * dt_c).sum((0, 1))
        dlast = chunk.enter_(dR)
    return dA, dD, dlast


def _entry_states(x, B, state, cuts, chunks) -> list[Tensor | None]:
    """Recompute the scaled entry state ``R`` of each chunk, ``(b, h * p, n)``; None for zeros."""
    state = None if state is None else state.clone()
    entries = []
    for cut, chunk in zip(cuts, chunks, strict=True):
        entries.append(chunk.enter_(state))
        if cut is not cuts[-1]:
            state = chunk.exit(entries[-1], (x[:, cut] * chunk.scale[..., None]).flatten(2), B[:, cut])
    return entries


def _inner_by_head(x, dt, dy, products, chunk: Chunk, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients inside a chunk.

    They are those of ``dt x``, ``(b, q, h, p)``, of ``C B^T``, ``(b, q, q)``, and of the logarithms of the weights
    ``exp(a_i - a_j) C_i . B_j``, ``(b, h, q, q)``.
    """
    decay = chunk.decay_matrix(plan)  # (b, h, q, q)
    dy, u = dy.transpose(1, 2), (x * dt[..., None]).transpose(1, 2)  # (b, h, q, p)
    dweights = dy @ u.mT
    dproducts = plan.causal_((dweights * decay).sum(1))
    weights = decay.mul_(products[:, None])
    du = (weights.mT @ dy).transpose(1, 2)
    return du, dproducts, dweights.mul_(weights)


def _arriving(scaled_dy: Tensor, C: Tensor, R: Tensor | None, headdim: int) -> Tensor | None:
    """Return the gradient of the log-weight from the entry state to each step, ``(b, q, h)``; None if it is zeros."""
    return None if R is None else (scaled_dy * torch.bmm(C, R.mT)).unflatten(2, (-1, headdim)).sum(-1)


def _decay_by_head(reached, arriving, leaving, passing, plan: Plan) -> Tensor:
    """Return the gradient of each step's log-decay, ``(b, q, h)``.

    A step's decay is part of every log-weight from before the step to the step or later. So its gradient is the sum of
    their gradients. Inside the chunk, that is the sum over all that arrives at the step or later, minus the sum over
    all that leaves there. Both have the same terms, so the difference stays accurate. The weight from a step to itself
    has no decay and is left out.

    Args:
        reached: gradient of each log-weight from step j to step i, ``(b, h, i, j)``; zero for j after i.
        arriving: of those from the entry state to each step, ``(b, q, h)``, or None.
        leaving: of those from each step to the exit state, ``(b, q, h)``, or None.
        passing: of the one from the entry state to the exit state, ``(b, 1, h)``, or None.
        plan: gives the direction.
    """
    reached = plan.causal_(reached, diagonal=False)
    inside = (reached.sum(-1, dtype=torch.float64) - reached.sum(-2, dtype=torch.float64)).transpose(1, 2)
    total = plan.sum_from(inside if arriving is None else inside + arriving)
    if leaving is not None:
        total += plan.sum_before(leaving.double())
    if passing is not None:
        total += passing
    return total
