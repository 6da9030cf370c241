"""The Mamba-2 mixer (as mamba-ssm's ``modules/mamba2.py`` defines it) and the paper's bidirectional block.

Symbols are those of the Mamba-2 paper (Dao & Gu 2024): N state size, P channels per head, H heads, E expansion. D is
the width of the features. A block mixes ``(batch, length, D)`` along its length and keeps the shape.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.config import ModelConfig
from bsm.conv import causal_conv
from bsm.norm import GatedRMSNorm, RMSNorm, split
from bsm.scan import scan

DT_RANGE = (1e-3, 1e-1)  # initial step sizes, log-uniform
A_RANGE = (1.0, 16.0)  # initial decay rates, uniform
EPS = 1e-5


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters of a network or a part of it."""
    return sum(p.numel() for p in network.parameters())


class SplitLinear(nn.Linear):
    """Linear layer without bias whose output comes in parts: ``(..., dim)`` to ``(..., size)`` for each of ``sizes``.

    Each part is computed by a product of its own. One product would be slower: its backward pass would first have to
    join the gradients of the parts.
    """

    def __init__(self, dim: int, sizes: list[int]) -> None:
        super().__init__(dim, sum(sizes), bias=False)
        self.sizes = sizes

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the parts in order."""
        return [F.linear(x, weight) for weight in self.weight.split(self.sizes)]


class CausalConv1d(nn.Conv1d):
    """Apply :func:`bsm.conv.causal_conv` to ``(batch, length, channels)``, one filter of ``taps`` steps per channel."""

    def __init__(self, channels: int, taps: int, *, reverse: bool = False) -> None:
        super().__init__(channels, channels, taps, groups=channels)
        self.reverse = reverse

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and apply SiLU; the shape stays."""
        return causal_conv(x, self.weight, self.bias, reverse=self.reverse)


class Scan(nn.Module):
    """Apply :func:`bsm.scan.scan` with a fixed backend and direction.

    The scan has no parameters. It is a module so that an analysis can hook it, and a benchmark can replace it.
    """

    def __init__(self, backend: str = "auto", *, reverse: bool = False) -> None:
        super().__init__()
        self.backend, self.reverse = backend, reverse

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return ``y``, ``(batch, length, heads, headdim)``, from ``x``, ``dt``, ``A``, ``B``, ``C`` and ``D``."""
        return scan(**inputs, backend=self.backend, reverse=self.reverse, final_state=False)[0]


class Mamba2(nn.Module):
    """Mix ``(batch, length, D)`` along its length; ``reverse`` runs from the last step to the first."""

    def __init__(self, config: ModelConfig, *, reverse: bool = False) -> None:
        super().__init__()
        inner, heads, state = config.d_inner, config.heads, config.d_state  # E D, H, N
        conv_channels = inner + 2 * state  # of x, B and C
        self.sizes = inner, state, heads
        self.headdim = config.headdim  # P = E D / H
        self.in_proj = SplitLinear(config.dim, [inner, conv_channels, heads])  # z; x, B and C; dt
        self.conv1d = CausalConv1d(conv_channels, config.d_conv, reverse=reverse)
        self.ssm = Scan(config.scan_backend, reverse=reverse)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner, eps=EPS)
        self.out_proj = nn.Linear(inner, config.dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the official code does: dt log-uniform, A uniform.

        No depth rescaling of ``out_proj``: the author initialises each block as a model of one layer.
        """
        low, high = (math.log(v) for v in DT_RANGE)
        dt = torch.exp(low + (high - low) * torch.rand_like(self.dt_bias)).clamp_min(1e-4)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log.uniform_(*A_RANGE).log_()
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))

    def forward(self, u: Tensor) -> Tensor:
        """Map ``(batch, length, D)`` to the same shape."""
        z, xBC, dt = self.in_proj(u)  # (batch, length, E D), (batch, length, E D + 2 N), (batch, length, H)
        return self.out_proj(self.norm(self.scan(xBC, dt), z))

    def scan(self, xBC: Tensor, dt: Tensor) -> Tensor:
        """Apply the convolution and the scan to what ``in_proj`` gives for them; return ``(batch, length, E D)``."""
        inner, state, heads = self.sizes
        x, B, C = split(self.conv1d(xBC), [inner, state, state])
        dt = dt.to(torch.promote_types(dt.dtype, torch.float32))  # steps and states stay in full precision
        y = self.ssm(
            x=x.unflatten(-1, (heads, self.headdim)),  # (batch, length, H, P)
            dt=F.softplus(dt + self.dt_bias),  # (batch, length, H)
            A=-torch.exp(self.A_log),  # (H,)
            B=B[:, :, None],  # (batch, length, 1 group, N)
            C=C[:, :, None],
            D=self.D,
        )
        return y.flatten(2)  # (batch, length, H P = E D)


class Direction(nn.Module):
    """Normalise, mix in one direction and add the input (the official ``Block``)."""

    def __init__(self, config: ModelConfig, *, reverse: bool = False) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, eps=EPS)
        self.mixer = Mamba2(config, reverse=reverse)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, D)`` to the same shape."""
        return self.mixer(self.norm(x)) + x


class BiMamba2Block(nn.Module):
    """Mix forwards and backwards, join both results, project them to D features and add the block's input.

    In the paper's block, each direction has a mixer of its own and the results are concatenated. For the ablations,
    ``config.directions`` may be ``shared`` (one mixer for both directions) or ``forward`` (no backward direction), and
    ``config.merge`` the ``mean`` of the results.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.directions, self.merge, dim = config.directions, config.merge, config.dim
        self.forward_direction = Direction(config)
        if self.directions == "separate":
            self.backward_direction = Direction(config, reverse=True)
        width = dim if self.merge == "mean" or self.directions == "forward" else 2 * dim
        self.proj = nn.Linear(width, dim)
        for parameter in self.proj.parameters():  # the initial range of the author's ConvTranspose1d of kernel 1
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, D)`` to the same shape."""
        parts = [self.forward_direction(x)]
        if self.directions == "separate":
            parts.append(self.backward_direction(x))
        elif self.directions == "shared":
            parts.append(self.forward_direction(x.flip(1)).flip(1))
        merged = sum(parts) / len(parts) if self.merge == "mean" else torch.cat(parts, dim=-1)  # (batch, length, 2 D)
        return self.proj(merged) + x
