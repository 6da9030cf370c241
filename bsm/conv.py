"""The causal depthwise convolution before the scan, with its SiLU: one function with interchangeable backends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.devices import full_precision
from bsm.errors import BackendUnavailable, known

log = logging.getLogger(__name__)

PIECE = 1 << 18  # elements that are computed together on a CPU, so that they stay in the cache
CUDA_TAPS = (2, 3, 4)  # numbers of taps that the compiled kernel supports
CUDA_ALIGNMENT = 8  # elements; strides of channels-last data must be multiples of it


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: bool = False, backend: str = "auto") -> Tensor:
    """Convolve each channel along its present and past steps with a filter of its own, then apply SiLU.

    Equals ``silu(conv1d(x, weight, bias, groups=channels, padding=taps - 1)[..., :length])`` of the official Mamba-2.
    Backends:

    - ``shifted``: shifted multiply-adds over channels-last data, without transposed copies; the fastest on a CPU.
    - ``conv1d``: the formula above, with PyTorch's convolution.
    - ``cuda``: ``causal_conv1d_fn`` of the package causal-conv1d; 2 to 4 taps, CUDA tensors, no float64.
    - ``auto``: ``cuda`` if it can run, otherwise ``shifted``. The choice is logged once. An error does not change it.

    Args:
        x: ``(batch, length, channels)``.
        weight: ``(channels, 1, taps)``; the last tap is for the present step.
        bias: ``(channels,)``. If ``x`` has half precision, ``bias`` and ``weight`` may be float32.
        reverse: convolve along future steps instead of past ones.
        backend: see above.

    Returns:
        ``(batch, length, channels)``, typed as ``x``.

    Raises:
        ValueError: The shapes do not fit, or the backend is unknown.
        BackendUnavailable: The backend lacks a package or a device, or has no kernel for these arguments.
    """
    channels = x.shape[-1] if x.ndim else 0
    fits = x.ndim == weight.ndim == 3 and weight.shape[:2] == (channels, 1) and bias.shape == (channels,)
    if not fits or 0 in x.shape or 0 in weight.shape:
        raise ValueError(
            "x, weight, bias must be (batch, length, channels), (channels, 1, taps), (channels,), none of them 0, "
            f"got {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    taps = weight.shape[2]
    if backend == "auto":
        backend = _choose(x.device.type, x.dtype, taps)
    known("convolution backend", backend, ("auto", *BACKENDS))
    if reason := unavailable(backend, x.device.type, x.dtype, taps):
        raise BackendUnavailable(f"convolution backend {backend!r}: {reason}")
    with full_precision(x.device.type):  # the precision is that of the arguments
        return BACKENDS[backend](x, weight, bias, reverse)


def unavailable(backend: str, device: str, dtype: torch.dtype = torch.float32, taps: int = 4) -> str | None:
    """Return why a backend cannot take such arguments, with the fix, or None. Imports no large package."""
    if backend != "cuda":
        return None
    if device != "cuda":
        return f"needs tensors on a CUDA device, these are on {device}: use 'shifted' or 'conv1d' here"
    if find_spec("causal_conv1d") is None:
        return "needs the package causal_conv1d: pip install --no-build-isolation 'causal-conv1d>=1.6,<2'"
    if dtype == torch.float64:
        return "has no kernel for float64: use 'shifted' or 'conv1d'"
    if taps not in CUDA_TAPS:
        return f"has kernels for {', '.join(map(str, CUDA_TAPS))} taps, not {taps}: use 'shifted' or 'conv1d'"
    return None


@cache
def _choose(device: str, dtype: torch.dtype, taps: int) -> str:
    lacks = unavailable("cuda", device, dtype, taps)
    picked = "shifted" if lacks else "cuda"
    why = f"cuda: {lacks}" if device == "cuda" and lacks else f"{taps} taps"
    log.info("convolution backend for %s on %s: %s (%s)", str(dtype).removeprefix("torch."), device, picked, why)
    return picked


def _shifted(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    if not torch.is_grad_enabled():  # then _CausalConv keeps nothing for a backward pass
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
    return _CausalConv.apply(x, weight, bias, reverse)


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    dtype = torch.promote_types(x.dtype, weight.dtype)
    past = weight.shape[2] - 1
    padded = F.pad(x.to(dtype).mT, (0, past) if reverse else (past, 0))
    y = F.conv1d(padded, weight.flip(2) if reverse else weight, bias.to(weight.dtype), groups=x.shape[2])
    return F.silu(y).mT.to(x.dtype)


def _cuda(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # imported only when chosen: it is compiled for one GPU and one PyTorch

    channels_last = (x.flip(1) if reverse else x).mT  # (b, channels, l)
    if any(stride % CUDA_ALIGNMENT for stride in (channels_last.stride(0), channels_last.stride(2))):
        channels_last = channels_last.contiguous()
    y = causal_conv1d_fn(channels_last, weight.squeeze(1), bias, activation="silu").mT
    return y.flip(1) if reverse else y


BACKENDS = {"shifted": _shifted, "conv1d": _conv1d, "cuda": _cuda}


def _pieces(x: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Cut ``(batch, length, channels)`` into pieces of :data:`PIECE` elements; on a GPU, one piece.

    Yields the rows, the first step and the step after the last.
    """
    batch, length, channels = x.shape
    steps = max(1, PIECE // channels) if x.device.type == "cpu" else batch * length
    rows = max(1, steps // length)
    for row in range(0, batch, rows):
        for first in range(0, length, steps):
            yield slice(row, row + rows), first, min(first + steps, length)


def _reads(source: Tensor, base: int, offset: int, first: int, last: int) -> tuple[slice, Tensor] | None:
    """Return the values that steps ``first`` to ``last - 1`` read from a source at ``step + offset``, and these steps.

    The source is ``(rows, steps, channels)``, and holds the sequence from step ``base`` on. Steps that read outside the
    source are left out. The others are returned as a slice that counts from ``first``. None if all are left out.
    """
    start, stop = max(first, base - offset), min(last, base + source.shape[1] - offset)
    if start >= stop:
        return None
    return slice(start - first, stop - first), source[:, start + offset - base : stop + offset - base]


class _CausalConv(torch.autograd.Function):
    """The convolution, then SiLU, ``y sigmoid(y)``. Keeps the sigmoid: its exponential is the slowest part."""

    @staticmethod
    def forward(ctx, x, weight, bias, reverse):
        dtype = torch.promote_types(x.dtype, weight.dtype)
        taps, bias = weight.squeeze(1).mT.to(dtype).contiguous(), bias.to(dtype)  # (taps, channels), (channels,)
        # The step that each tap reads, counted from the present step. The last tap reads the present step.
        offsets = [(len(taps) - 1 - i) * (1 if reverse else -1) for i in range(len(taps))]
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        sigmoid = torch.empty_like(out) if any(ctx.needs_input_grad) else None
        for rows, first, last in _pieces(x):
            y = torch.addcmul(bias, x[rows, first:last], taps[-1], out=out[rows, first:last])
            for tap, offset in zip(taps[:-1], offsets, strict=False):
                if found := _reads(x[rows], 0, offset, first, last):
                    y[:, found[0]].addcmul_(found[1], tap)
            if sigmoid is None:
                F.silu(y, inplace=True)
            else:
                y *= torch.sigmoid(y, out=sigmoid[rows, first:last])
        out = out.to(x.dtype)
        if sigmoid is not None:
            ctx.save_for_backward(x, taps, sigmoid, out)
            ctx.offsets = offsets
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, taps, sigmoid, out = ctx.saved_tensors
        length, offsets = x.shape[1], ctx.offsets
        dx = torch.empty_like(sigmoid)
        dtaps, dbias = torch.zeros_like(taps), torch.zeros_like(taps[0])
        for rows, first, last in _pieces(x):
            # Steps of outputs that depend on this piece: its own, and its neighbours up to the largest offset away.
            start, stop = max(0, first - max(offsets)), min(length, last - min(offsets))
            out_c, sigmoid_c = out[rows, start:stop], sigmoid[rows, start:stop]
            dy = torch.addcmul(out_c, out_c, sigmoid_c, value=-1)  # the derivative of SiLU, first without sigmoid
            dy.add_(sigmoid_c).mul_(dout[rows, start:stop])
            own = dy[:, first - start : last - start]
            piece = torch.mul(own, taps[-1], out=dx[rows, first:last])
            dbias += own.sum((0, 1))
            dtaps[-1] += (own * x[rows, first:last]).sum((0, 1))
            for tap, dtap, offset in zip(taps[:-1], dtaps[:-1], offsets, strict=False):
                if found := _reads(dy, start, -offset, first, last):
                    piece[:, found[0]].addcmul_(found[1], tap)
                if found := _reads(x[rows], 0, offset, first, last):
                    dtap += (own[:, found[0]] * found[1]).sum((0, 1))
        return dx.to(x.dtype), dtaps.mT[:, None], dbias, None  # autograd casts them to the types of their inputs
