"""The ``chunked`` backend for sequences of one chunk, with compiled loops between the products.

It computes the factored way of :mod:`bsm.scan._chunk`, from zeros and without the last state: what short training
segments and the axis of bands need. See :class:`bsm.scan._chunk.Chunk` for the factors' names.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.compiled import compiled, compiled_sum, over_rows
from bsm.devices import full_precision
from bsm.norm import joined
from bsm.scan._chunk import Plan


class WholeScan(torch.autograd.Function):
    """Scan ``x`` ``(b, l, h, p)``, ``dt`` ``(b, l, h)``, ``A`` and ``D`` ``(h,)``, ``B`` and ``C`` ``(b, l, n)``."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, plan: Plan):
        y = torch.empty(x.shape)
        xBC = _join(x, B, C)
        for rows in plan.slabs(len(x), x.shape[2] * x.shape[3]):
            after, _, scale = _factors_of(dt[rows], A, plan)
            products = plan.causal_(torch.bmm(C[rows], B[rows].mT))
            inside = torch.bmm(products, _scaled(xBC[rows], scale, x.shape[3]))
            over_rows(_output, [inside, after, xBC[rows], y[rows]], D)
        ctx.plan = plan
        ctx.save_for_backward(x, dt, A, B, C, D, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, dt, A, B, C, D, y = ctx.saved_tensors
        headdim, state, plan = x.shape[3], B.shape[2], ctx.plan
        sizes = [x.shape[2] * headdim, state, state]
        xBC, dy = _join(x, B, C), dy.contiguous()
        # Parts of one tensor: if x, B and C were split from one tensor, their gradients need no copy to be joined.
        grads, ddt = torch.empty(xBC.shape), torch.empty(dt.shape)
        dx, dB, dC = grads.split(sizes, -1)
        sums = np.zeros((2, len(A)))  # the gradients of A and D
        with full_precision("cpu"):  # the caller may have switched autocast on
            for rows in plan.slabs(len(x), sizes[0]):
                after, left, scale = _factors_of(dt[rows], A, plan)
                v, scaled_dy = _scaled(xBC[rows], scale, headdim), _scaled(dy[rows].flatten(2), after, headdim)
                products = plan.causal_(torch.bmm(C[rows], B[rows].mT))
                dv = torch.bmm(products.mT, scaled_dy)
                dproducts = plan.causal_(torch.bmm(scaled_dy, v.mT))
                dB[rows], dC[rows] = torch.bmm(dproducts.mT, C[rows]), torch.bmm(dproducts, B[rows])
                tensors = xBC[rows], dt[rows], dv, dy[rows], y[rows], left, scale, grads[rows], ddt[rows]
                sums += sum(over_rows(_finish, tensors, A, D, plan.reverse))
        dA, dD = torch.from_numpy(sums).to(A.dtype)
        return dx.unflatten(-1, x.shape[2:]), ddt, dA, dB, dC, dD, None


def _join(x: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return ``x``, ``B`` and ``C`` side by side, ``(b, l, h p + 2 n)``; without a copy if memory holds them so."""
    parts = [x.flatten(2), B, C]
    whole = joined(parts, torch.Size((*B.shape[:2], sum(v.shape[2] for v in parts))))
    return torch.cat(parts, -1) if whole is None else whole


def _factors_of(dt: Tensor, A: Tensor, plan: Plan) -> Tensor:
    """Return ``after``, ``left`` and ``scale``, ``(b, l, h)`` each."""
    factors = torch.empty(3, *dt.shape)
    over_rows(_factors, [dt, *factors], A, plan.reverse)
    return factors


def _scaled(values: Tensor, factor: Tensor, headdim: int) -> Tensor:
    """Return the first ``h p`` of ``values``, ``(b, l, ...)``, times a factor per head, ``(b, l, h)``."""
    out = torch.empty(*values.shape[:2], factor.shape[2] * headdim)
    over_rows(_scale, [values, factor, out])
    return out


@compiled
def _factors(dt, after, left, scale, A, reverse):
    """Write the factors; sums in float64, for after a strong decay float32 has too few digits left for a weak one."""
    rows, steps, heads = dt.shape
    for i in range(rows):
        for h in range(heads):
            total = 0.0
            for step in range(steps):
                total += np.float64(dt[i, step, h]) * np.float64(A[h])
            a = -total / 2
            for step in range(steps):
                t = steps - 1 - step if reverse else step
                a += np.float64(dt[i, t, h]) * np.float64(A[h])
                decay = math.exp(a)
                after[i, t, h], left[i, t, h], scale[i, t, h] = decay, 1 / decay, dt[i, t, h] / decay


@compiled
def _scale(values, factor, out):
    rows, steps, heads = factor.shape
    headdim = out.shape[2] // heads
    for i in range(rows):
        for t in range(steps):
            for h in range(heads):
                for p in range(headdim):
                    c = np.uintp(h * headdim) + np.uintp(p)
                    out[i, t, c] = values[i, t, c] * factor[i, t, h]


@compiled
def _output(inside, after, xBC, y, D):
    rows, steps, heads, headdim = y.shape
    for i in range(rows):
        for t in range(steps):
            for h in range(heads):
                for p in range(headdim):
                    c = np.uintp(h * headdim) + np.uintp(p)
                    y[i, t, h, p] = inside[i, t, c] * after[i, t, h] + xBC[i, t, c] * D[h]


@compiled_sum
def _finish(xBC, dt, dv, dy, y, left, scale, dxBC, ddt, A, D, reverse):
    """Write the gradients of ``x`` and ``dt``; return those of ``A`` and ``D``, ``(2, h)`` in float64."""
    rows, steps, heads, headdim = y.shape
    sums = np.zeros((2, heads))
    for i in range(rows):
        for h in range(heads):
            later = 0.0  # the gradient of the sum of dt A up to this step
            for step in range(steps - 1, -1, -1):
                t = steps - 1 - step if reverse else step
                dv_x, dy_x, dy_y = np.float32(0), np.float32(0), np.float32(0)
                for p in range(headdim):
                    c = np.uintp(h * headdim) + np.uintp(p)
                    dv_x += dv[i, t, c] * xBC[i, t, c]
                    dy_x += dy[i, t, h, p] * xBC[i, t, c]
                    dy_y += dy[i, t, h, p] * y[i, t, h, p]
                for p in range(headdim):
                    c = np.uintp(h * headdim) + np.uintp(p)
                    dxBC[i, t, c] = dv[i, t, c] * scale[i, t, h] + dy[i, t, h, p] * D[h]
                du = dv_x * left[i, t, h]
                later += dy_y - du * dt[i, t, h] - dy_x * D[h]
                ddt[i, t, h] = du + later * A[h]
                sums[0, h] += later * dt[i, t, h]
                sums[1, h] += dy_x
    return sums
