"""An approximation of the scan: chunks of 128 steps, each scanned from a state of zeros.

The optimisation report of the unofficial implementation proposes it, in prose only, as "direct feedthrough": the direct
term ``D x`` and the scan inside chunks, without the state between them. The backend exists to measure the error;
``auto`` never picks it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bsm.scan import chunked

CHUNK = 128  # steps, as in the report


def scan(x, dt, A, B, C, D, *, initial_state, reverse, final_state) -> tuple[Tensor, Tensor | None]:
    """See :func:`bsm.scan.scan`. Exact for sequences up to 128 steps, wrong for longer ones.

    Only the first chunk starts from ``initial_state``. The final state is that of the last chunk. In reverse, the first
    chunk is the one at the end of the sequence.
    """
    length = x.shape[1]
    sizes = [min(CHUNK, length - start) for start in range(0, length, CHUNK)]
    # Split before the loop: each slice in the loop would cost a gradient of the whole length.
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
