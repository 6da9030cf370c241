"""The causal depthwise convolution before the scan, with its SiLU: one function with interchangeable backends."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsm.compiled import ONE, applies, compiled, over_rows, sigmoid
from bsm.devices import full_precision
from bsm.errors import BackendUnavailable, known

log = logging.getLogger(__name__)

CUDA_TAPS = (2, 3, 4)  # numbers of taps that the CUDA kernel supports
NUMBA_TAPS = 4  # that the compiled loop is written for
CUDA_ALIGNMENT = 8  # elements; strides of channels-last data must be multiples of it


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, *, reverse: bool = False, backend: str = "auto") -> Tensor:
    """Convolve each channel along its present and past steps with a filter of its own, then apply SiLU.

    Equals ``silu(conv1d(x, weight, bias, groups=channels, padding=taps - 1)[..., :length])`` of the official Mamba-2.
    Backends:

    - ``conv1d``: the formula above, with PyTorch's convolution.
    - ``shifted``: shifted multiply-adds, without transposed copies; the fastest without gradients on a CPU.
    - ``numba``: one compiled loop each way, see :mod:`bsm.compiled`; 4 taps, float32 on a CPU; the fastest there with
      gradients.
    - ``cuda``: ``causal_conv1d_fn`` of the package causal-conv1d; 2 to 4 taps, CUDA tensors, no float64.
    - ``auto``: ``cuda`` if it can run, otherwise the fastest that can. The choice is logged once. An error does not
      change it.

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
    taps, plain = weight.shape[2], applies(x, weight, bias)
    if backend == "auto":
        backend = _choose(x.device.type, x.dtype, taps, plain, torch.is_grad_enabled())
    known("convolution backend", backend, ("auto", *BACKENDS))
    reason = unavailable(backend, x.device.type, x.dtype, taps)
    if reason is None and backend == "numba" and not plain:
        reason = "takes plain float32 tensors, outside torch.compile: use 'shifted' or 'conv1d'"
    if reason:
        raise BackendUnavailable(f"convolution backend {backend!r}: {reason}")
    with full_precision(x.device.type):  # the precision is that of the arguments
        return BACKENDS[backend](x, weight, bias, reverse)


def unavailable(backend: str, device: str, dtype: torch.dtype = torch.float32, taps: int = 4) -> str | None:
    """Return why a backend cannot take such arguments, with the fix, or None. Imports no large package."""
    if backend == "numba" and (device, dtype, taps) != ("cpu", torch.float32, NUMBA_TAPS):
        given = f"{taps} taps and {_name(dtype)} on {device}"
        return f"takes {NUMBA_TAPS} taps and float32 on cpu, not {given}: use 'shifted' or 'conv1d'"
    if backend != "cuda":
        return None
    if device != "cuda":
        return f"needs tensors on a CUDA device, these are on {device}: use 'shifted' or 'conv1d'"
    if find_spec("causal_conv1d") is None:
        return "needs the package causal_conv1d: pip install --no-build-isolation 'causal-conv1d>=1.6,<2'"
    if dtype == torch.float64:
        return "has no kernel for float64: use 'shifted' or 'conv1d'"
    if taps not in CUDA_TAPS:
        return f"has kernels for {', '.join(map(str, CUDA_TAPS))} taps, not {taps}: use 'shifted' or 'conv1d'"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def _choose(device: str, dtype: torch.dtype, taps: int, plain: bool, gradients: bool) -> str:
    lacks = unavailable("cuda", device, dtype, taps)
    with_gradients = "numba" if plain and unavailable("numba", device, dtype, taps) is None else "conv1d"
    picked = "cuda" if lacks is None else with_gradients if gradients else "shifted"
    why = f"cuda: {lacks}" if device == "cuda" and lacks else f"{taps} taps"
    log.info("convolution backend for %s on %s: %s (%s)", _name(dtype), device, picked, why)
    return picked


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    dtype = torch.promote_types(x.dtype, weight.dtype)
    past = weight.shape[2] - 1
    padded = F.pad(x.to(dtype).mT, (0, past) if reverse else (past, 0))
    y = F.conv1d(padded, weight.flip(2) if reverse else weight, bias.to(weight.dtype), groups=x.shape[2])
    return F.silu(y).mT.to(x.dtype)


