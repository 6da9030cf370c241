"""The optimiser of a training: AdamW, or Muon, which makes every update of a weight matrix orthogonal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from bsm.config import TrainConfig

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.775, 2.0315  # of a Newton-Schulz step
STEPS = 5  # Newton-Schulz steps; singular values then lie between about 0.7 and 1.2
RMS = 0.2  # of the updates' entries at a rate of 1; AdamW's are about as large, so both take similar learning rates


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for weight matrices, and AdamW for all other parameters.

    An update of a matrix follows the momentum of its gradient with all singular values near 1, so no direction is
    learned much more slowly than the others. Its scale is that of Liu et al. (2025, *Muon is Scalable for LLM
    Training*). ``torch.optim.Muon`` takes single matrices only. Here a tensor of several, such as a
    :class:`bsm.model.BandLinear` has, is made orthogonal matrix by matrix. Depthwise convolutions, norms and biases are
    left to AdamW.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for parameter in parameters:
            groups[_is_matrix(parameter)].append(parameter)
        super().__init__([{"params": group} for group in groups.values()], lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters that have a gradient; afterwards, matrices have none."""
        group = self.param_groups[1]
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if not state:  # AdamW reads a number of steps when it loads a state
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(matrix)}
            momentum = state["momentum"]
            momentum.mul_(MOMENTUM).add_(matrix.grad)
            update = orthogonal(matrix.grad.add(momentum, alpha=MOMENTUM))  # Nesterov's form
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update, alpha=-group["lr"] * RMS * max(matrix.shape[-2:]) ** 0.5)
            matrix.grad = None  # AdamW leaves parameters without a gradient as they are
        return super().step(closure)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is a matrix or several; biases, scales and filters of one channel have an axis of 1."""
    return parameter.ndim > 1 and min(parameter.shape[-2:]) > 1


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices ``(..., rows, columns)`` with the same singular vectors, and all singular values near 1.

    Newton-Schulz steps apply an odd polynomial to the singular values, by products alone. Zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(matrices.dtype).tiny)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser that ``config.optimizer`` names, for all parameters of a network."""
    if config.optimizer == "muon":
        return Muon(network.parameters(), lr=config.lr)
    return torch.optim.AdamW(network.parameters(), lr=config.lr, fused=True)
