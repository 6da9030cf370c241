"""Scans of other packages in plain PyTorch, for machines where no GPU kernel runs. All packages are optional.

Each takes ``x, dt, A, B, C, D`` as :func:`bsm.scan.scan` does and returns ``y``. Chunks have the package's default
length, or that of a shorter sequence, so that no package computes on padding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from torch import Tensor

CHUNK = 256  # steps: the default of niverel-mamba and of transformers


def niverel(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run ``ssd_chunked`` of niverel-mamba."""
    from niverel_mamba.torch_ops.ssd_chunked import ssd_chunked

    return ssd_chunked(x, dt, A, B, C, D=D, dt_softplus=False, chunk_size=min(CHUNK, x.shape[1]))[0]


def transformers(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run the scan of Hugging Face transformers' Mamba2, as its PyTorch path does; version 5.24 has this function."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    return mamba2_chunk_scan(x, dt, A, B, C, min(CHUNK, x.shape[1]), D=D)


def scan_lite(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run ``chunked_scan`` of mamba-scan-lite."""
    from mamba_scan_lite.patch import chunked_scan

    heads = x.shape[2]
    B, C = (v.repeat_interleave(heads // v.shape[2], dim=2) for v in (B, C))
    state = x.new_zeros(x.shape[0], heads, x.shape[3], B.shape[3])
    return chunked_scan(state, dt, A, x, B, C, D[:, None])[0]


PEERS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "niverel-mamba": ("niverel_mamba", niverel),
    "transformers": ("transformers", transformers),
    "mamba-scan-lite": ("mamba_scan_lite", scan_lite),
}
"""By the package's name on PyPI: the module that it installs, and its scan."""


def installed() -> dict[str, Callable[..., Tensor]]:
    """Return the scans of the packages that are installed, by name."""
    return {name: scan for name, (module, scan) in PEERS.items() if find_spec(module)}
