"""An approximation, not the scan: chunks that know nothing of each other.

The "direct feedthrough" that an optimisation report of an unofficial implementation proposes in prose: the direct term
``D x``, which it calls dominant, plus what is computed inside chunks of 128 steps. Dropped is the state between chunks:
no step hears anything from before its own chunk. In the notation of :mod:`bsm.scan`, ``S`` is set to zero in front of
steps 128, 256, ... Kept to measure what that costs; ``auto`` never picks it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan import chunked

CHUNK = 128  # steps, as in the report


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    initial_state: Tensor | None,
    reverse: bool,
    final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`. Exact up to 128 steps, wrong beyond.

    ``initial_state`` enters the first chunk alone, and the final state is what the last chunk gathers by itself. In
    reverse, chunks are counted from the end of the sequence, so that it equals the scan of the flipped sequence.
    """
    length = x.shape[1]
    sizes = [min(CHUNK, length - start) for start in range(0, length, CHUNK)]
    # Split, rather than sliced in the loop: the backward of a slice fills a gradient of the whole length.
    parts = [v.split(sizes[::-1] if reverse else sizes, 1) for v in (x, dt, B, C)]
    if reverse:
        parts = [p[::-1] for p in parts]
    outputs, state = [], initial_state
    for number, (x_c, dt_c, B_c, C_c) in enumerate(zip(*parts, strict=True)):
        y, state = chunked.scan(
            x_c,
            dt_c,
            A,
            B_c,
            C_c,
            D,
            initial_state=None if number else initial_state,
            reverse=reverse,
            final_state=final_state and number == len(sizes) - 1,
        )
        outputs.append(y)
    return torch.cat(outputs[::-1] if reverse else outputs, dim=1), state
