"""The author's own way to compute a block: mamba-ssm's modules in place of ours, with the same weights.

The author's code (EuiYeonKim/BSMamba2, ``src/model/bs_model.py``) builds each direction of a block from mamba-ssm's
``Block``, ``Mamba2`` and ``RMSNorm``, and flips the sequence for the second direction.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bsm.mamba2 import EPS, BiMamba2Block, Direction
from bsm.scan import _mamba_ssm

PACKAGES = ("mamba_ssm", "causal_conv1d", "triton", "einops", "huggingface_hub")


def unavailable(device: str) -> str | None:
    """Return what the modules lack for tensors on a device, with the fix, or None. Imports no large package."""
    if device != "cuda" or not torch.cuda.is_available():
        return "needs a CUDA device"
    if missing := _mamba_ssm.missing(*PACKAGES):
        install = f"{_mamba_ssm.INSTALL} 'causal-conv1d>=1.6,<2' einops huggingface_hub"
        return f"needs the packages {', '.join(missing)} ({install})"
    return None


class OfficialDirection(nn.Module):
    """Compute a :class:`bsm.mamba2.Direction` with mamba-ssm's modules.

    ``Mamba2`` takes its memory-efficient path: one function from the convolution to the output projection. It keeps
    little, and recomputes the rest for gradients.

    Raises:
        ImportError: a package is missing (:func:`unavailable`).
    """

    def __init__(self, direction: Direction) -> None:
        super().__init__()
        block, mamba2 = (_mamba_ssm.load(f"modules.{name}") for name in ("block", "mamba2"))
        norm = _mamba_ssm.load("ops.triton.layer_norm").RMSNorm
        ours = direction.mixer
        (inner, state, _), dim = ours.sizes, ours.out_proj.out_features
        sizes = {
            "d_state": state,
            "headdim": ours.headdim,
            "expand": inner // dim,
            "d_conv": ours.conv1d.kernel_size[0],
        }
        self.block = block.Block(dim, partial(mamba2.Mamba2, **sizes), nn.Identity, partial(norm, eps=EPS))
        self.block.load_state_dict(direction.state_dict())  # the names are the same
        self.reverse = ours.ssm.reverse

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, dim)`` to the same shape."""
        mixed, residual = self.block(x.flip(1) if self.reverse else x)
        y = mixed + residual
        return y.flip(1) if self.reverse else y


def put_into(model: nn.Module) -> None:
    """Replace the directions of all blocks of a network, in place."""
    for block in model.modules():
        if isinstance(block, BiMamba2Block):
            block.forward_direction = OfficialDirection(block.forward_direction)
            block.backward_direction = OfficialDirection(block.backward_direction)
