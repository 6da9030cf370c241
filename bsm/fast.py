"""Passes without gradients: the definition of :mod:`bsm.model`, computed in less time and memory.

Three things make the difference, and none of them changes the result beyond rounding:

- *Slabs.* Rows of a block do not depend on each other, so a slab of rows is computed and written where it was read. A
  whole song then needs one copy of its features, and what a block computes in between stays in the cache.
- *Folded weights.* Linear layers that follow each other are multiplied once, before the slabs.
- *Packed products.* On a CPU, oneDNN stores weights the way its products want them and applies the gate's SiLU.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.mamba2 import EPS, BiMamba2Block, Direction

if TYPE_CHECKING:
    from bsm.model import BSMamba2, DualPath

log = logging.getLogger(__name__)

SLAB_TOKENS = 4096  # rows of a slab times their length on a CPU: what a block computes then stays in the cache
SLAB_ROWS = 4  # the fewest rows, while they are at most so many times SLAB_TOKENS: fewer leave a core idle
GPU_SLAB_TOKENS = 1 << 18  # the same on a GPU: five windows of 8 s at paper size in one piece, 2.4 GB at its widest
SLAB_FRAMES = 1024  # of band split and mask estimator, whose hidden layer is four times as wide as the features

_report: ContextVar[Callable[[float], None] | None] = ContextVar("report", default=None)


@contextlib.contextmanager
def progress(report: Callable[[float], None]) -> Iterator[None]:
    """Call ``report`` with the share of a pass that each slab finished; the shares of one pass sum to 1."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def separate(model: BSMamba2, mixture: Tensor) -> Tensor:
    """Return the estimate of ``model`` for what its network hears, ``(batch, streams, samples)``."""
    spec = model.stft(mixture)  # (B, C, F, T)
    features = None
    for frames in _frame_slabs(spec):
        slab = model.band_split(model.to_numbers(spec[..., frames]))  # (B, K, t, D)
        if features is None:
            features = slab.new_empty(*slab.shape[:2], spec.shape[-1], slab.shape[3])
        features[:, :, frames] = slab
    del slab
    mix(model.dual_path, features)
    for frames in _frame_slabs(spec):
        spec[..., frames] = model.apply_mask(spec[..., frames], model.to_mask(features[:, :, frames]))
    del features  # before the inverse transform asks for memory of its own
    return model.stft.inverse(spec, mixture.shape[-1])


def mix(dual_path: DualPath, x: Tensor) -> None:
    """Replace features ``(B, K, T, D)`` by the dual path's result."""
    report = _report.get()
    blocks = 2 * len(dual_path.layers)
    share = (lambda part: report(part / blocks)) if report else (lambda _: None)
    for time_block, band_block in dual_path.layers:
        rows = dual_path.to_rows(x)
        apply_block(time_block, rows, share)
        if rows is not x:
            x.copy_(dual_path.from_rows(rows).clone())  # of a single frame, the rows are a view of x
        apply_block(band_block, x.transpose(1, 2), share)


def apply_block(block: nn.Module, x: Tensor, report: Callable[[float], None] = lambda _: None) -> None:
    """Replace ``(batch, rows, length, dim)``, a view or not, by the block's result along the length.

    The block maps ``(rows, length, dim)`` to the same shape, row by row. ``report`` is called with the share of the
    rows that each slab finished.
    """
    if isinstance(block, nn.Identity):
        report(1)
        return
    on_cpu = x.device.type == "cpu"
    parts = x.split(1) if on_cpu else (x,)
    batch, count, length, _ = parts[0].shape
    slab = min(count, slab_rows(length) if on_cpu else max(1, GPU_SLAB_TOKENS // (batch * length)))
    run = folded(block, batch * slab * length)
    for part in parts:
        for rows in part.split(slab, dim=1):
            rows.copy_(run(rows.flatten(0, 1)).view(rows.shape))
            report(rows.shape[1] / (count * len(parts)))


def slab_rows(length: int) -> int:
    """Return how many rows of a length make a slab on a CPU: a power of two, which two cores can share."""
    rows = max(1, SLAB_TOKENS // length, min(SLAB_ROWS, SLAB_ROWS * SLAB_TOKENS // length))
    return 1 << (rows.bit_length() - 1)


def _frame_slabs(spec: Tensor) -> list[slice]:
    return [slice(first, first + SLAB_FRAMES) for first in range(0, spec.shape[-1], SLAB_FRAMES)]


def folded(block: nn.Module, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a function that computes a block, with its consecutive linear layers multiplied where it has such.

    A direction's result is ``s (y W^T) + x`` with one number ``s`` per step, the norm's divisor. With ``P`` the
    projection's weights for that direction, ``proj(cat(...)) + x`` is the sum over directions of ``s (y (P W)^T)``,
    plus ``x (I + sum of P)^T + bias``. A block of another design, or in half precision, is returned as it is.

    Args:
        block: to compute.
        rows: vectors per call, see :func:`linear`.
    """
    if not isinstance(block, BiMamba2Block) or block.directions != "separate" or block.merge != "concat":
        return block
    weight = block.proj.weight
    if weight.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(weight.device.type):
        return block
    parts = weight.split(len(weight), dim=1)
    skip = linear(sum(parts) + torch.eye(len(weight)).to(weight), block.proj.bias, rows=rows)
    directions = [
        _folded_direction(direction, part, rows)
        for direction, part in zip((block.forward_direction, block.backward_direction), parts, strict=True)
    ]

    def run(x: Tensor) -> Tensor:
        y = skip(x)
        for direction in directions:
            y += direction(x)
        return y

    return run


def _folded_direction(direction: Direction, proj: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a direction's part of the projected sum; ``proj`` is the projection's weight for it."""
    mixer = direction.mixer
    gate, inputs = mixer.in_proj.weight.tensor_split([mixer.sizes[0]])
    sizes = mixer.in_proj.sizes[1:]
    gate, inputs = linear(gate, rows=rows, silu=True), linear(inputs, rows=rows)
    out = linear(proj @ (mixer.out_proj.weight * mixer.norm.weight), rows=rows)

    def run(x: Tensor) -> Tensor:
        u = direction.norm(x)
        y = mixer.scan(*inputs(u).split(sizes, dim=-1)).mul_(
            gate(u)
        )  # the gate is computed when it is used, not before the scan
        # The norm's divisor scales the projection's result, which is narrower than what is normalised.
        scale = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square_().div_(y.shape[-1]).add_(EPS).rsqrt_()
        return out(y).mul_(scale)

    return run


def linear(weight: Tensor, bias: Tensor | None = None, *, rows: int, silu: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the function ``x -> F.linear(x, weight, bias)`` for many calls with the same weights and no gradients.

    On a CPU, in float32, the weights are packed for oneDNN's products: the operations that torch.compile puts in the
    place of a linear layer. Elsewhere it is the plain layer. Later changes of ``weight`` may or may not show.

    Args:
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
        rows: vectors per call, for which the packing is chosen; any other number gives the right result, too.
        silu: apply SiLU to the result.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and packed_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        after = "swish" if silu else "none"
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, [], "")
    if silu:
        return lambda x: F.silu(F.linear(x, weight, bias), inplace=True)
    return lambda x: F.linear(x, weight, bias)


@cache
def packed_available() -> bool:
    """Return whether this PyTorch has oneDNN's packed products; log it once."""
    ops = torch.ops.mkldnn
    found = (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and all(hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    )
    how = "packed by oneDNN" if found else "plain: this PyTorch has no packed products of oneDNN, or they are off"
    log.info("linear layers of blocks on the CPU, without gradients: %s", how)
    return found
