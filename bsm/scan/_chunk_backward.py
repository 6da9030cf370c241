"""The backward pass of the ``chunked`` backend, for one slab of rows: it recomputes the states that it needs."""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan._chunk import Chunk, Plan, by_channel


def backward_slab(x, dt, B, C, y, dy, A, D, state, dstate, plan: Plan, grads, dA, dD) -> Tensor | None:
    """Fill the gradients of a slab; return the gradient of its initial state, if it had one."""
    headdim = x.shape[3]
    dx, ddt, dB, dC = grads
    cuts = plan.chunks(x.shape[1])
    chunks = [Chunk(dt[:, cut], A, plan) for cut in cuts]
    entries = _entry_states(x, dt, B, state, cuts, chunks, headdim, plan.by_head)
    for cut, chunk in zip(cuts[::-1], chunks[::-1], strict=True):
        R = entries.pop()
        x_c, dt_c, B_c, C_c, dy_c = (t[:, cut] for t in (x, dt, B, C, dy))
        scale = dt_c * chunk.w
        v = (x_c * scale[..., None]).flatten(2)
        scaled_dy = (dy_c * chunk.after[..., None]).flatten(2)
        products = plan.causal_(C_c @ B_c.mT)
        dyx = None if D is None else (dy_c * x_c).sum(-1)  # (b, q, h)
        if plan.by_head:
            du, dproducts, crossing = _inner_by_head(x_c, dt_c, dy_c, products, chunk, plan)
            dv = None
        else:
            dproducts = plan.causal_(torch.bmm(scaled_dy, v.mT))
            dv = torch.bmm(products.mT, scaled_dy)
            da = (dy_c * y[:, cut]).sum(-1)  # what reaches step i, summed; less, below, what leaves step j
            if D is not None:
                da -= dyx * D.to(x.dtype)
        dC_c, dB_c = torch.bmm(dproducts, B_c), torch.bmm(dproducts.mT, C_c)
        dthrough = leaving = dR = None
        if R is not None:
            dC_c.baddbmm_(scaled_dy, R)
            dR = torch.bmm(scaled_dy.mT, C_c)
        if dstate is not None:  # gradient of the exit state
            dT = dstate * by_channel(chunk.keep, headdim)
            carried = dstate * by_channel(chunk.carry, headdim) if plan.by_head else dT
            dB_c.baddbmm_(v, dT)
            from_state = torch.bmm(B_c, dT.mT)
            leaving = (v * from_state).view(x_c.shape).sum(-1)  # (b, q, h)
            if R is not None:
                dthrough = (carried * R).view(R.shape[0], 1, -1, headdim * R.shape[2]).sum(-1)  # (b, 1, h)
                dR = dR.add_(carried)
            if plan.by_head:
                du = du.add_(from_state.view(x_c.shape) * chunk.w[..., None])
            else:
                dv.add_(from_state)
        if plan.by_head:
            dxu = (du * x_c).sum(-1)  # (b, q, h)
            dx_c = du.mul_(dt_c[..., None])
        else:
            dv = dv.view(x_c.shape)
            dxu = (dv * x_c).sum(-1).mul_(chunk.w)
            dx_c = dv.mul_(scale[..., None])
        if plan.by_head:
            ddecay = _passing(crossing, scaled_dy, C_c, R, leaving, dthrough, plan)
        else:
            ddecay = plan.sum_from((da - dxu * dt_c).double())
            if leaving is not None:
                ddecay += leaving.sum(1, keepdim=True)
            if dthrough is not None:
                ddecay += dthrough
            if (few := plan.wary).numel():
                few_dy, few_v = (t.view(x_c.shape)[:, :, few] for t in (scaled_dy, v))
                reached = plan.causal_(few_dy.transpose(1, 2) @ few_v.permute(0, 2, 3, 1)).mul_(products[:, None])
                R_few = None if R is None else R.unflatten(1, (-1, headdim))[:, few].flatten(1, 2)
                parts = [None if t is None else t[:, :, few] for t in (leaving, dthrough)]
                ddecay[:, :, few] = _passing(_crossing(reached, plan), few_dy.flatten(2), C_c, R_few, *parts, plan)
        ddt[:, cut] = dxu + ddecay * A
        dA += (ddecay * dt_c).sum((0, 1))
        if D is None:
            dx[:, cut] = dx_c
        else:
            torch.addcmul(dx_c, dy_c, D.to(x.dtype)[:, None], out=dx[:, cut])
            dD += dyx.sum((0, 1))
        dB[:, cut], dC[:, cut] = dB_c, dC_c
        dstate = None if dR is None else dR.mul_(by_channel(chunk.enter, headdim))
    return dstate


def _entry_states(x, dt, B, state, cuts, chunks, headdim, by_head) -> list[Tensor | None]:
    """Recompute the scaled state ``R`` with which each chunk is entered, ``(b, h * p, n)``; None for zeros."""
    entries: list[Tensor | None] = []
    for cut, chunk in zip(cuts, chunks, strict=True):
        entries.append(None if state is None else state * by_channel(chunk.enter, headdim))
        if cut is cuts[-1]:
            break
        v = (x[:, cut] * (dt[:, cut] * chunk.w)[..., None]).flatten(2)
        if (R := entries[-1]) is None:
            state = torch.bmm(v.mT, B[:, cut])
        else:
            state = torch.baddbmm(R * by_channel(chunk.carry, headdim) if by_head else R, v.mT, B[:, cut])
        if not by_head:
            state.mul_(by_channel(chunk.keep, headdim))
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
