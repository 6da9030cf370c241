"""Linear layers without gradients whose weights are laid out, once, the way the CPU's products want them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)


def linear(weight: Tensor, bias: Tensor | None = None, *, rows: int, silu: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the function ``x -> F.linear(x, weight, bias)``, for many calls with the same weights and no gradients.

    On a CPU, in float32, the weights are packed for oneDNN's products, which also apply the SiLU before a result
    leaves the cache: the operations that torch.compile puts in the place of a linear layer. Elsewhere it is the plain
    layer. Later changes of ``weight`` may or may not show.

    Args:
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
        rows: the number of vectors that most calls bring; the packing is chosen for it, any other number is right too.
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


def packed_operations(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Count the multiplications and additions of a packed product from its shapes, as PyTorch's counters would not."""
    return 2 * math.prod(x) * weight[0]


@cache
def packed_available() -> bool:
    """Tell whether this PyTorch has oneDNN and its packed products; says so once."""
    ops = torch.ops.mkldnn
    found = (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and all(hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    )
    why = "packed by oneDNN" if found else "plain: this PyTorch has no packed products of oneDNN, or they are off"
    log.info("linear layers of blocks on the CPU, without gradients: %s", why)
    return found
