"""The Mamba-2 mixer (official design: mamba-ssm, ``modules/mamba2.py``) and the paper's bidirectional block.

Symbols are those of the Mamba-2 paper (Dao & Gu 2024): N state size, P channels per head, H heads, E expansion.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.config import ModelConfig
from bsm.conv import causal_conv
from bsm.norm import RMSNorm, gated_rms_norm, split
from bsm.scan import scan

DT_RANGE = (1e-3, 1e-1)  # initial step sizes, log-uniform
A_RANGE = (1.0, 16.0)  # initial decay rates, uniform
EPS = 1e-5


class GatedRMSNorm(nn.Module):
    """Gate, then normalise: RMSNorm of ``y * silu(z)`` (official ``RMSNormGated`` with ``norm_before_gate`` off)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Map ``y`` and its gate ``z``, both ``(..., channels)``, to the same shape."""
        return gated_rms_norm(y, z, self.weight, EPS)


class SplitLinear(nn.Linear):
    """Give the parts of one linear layer without bias, ``(..., dim)`` to ``(..., size)`` for each of ``sizes``.

    Each part is a product of its own: joining their gradients would cost more than the products.
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

    It has no parameters. As a module it can be followed by hooks, and replaced in a benchmark.
    """

    def __init__(self, backend: str = "auto", *, reverse: bool = False) -> None:
        super().__init__()
        self.backend, self.reverse = backend, reverse

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return ``y``, ``(batch, length, heads, headdim)``, from ``x``, ``dt``, ``A``, ``B``, ``C`` and ``D``."""
        return scan(**inputs, backend=self.backend, reverse=self.reverse, final_state=False)[0]


class Mamba2(nn.Module):
    """Mix a sequence ``(batch, length, dim)`` along its length with one Mamba-2 mixer.

    The sizes are those of :class:`bsm.config.ModelConfig`; ``reverse`` runs from the last step to the first.
    """

    def __init__(
        self,
        dim: int,
        *,
        d_state: int,
        headdim: int,
        expand: int,
        d_conv: int,
        reverse: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        inner = expand * dim  # E D
        heads = inner // headdim  # H
        conv_channels = inner + 2 * d_state  # x, B and C
        self.sizes = inner, d_state, heads
        self.headdim = headdim
        self.in_proj = SplitLinear(dim, [inner, conv_channels, heads])  # z, (x, B, C), dt
        self.conv1d = CausalConv1d(conv_channels, d_conv, reverse=reverse)
        self.ssm = Scan(backend, reverse=reverse)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
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
        """Map ``(batch, length, dim)`` to the same shape."""
        z, xBC, dt = self.in_proj(u)
        return self.out_proj(self.norm(self.scan(xBC, dt), z))

    def scan(self, xBC: Tensor, dt: Tensor) -> Tensor:
        """Convolve and scan ``in_proj``'s outputs without the gate; return ``(batch, length, inner)``."""
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
        return y.flatten(2)  # (batch, length, H P)


class Direction(nn.Module):
    """Pre-norm residual branch around one mixer (the official ``Block``)."""

    def __init__(self, dim: int, **mixer: Any) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, eps=EPS)
        self.mixer = Mamba2(dim, **mixer)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``mixer(norm(x)) + x``, ``(batch, length, dim)``."""
        return self.mixer(self.norm(x)) + x


class BiMamba2Block(nn.Module):
    """Run two mixers, forwards and backwards; concatenate, project and add the block's input.

    The defaults are the author's. For the ablations, ``directions`` may be ``shared`` (one mixer for both) or
    ``forward`` (alone), and ``merge`` the ``mean`` of both directions. ``mixer`` has the arguments of :class:`Mamba2`.
    """

    def __init__(self, dim: int, *, directions: str = "separate", merge: str = "concat", **mixer: Any) -> None:
        super().__init__()
        self.directions, self.merge = directions, merge
        self.forward_direction = Direction(dim, **mixer)
        if directions == "separate":
            self.backward_direction = Direction(dim, reverse=True, **mixer)
        width = dim if merge == "mean" or directions == "forward" else 2 * dim
        self.proj = nn.Linear(width, dim)
        for parameter in self.proj.parameters():  # the initial range of the author's ConvTranspose1d of kernel 1
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Build the block that a configuration describes."""
        return cls(
            config.dim,
            directions=config.directions,
            merge=config.merge,
            d_state=config.d_state,
            headdim=config.headdim,
            expand=config.expand,
            d_conv=config.d_conv,
            backend=config.scan_backend,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, dim)`` to the same shape."""
        parts = [self.forward_direction(x)]
        if self.directions == "separate":
            parts.append(self.backward_direction(x))
        elif self.directions == "shared":
            parts.append(self.forward_direction(x.flip(1)).flip(1))
        merged = sum(parts) / len(parts) if self.merge == "mean" else torch.cat(parts, dim=-1)
        return self.proj(merged) + x
