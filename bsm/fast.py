"""Passes without gradients: the definition of :mod:`bsm.model`, computed in less time and memory.

Three things make the difference, and none of them changes the result beyond rounding:

- *Slabs.* The rows of a block do not depend on each other. So a slab of rows is computed at a time, and its result
  replaces its input. A whole song then needs one copy of its features, and intermediate results stay in the cache.
- *Folded weights.* The weights of linear layers that follow each other are multiplied once, before the slabs.
- *Packed products.* On a CPU, oneDNN arranges weights in the order that its products need, and applies the gate's SiLU.
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
from bsm.norm import inverse_rms

if TYPE_CHECKING:
    from bsm.model import BSMamba2, DualPath

log = logging.getLogger(__name__)

# A token is one step of one row.
SLAB_TOKENS = 4096  # tokens of a slab on a CPU, so that intermediate results stay in the cache
SLAB_ROWS = 4  # fewest rows of a slab, unless they exceed SLAB_ROWS * SLAB_TOKENS tokens: with fewer, cores are idle
GPU_SLAB_TOKENS = 1 << 18  # tokens of a slab on a GPU: at paper size, five windows of 8 s; at most 2.4 GB at a time
SLAB_FRAMES = 1024  # frames that band split and mask estimator process at a time: their hidden layers are wide

_report: ContextVar[Callable[[float], None] | None] = ContextVar("report", default=None)


@contextlib.contextmanager
def progress(report: Callable[[float], None]) -> Iterator[None]:
    """Call ``report`` after each slab with its share of the pass; the shares of one pass sum to 1."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def separate(model: BSMamba2, mixture: Tensor) -> Tensor:
    """Return the estimate of ``model`` for ``(batch, streams, samples)``, in the same shape."""
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
            x.copy_(dual_path.from_rows(rows).clone())  # with a single frame, the rows are a view of x
        apply_block(band_block, x.transpose(1, 2), share)


def apply_block(block: nn.Module, x: Tensor, report: Callable[[float], None] = lambda _: None) -> None:
    """Replace ``(batch, rows, length, dim)`` by the block's result along the length, in place.

    The block maps ``(rows, length, dim)`` to the same shape, row by row. After each slab, ``report`` is called with its
    share of the rows.
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
    """Return the number of rows of a slab on a CPU: a power of two, so that cores can share them evenly."""
    rows = max(1, SLAB_TOKENS // length, min(SLAB_ROWS, SLAB_ROWS * SLAB_TOKENS // length))
    return 1 << (rows.bit_length() - 1)


def _frame_slabs(spec: Tensor) -> list[slice]:
    return [slice(first, first + SLAB_FRAMES) for first in range(0, spec.shape[-1], SLAB_FRAMES)]


def folded(block: nn.Module, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a function that computes a block of the paper's design in full precision with folded weights.

    A direction gives ``s (y W^T) + x``. Here ``y`` is the gated output of the scan, ``s`` the reciprocal root of its
    mean square, one number per step, and ``W`` the output projection times the norm's weight. Let ``P`` be the weights
    of the block's projection for that direction. Then ``proj(cat(...)) + x`` is the sum over both directions of
    ``s (y (P W)^T)``, plus ``x (I + sum of P)^T + bias``.

    Any other block is returned as it is. ``rows`` is the number of vectors per call, see :func:`linear`.
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
    """Return the function for ``s (y (P W)^T)`` of one direction, see :func:`folded`; ``proj`` is ``P``."""
    mixer = direction.mixer
    gate, inputs = mixer.in_proj.weight.tensor_split([mixer.sizes[0]])
    sizes = mixer.in_proj.sizes[1:]
    gate, inputs = linear(gate, rows=rows, silu=True), linear(inputs, rows=rows)
    out = linear(proj @ (mixer.out_proj.weight * mixer.norm.weight), rows=rows)

    def run(x: Tensor) -> Tensor:
        u = direction.norm(x)
        y = mixer.scan(*inputs(u).split(sizes, dim=-1))
        y.mul_(gate(u))  # the gate is computed after the scan, so that it takes no memory during the scan
        # The norm's factor scales the result of the projection, which is narrower than ``y``.
        return out(y).mul_(inverse_rms(y, EPS))

    return run


def linear(weight: Tensor, bias: Tensor | None = None, *, rows: int, silu: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the function ``x -> F.linear(x, weight, bias)`` for many calls with the same weights and no gradients.

    On a CPU, in float32, it packs the weights and uses the products of oneDNN that torch.compile uses for a linear
    layer. Elsewhere it is the plain layer. Do not change ``weight`` between calls: a packed copy would not follow.

    Args:
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
        rows: expected number of vectors per call, for which the packing is chosen; other numbers give right results.
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
