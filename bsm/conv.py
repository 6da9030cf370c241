"""The causal depthwise convolution in front of the scan, with its SiLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: bool = False) -> Tensor:
    """Convolve each channel with its own few taps over past steps, then apply SiLU, once.

    Equals ``silu(conv1d(x, weight, bias, groups=channels, padding=taps - 1)[..., :length])`` of the official Mamba-2,
    as shifted multiply-adds over channels-last data: no transposed copies, and faster than Conv1d on a CPU.

    Args:
        x: ``(batch, length, channels)``.
        weight: ``(channels, 1, taps)``, the last tap on the present step.
        bias: ``(channels,)``.
        reverse: look at future steps instead, as on the flipped sequence.

    Returns:
        ``(batch, length, channels)``.

    Raises:
        ValueError: shapes that do not fit.
    """
    channels = x.shape[-1]
    if x.ndim != 3 or weight.shape[:2] != (channels, 1) or bias.shape != (channels,):
        raise ValueError(
            "x, weight, bias must be (batch, length, channels), (channels, 1, taps), (channels,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    return _CausalConv.apply(x, weight, bias, reverse)


def _shifts(length: int, taps: int, reverse: bool):
    """Yield (tap, steps that are written, steps that are read) for every tap but the present one's."""
    for shift in range(1, min(taps, length)):
        late, early = slice(shift, None), slice(None, length - shift)
        yield (taps - 1 - shift, early, late) if reverse else (taps - 1 - shift, late, early)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, reverse):
        taps = weight.squeeze(1).mT.contiguous()  # (taps, channels)
        y = torch.addcmul(bias, x, taps[-1])
        for tap, written, read in _shifts(x.shape[1], len(taps), reverse):
            y[:, written].addcmul_(x[:, read], taps[tap])
        ctx.save_for_backward(x, taps, y)
        ctx.reverse = reverse
        return F.silu(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, taps, y = ctx.saved_tensors
        dy = torch.ops.aten.silu_backward(dout, y)
        dx = dy * taps[-1]
        dtaps = torch.zeros_like(taps)
        dtaps[-1] = (dy * x).sum((0, 1))
        for tap, written, read in _shifts(x.shape[1], len(taps), ctx.reverse):
            dx[:, read].addcmul_(dy[:, written], taps[tap])
            dtaps[tap] = (dy[:, written] * x[:, read]).sum((0, 1))
        return dx, dtaps.mT[:, None], dy.sum((0, 1)), None
