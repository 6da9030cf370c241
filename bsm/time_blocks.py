"""The time blocks to choose from (``ModelConfig.time_block``): the paper's, and others to compare it with.

Band split, Mamba2 band blocks and mask estimator stay the same for every choice. Each block maps ``(rows, T, D)``, T
frames of D features, to the same shape, and contains its residual connections. It has about as many parameters as the
paper's bidirectional Mamba2 block of the same configuration; ``none`` has none.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.config import ModelConfig
from bsm.mamba2 import EPS, BiMamba2Block, CausalConv1d, count_parameters
from bsm.norm import RMSNorm

LOCAL_FRAMES = 15  # taps of a ``convolution`` block: a frame and seven on either side
ROTARY_BASE = 10_000.0  # as in RoFormer


def build_time_block(config: ModelConfig) -> nn.Module:
    """Build the time block that ``config.time_block`` names."""
    kinds = {
        "mamba2": BiMamba2Block,  # the paper's
        "attention": AttentionBlock,
        "attention-nopos": AttentionBlock,  # without positions
        "lstm": LSTMBlock,
        "convolution": ConvolutionBlock,
        "none": nn.Identity,  # frames do not exchange anything
    }
    return kinds[config.time_block](config)


def mamba2_parameters(config: ModelConfig) -> int:
    """Count the parameters of the paper's time block. The other blocks choose their width to have as many."""
    with torch.device("meta"):
        return count_parameters(BiMamba2Block(config))


class FeedForward(nn.Module):
    """Pre-norm feed-forward part with a residual, as wide as about ``parameters`` parameters allow."""

    def __init__(self, dim: int, parameters: int) -> None:
        super().__init__()
        hidden = max(1, round((parameters - 2 * dim) / (2 * dim + 1)))
        self.layers = nn.Sequential(RMSNorm(dim, eps=EPS), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., D)`` to the same shape."""
        return x + self.layers(x)


class Attention(nn.Module):
    """Softmax attention. It has no parameters; it is a module so that an analysis can hook or replace it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries, keys and values, each ``(rows, H, T, P)``, to one result of that shape."""
        return F.scaled_dot_product_attention(q, k, v)


class AttentionBlock(nn.Module):
    """Multi-head softmax attention over all frames, then a feed-forward part; H heads of P channels.

    The choice ``attention`` rotates queries and keys by their positions (RoFormer, Su et al. 2021).

    Queries, keys and values pass the short convolution and SiLU of Mamba2's mixer. Without this convolution, attention
    that has no positions would not know the order of neighbouring frames either. In one half of the heads, the
    convolution covers past frames, in the other half future frames, like the two directions of the paper's block.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rotary, self.headdim = config.time_block == "attention", config.headdim
        channels = [3 * config.headdim * heads for heads in (config.heads - config.heads // 2, config.heads // 2)]
        self.norm = RMSNorm(config.dim, eps=EPS)
        self.qkv = nn.Linear(config.dim, sum(channels), bias=False)
        self.convs = nn.ModuleList(
            CausalConv1d(n, config.d_conv, reverse=bool(future)) for future, n in enumerate(channels) if n
        )
        self.attention = Attention()
        self.out_proj = nn.Linear(config.d_inner, config.dim, bias=False)
        self.feed_forward = FeedForward(config.dim, mamba2_parameters(config) - count_parameters(self))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, T, D)`` to the same shape."""
        y = self.attention(*self.qkv_heads(self.norm(x)))  # (rows, H, T, P)
        return self.feed_forward(x + self.out_proj(y.transpose(1, 2).flatten(2)))

    def qkv_heads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, ``(rows, H, T, P)``, of a normalised input ``(rows, T, D)``."""
        projected = self.qkv(u).split([conv.out_channels for conv in self.convs], dim=-1)
        parts = [conv(part) for conv, part in zip(self.convs, projected, strict=True)]
        heads = torch.cat(parts, dim=-1).unflatten(-1, (-1, 3, self.headdim))  # (rows, T, H, 3, P)
        q, k, v = heads.permute(3, 0, 2, 1, 4)
        return (rotate(q), rotate(k), v) if self.rotary else (q, k, v)


def rotate(x: Tensor) -> Tensor:
    """Rotate pairs of channels of ``(..., T, P)`` by angles that grow with the number of the frame."""
    frames, half = x.shape[-2], x.shape[-1] // 2
    position = torch.arange(frames, device=x.device, dtype=torch.float32)
    rate = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = position[:, None] * rate
    cos, sin = (f.to(x.dtype) for f in (angle.cos(), angle.sin()))
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class LSTMBlock(nn.Module):
    """Pre-norm bidirectional LSTM and a linear layer, with a residual (BSRNN, Luo & Yu 2022)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        # With h hidden units, both directions have 8 h (dim + h + 2) parameters, the linear layer 2 h dim + dim, and
        # the norm dim. So the sum is 8 h^2 + (10 dim + 16) h + 2 dim, a quadratic equation for h.
        linear, constant = 10 * dim + 16, 2 * dim - mamba2_parameters(config)
        hidden = max(1, round((math.sqrt(linear**2 - 32 * constant) - linear) / 16))
        self.norm = RMSNorm(dim, eps=EPS)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.out_proj = nn.Linear(2 * hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, T, D)`` to the same shape."""
        return x + self.out_proj(self.lstm(self.norm(x))[0])


class ConvolutionBlock(nn.Module):
    """Gated depthwise convolution over :data:`LOCAL_FRAMES` frames, then a feed-forward part."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.d_inner
        self.norm = RMSNorm(config.dim, eps=EPS)
        self.in_proj = nn.Linear(config.dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, LOCAL_FRAMES, padding=LOCAL_FRAMES // 2, groups=inner)
        self.out_proj = nn.Linear(inner, config.dim, bias=False)
        self.feed_forward = FeedForward(config.dim, mamba2_parameters(config) - count_parameters(self))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, T, D)`` to the same shape."""
        u, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        y = F.silu(self.conv1d(u.mT).mT) * F.silu(gate)
        return self.feed_forward(x + self.out_proj(y))
