"""RMSNorm, the gated RMSNorm of Mamba-2, and a split of the last axis, each with a fast backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bsm.compiled import ONE, applies, compiled_sum, over_rows, sigmoid

ROWS = 64  # whose gradients of the weight are summed in float32


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` over the last axis: ``x / sqrt(mean(x^2) + eps) * weight``.

    With gradients, in float32 on a CPU, it takes one pass over memory each way, see :mod:`bsm.compiled`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., channels)``."""
        if torch.is_grad_enabled() and applies(x, self.weight):
            return _Norm.apply(x, None, self.weight, self.eps)
        return super().forward(x)


class GatedRMSNorm(nn.RMSNorm):
    """Gate, then normalise: :class:`RMSNorm` of ``y * silu(z)``.

    The official code calls this ``RMSNormGated`` with ``norm_before_gate`` off.
    """

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Map ``y`` and its gate ``z``, both ``(..., channels)``, to the same shape."""
        if torch.is_grad_enabled() and applies(y, z, self.weight):
            return _Norm.apply(y, z, self.weight, self.eps)
        return super().forward(y * F.silu(z))


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return the reciprocal root of the last axis' mean square plus ``eps``, ``(..., 1)``."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return square.div_(x.shape[-1]).add_(eps).rsqrt_()


class _Norm(torch.autograd.Function):
    """Normalise ``y silu(z)``, or ``y`` where ``z`` is None, both ``(..., channels)``.

    The forward pass keeps its inputs and the norm's factor, one number per row of channels.
    """

    @staticmethod
    def forward(ctx, y, z, weight, eps):
        out, scale = torch.empty(y.shape), torch.empty(y.shape[:-1])
        rows = [v.reshape(-1, len(weight)) for v in (y, y if z is None else z, out)]
        over_rows(_forward, [*rows, scale.view(-1)], weight, np.float32(eps), z is not None)
        ctx.save_for_backward(y, z, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        y, z, weight, scale = ctx.saved_tensors
        dy, dz = torch.empty(y.shape), None if z is None else torch.empty(y.shape)
        tensors = (y, dout, dy, y, dy) if z is None else (y, dout, dy, z, dz)
        rows = [v.reshape(-1, len(weight)) for v in tensors]
        dweight = sum(over_rows(_backward, [*rows, scale.view(-1)], weight, z is not None))
        return dy, dz, torch.from_numpy(dweight).to(weight.dtype), None


@compiled_sum
def _forward(y, z, out, scale, weight, eps, gated):
    """Write ``out`` and the factor of each row."""
    rows, channels = y.shape
    for i in range(rows):
        if gated:
            for c in range(channels):
                out[i, c] = y[i, c] * z[i, c] * sigmoid(z[i, c])
        else:
            for c in range(channels):
                out[i, c] = y[i, c]
        square = np.float32(0)
        for c in range(channels):
            square += out[i, c] * out[i, c]
        scale[i] = ONE / math.sqrt(square / np.float32(channels) + eps)
        for c in range(channels):
            out[i, c] *= scale[i] * weight[c]


@compiled_sum
def _backward(y, dout, dy, z, dz, scale, weight, gated):
    """Write the gradients of ``y`` and of its gate ``z``; return that of the weight, in float64."""
    rows, channels = y.shape
    x, gate = np.empty((2, channels), np.float32)  # what is normalised, and SiLU of z
    sums, total = np.zeros(channels, np.float32), np.zeros(channels)
    for i in range(rows):
        if gated:
            for c in range(channels):
                s = sigmoid(z[i, c])
                gate[c] = z[i, c] * s
                dz[i, c] = s + gate[c] * (ONE - s)  # the derivative of SiLU
                x[c] = y[i, c] * gate[c]
        else:
            for c in range(channels):
                x[c] = y[i, c]
        along = np.float32(0)
        for c in range(channels):
            sums[c] += dout[i, c] * x[c] * scale[i]
            along += dout[i, c] * weight[c] * x[c]
        along *= scale[i] * scale[i] / np.float32(channels)  # the factor depends on x
        for c in range(channels):
            dy[i, c] = (dout[i, c] * weight[c] - x[c] * along) * scale[i]
        if gated:
            for c in range(channels):
                dz[i, c] *= dy[i, c] * y[i, c]
            for c in range(channels):
                dy[i, c] *= gate[c]
        if i % ROWS == 0:  # short sums keep their digits
            total += sums
            sums[:] = 0
    return total + sums


def split(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split the last axis into parts of these sizes.

    If the gradients of the parts lie next to each other in memory, the backward pass joins them without a copy. The
    ``chunked`` scan leaves them so.
    """
    return list(_Split.apply(x, tuple(sizes)))


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, sizes):
        ctx.sizes, ctx.shape = sizes, x.shape
        ctx.set_materialize_grads(False)
        return x.split(sizes, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        first = next((g for g in grads if g is not None), None)
        if first is None:
            return None, None
        grads = [
            first.new_zeros(*ctx.shape[:-1], size) if g is None else g for g, size in zip(grads, ctx.sizes, strict=True)
        ]
        whole = joined(grads, ctx.shape)
        return torch.cat(grads, dim=-1) if whole is None else whole, None


def joined(parts: Sequence[Tensor], shape: torch.Size) -> Tensor | None:
    """Return the tensor of ``shape`` that the parts together are, as a view; None if memory does not hold it so."""
    strides = parts[0].stride()
    wanted = torch.empty(shape, device="meta").stride()
    offset = parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == parts[0].untyped_storage().data_ptr()
        if not same or part.stride() != strides or strides != wanted or part.storage_offset() != offset:
            return None
        offset += part.shape[-1]
    return parts[0].as_strided(shape, strides)
