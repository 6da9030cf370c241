"""The causal depthwise convolution in front of the scan, with its SiLU: one function, interchangeable backends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.errors import BackendUnavailable

log = logging.getLogger(__name__)

PIECE = 512  # steps
CUDA_TAPS = (2, 3, 4)  # those that the compiled kernel knows
CUDA_ALIGNMENT = 8  # elements: what the kernel asks of the strides of channels-last data


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: bool = False, backend: str = "auto") -> Tensor:
    """Convolve each channel with its own few taps over past steps, then apply SiLU, once.

    Equals ``silu(conv1d(x, weight, bias, groups=channels, padding=taps - 1)[..., :length])`` of the official Mamba-2.
    Backends:

    - ``shifted``: shifted multiply-adds over channels-last data; no transposed copies, and the fastest on a CPU.
    - ``conv1d``: that formula, with PyTorch's convolution.
    - ``cuda``: ``causal_conv1d_fn`` of the package causal-conv1d; 2 to 4 taps, CUDA tensors, no float64.
    - ``auto``: ``cuda`` where it can run, otherwise ``shifted``; logged once. An error is never a reason to switch.

    Args:
        x: ``(batch, length, channels)``.
        weight: ``(channels, 1, taps)``, the last tap on the present step.
        bias: ``(channels,)``. It and ``weight`` may be float32 beside an ``x`` of half precision.
        reverse: look at future steps instead, as on the flipped sequence.
        backend: see above.

    Returns:
        ``(batch, length, channels)``, typed as ``x``.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        BackendUnavailable: the backend lacks a package or device, or has no kernel for these arguments.
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
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}")
    if reason := unavailable(backend, x.device.type, x.dtype, taps):
        raise BackendUnavailable(f"convolution backend {backend!r}: {reason}")
    with torch.autocast(x.device.type, enabled=False):  # the precision is that of the arguments
        return BACKENDS[backend](x, weight, bias, reverse)


def unavailable(backend: str, device: str, dtype: torch.dtype = torch.float32, taps: int = 4) -> str | None:
    """Return what a backend lacks for such arguments, with the fix, or None. Imports nothing heavy."""
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
    if not torch.is_grad_enabled():  # inside, nothing tells but these that no gradient will be asked for
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
    return _CausalConv.apply(x, weight, bias, reverse)


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    dtype = torch.promote_types(x.dtype, weight.dtype)
    past = weight.shape[2] - 1
    padded = F.pad(x.to(dtype).mT, (0, past) if reverse else (past, 0))
    y = F.conv1d(padded, weight.flip(2) if reverse else weight, bias.to(weight.dtype), groups=x.shape[2])
    return F.silu(y).mT.to(x.dtype)


def _cuda(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # only when chosen: it is compiled for one GPU and one PyTorch

    channels_last = (x.flip(1) if reverse else x).mT  # (b, channels, l)
    if any(stride % CUDA_ALIGNMENT for stride in (channels_last.stride(0), channels_last.stride(2))):
        channels_last = channels_last.contiguous()
    y = causal_conv1d_fn(channels_last, weight.squeeze(1), bias, activation="silu").mT
    return y.flip(1) if reverse else y


BACKENDS = {"shifted": _shifted, "conv1d": _conv1d, "cuda": _cuda}


def _pieces(batch: int, length: int, on_cpu: bool) -> Iterator[tuple[slice, slice]]:
    """Cut rows and steps into pieces that stay in a core's cache through all passes over them; one piece on a GPU."""
    size = PIECE if on_cpu else batch * length
    rows = max(1, size // length)
    for row in range(0, batch, rows):
        for step in range(0, length, size):
            yield slice(row, row + rows), slice(step, min(step + size, length))


def _shifts(length: int, taps: int, reverse: bool, steps: slice) -> Iterator[tuple[int, slice, slice]]:
    """Yield, for every tap but the present step's: the tap, the steps written, counted within ``steps``, those read."""
    for shift in range(1, taps):
        offset = shift if reverse else -shift
        first, last = max(steps.start, -offset), min(steps.stop, length - offset)
        if first < last:
            yield taps - 1 - shift, slice(first - steps.start, last - steps.start), slice(first + offset, last + offset)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, reverse):
        taps = weight.squeeze(1).mT.contiguous()  # (taps, channels)
        wanted = any(ctx.needs_input_grad)
        dtype = torch.promote_types(x.dtype, taps.dtype)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if wanted or dtype != x.dtype else y
        for rows, steps in _pieces(*x.shape[:2], on_cpu=x.device.type == "cpu"):
            piece = y[rows, steps]
            torch.addcmul(bias.to(dtype), x[rows, steps], taps[-1], out=piece)
            for tap, written, read in _shifts(x.shape[1], len(taps), reverse, steps):
                piece[:, written].addcmul_(x[rows, read], taps[tap])
            if out is y:
                F.silu(piece, inplace=True)
            else:
                out[rows, steps] = F.silu(piece)
        if wanted:
            ctx.save_for_backward(x, taps, y)
            ctx.reverse = reverse
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, taps, y = ctx.saved_tensors
        dy = torch.ops.aten.silu_backward(dout.to(y.dtype), y)
        dx = dy * taps[-1]
        dtaps = torch.zeros_like(taps)
        dtaps[-1] = (dy * x).sum((0, 1))
        for tap, written, read in _shifts(x.shape[1], len(taps), ctx.reverse, slice(0, x.shape[1])):
            dx[:, read].addcmul_(dy[:, written], taps[tap])
            dtaps[tap] = (dy[:, written] * x[:, read]).sum((0, 1))
        return dx.to(x.dtype), dtaps.mT[:, None], dy.sum((0, 1)), None
