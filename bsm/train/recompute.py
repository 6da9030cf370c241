"""Gradient checkpointing: keep a block's input alone, and compute the block again when its gradients are wanted."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from bsm.baseline import BSRoformer


def recompute_blocks(model: nn.Module) -> None:
    """Make each time block and each band block of a network's dual path keep its input alone.

    Blocks, not layers of two: the inputs are small beside what is inside a block, and one block's inside is all that
    is held at a time. Random numbers drawn inside are drawn alike the second time.

    Args:
        model: a BSMamba2 or a BSRoformer; it is changed in place.
    """
    layers = model.network.layers if isinstance(model, BSRoformer) else model.dual_path.layers
    for layer in layers:
        for block in layer:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