def _shifted(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    taps = weight.squeeze(1).mT.to(torch.promote_types(x.dtype, weight.dtype))  # (taps, channels)
    length, past = x.shape[1], len(taps) - 1
    y = torch.addcmul(bias.to(taps.dtype), x, taps[past])
    for back in range(1, min(past + 1, length)):
        to, source = slice(back, length), slice(length - back)
        to, source = (source, to) if reverse else (to, source)
        y[:, to].addcmul_(x[:, source], taps[past - back])
    return F.silu(y, inplace=not torch.is_grad_enabled()).to(x.dtype)


def _cuda(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # imported only when chosen: it is compiled for one GPU and one PyTorch

    channels_last = (x.flip(1) if reverse else x).mT  # (b, channels, l)
    if any(stride % CUDA_ALIGNMENT for stride in (channels_last.stride(0), channels_last.stride(2))):
        channels_last = channels_last.contiguous()
    y = causal_conv1d_fn(channels_last, weight.squeeze(1), bias, activation="silu").mT
    return y.flip(1) if reverse else y


class _CausalConv(torch.autograd.Function):
    """The convolution of four taps, then SiLU, ``y sigmoid(y)``. The backward pass recomputes ``y``."""

    @staticmethod
    def forward(ctx, x, weight, bias, reverse):
        ctx.save_for_backward(x, weight, bias)
        ctx.sign = 1 if reverse else -1
        out = torch.empty(x.shape)
        over_rows(_forward, [x, out], weight.squeeze(1).mT, bias, ctx.sign)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, weight, bias = ctx.saved_tensors
        dx = torch.empty(x.shape)
        sums = sum(over_rows(_backward, [x, dout, dx], weight.squeeze(1).mT, bias, ctx.sign))  # (taps + 1, channels)
        sums = torch.from_numpy(sums).to(dx.dtype)
        return dx, sums[:-1].mT[:, None], sums[-1], None


BACKENDS = {"shifted": _shifted, "conv1d": _conv1d, "numba": _CausalConv.apply, "cuda": _cuda}


@njit(inline="always")  # becomes part of the loops that call it, and is compiled as they are
def _convolve(x, row, step, sign, taps, bias, y):
    """Write ``y``, ``(channels,)``, before SiLU, at a step in the order of the filter; return the step's position."""
    at = x.shape[1] - 1 - step if sign > 0 else step
    if step >= 3:
        for c in range(len(y)):
            y[c] = (
                bias[c]
                + taps[3, c] * x[row, at, c]
                + taps[2, c] * x[row, at + sign, c]
                + taps[1, c] * x[row, at + 2 * sign, c]
                + taps[0, c] * x[row, at + 3 * sign, c]
            )
    else:
        y[:] = bias
        for back in range(step + 1):
            for c in range(len(y)):
                y[c] += taps[3 - back, c] * x[row, at + back * sign, c]
    return at


@compiled
def _forward(x, out, taps, bias, sign):
    """Write ``out``, ``(rows, length, channels)`` as ``x``; ``taps`` is ``(4, channels)``."""
    rows, length, channels = x.shape
    y = np.empty(channels, np.float32)
    for i in range(rows):
        for step in range(length):
            at = _convolve(x, i, step, sign, taps, bias, y)
            for c in range(channels):
                out[i, at, c] = y[c] * sigmoid(y[c])


@compiled
def _backward(x, dout, dx, taps, bias, sign):
    """Write the gradient of ``x``; return those of the taps, and in the last row of the bias, in float64."""
    rows, length, channels = x.shape
    y = np.empty(channels, np.float32)
    dy = np.empty((4, channels), np.float32)  # of a step and the three after it, each in row step % 4
    sums, total = np.empty((5, channels), np.float32), np.zeros((5, channels))
    for i in range(rows):
        dy[:], sums[:] = 0, 0
        for step in range(length - 1, -1, -1):
            at, now = _convolve(x, i, step, sign, taps, bias, y), step % 4
            for c in range(channels):
                s = sigmoid(y[c])
                dy[now, c] = dout[i, at, c] * (s + y[c] * s * (ONE - s))  # the derivative of SiLU
                sums[4, c] += dy[now, c]
            one, two, three = (step + 1) % 4, (step + 2) % 4, (step + 3) % 4
            for c in range(channels):
                dx[i, at, c] = (
                    taps[3, c] * dy[now, c]
                    + taps[2, c] * dy[one, c]
                    + taps[1, c] * dy[two, c]
                    + taps[0, c] * dy[three, c]
                )
            for back in range(min(4, step + 1)):
                for c in range(channels):
                    sums[3 - back, c] += dy[now, c] * x[i, at + back * sign, c]
        total += sums
    return total
