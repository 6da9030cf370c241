"""RMSNorm, the gated RMSNorm of Mamba-2, and a split of the last axis, each with a fast backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` over the last axis: ``x / sqrt(mean(x^2) + eps) * weight``.

    On a CPU in full precision, a formula gives the gradient in fewer passes over memory than PyTorch's autograd.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., channels)``."""
        return _RMSNorm.apply(x, self.weight, self.eps) if _has_formula(x, self.weight) else super().forward(x)


class GatedRMSNorm(nn.RMSNorm):
    """Gate, then normalise: :class:`RMSNorm` of ``y * silu(z)``.

    The official code calls this ``RMSNormGated`` with ``norm_before_gate`` off.
    """

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Map ``y`` and its gate ``z``, both ``(..., channels)``, to the same shape."""
        if _has_formula(y, z, self.weight):
            return _GatedRMSNorm.apply(y, z, self.weight, self.eps)
        return super().forward(y * F.silu(z))


def _has_formula(first: Tensor, *others: Tensor) -> bool:
    full = first.dtype in (torch.float32, torch.float64) and all(v.dtype == first.dtype for v in others)
    return full and first.device.type == "cpu" and torch.is_grad_enabled()


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return the reciprocal root of the last axis' mean square plus ``eps``, ``(..., 1)``."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return square.div_(x.shape[-1]).add_(eps).rsqrt_()


def _gradients(dout: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``weight`` for ``x * scale * weight``, where ``scale`` depends on ``x``."""
    product = dout * x
    dweight = product.flatten(0, -2).mT @ scale.flatten()
    along = (product @ weight)[..., None].mul_(scale.square() / x.shape[-1])
    dx = torch.mul(dout, weight, out=product).addcmul_(x, along, value=-1).mul_(scale)
    return dx, dweight


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = inverse_rms(x, eps)
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        return *_gradients(dout, *ctx.saved_tensors), None


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, z, weight, eps):
        sigmoid = torch.sigmoid(z)
        gate = z * sigmoid  # SiLU
        gated = y * gate
        scale = inverse_rms(gated, eps)
        ctx.save_for_backward(y, sigmoid, gate, scale, weight)
        return gated.mul_(scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        y, sigmoid, gate, scale, weight = ctx.saved_tensors
        dgated, dweight = _gradients(dout, y * gate, scale, weight)
        # The derivative of SiLU is sigmoid + silu (1 - sigmoid).
        dz = torch.addcmul(sigmoid, gate, 1 - sigmoid).mul_(dgated).mul_(y)
        return dgated.mul_(gate), dz, dweight, None


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
        whole = _joined(grads, ctx.shape)
        return torch.cat(grads, dim=-1) if whole is None else whole, None


def _joined(parts: Sequence[Tensor], shape: torch.Size) -> Tensor | None:
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
