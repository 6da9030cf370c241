"""A literal model of what the unofficial implementation's reports and source describe, to compare with the paper's.

The description, where it differs from the paper:

- The bands are equally wide.
- The time path reshapes without transposing.
- A block follows Mamba-1: a decay per channel, state 64, expansion 2, no convolution of B and C, no gated norm.
- Both directions of a block share one mixer, and their results are averaged.
- Real and imaginary part have a mask each, a real number bounded by Tanh.
- The network hears the average of both channels, and both channels of the output are equal.

Some norms, some biases and the layers of the band MLPs are not described. They are chosen so that the default and the
reduced model have the described 22,061,570 and 9,533,698 parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.bands import equal
from bsm.config import LossConfig, ModelConfig, StftConfig
from bsm.scan import scan

REDUCED_LOSS = LossConfig(windows=(2048, 1024, 512), min_fft=256, magnitude=True, mean=True, center=False)
"""The reduced loss: three windows, magnitudes, no centring, and a mean over the windows. Its transforms are as long as
their windows; the paper's have at least 2048 samples."""


UNOFFICIAL = ModelConfig(bands=equal(StftConfig().bins, 62), d_state=64, expand=2)
"""Sizes of the described model, those of its default model; of the fields of structure it takes none."""
REDUCED = UNOFFICIAL.replace(dim=192, depth=4, bands=equal(StftConfig().bins, 48))


class Mixer(nn.Module):
    """Map ``(batch, length, dim)`` to the same shape, forwards only.

    Args:
        config: sizes.
        low_rank: project the step sizes as in Mamba-1; the later version calls its CUDA scan. ``x_proj`` then
            gives a few numbers, and ``dt_proj`` spreads them over the channels. Otherwise ``x_proj`` gives one step
            size per channel.
    """

    def __init__(self, config: ModelConfig, *, low_rank: bool = False) -> None:
        super().__init__()
        inner = config.expand * config.dim
        steps = -(-config.dim // 16) if low_rank else inner
        self.sizes = steps, config.d_state, config.d_state
        self.in_proj = nn.Linear(config.dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(steps, inner) if low_rank else None
        self.dt_bias = None if low_rank else nn.Parameter(torch.zeros(inner))
        self.A_log = nn.Parameter(torch.zeros(inner))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.dim)

    def forward(self, u: Tensor) -> Tensor:
        """Mix along the length."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.mT)[..., : u.shape[1]].mT)
        dt, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        dt = F.softplus(self.dt_proj(dt) if self.dt_proj else dt + self.dt_bias)
        # One head per channel gives every channel a decay of its own.
        y, _ = scan(x[..., None], dt, -self.A_log.exp(), B[:, :, None], C[:, :, None], self.D)
        return self.out_proj(y[..., 0] * F.silu(z))


class Block(nn.Module):
    """Average one mixer's results in both directions, between two norms, with a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.dim)
        self.mixer = Mixer(config)
        self.out_norm = nn.RMSNorm(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, length, dim)`` to the same shape."""
        u = self.norm(x)
        return x + self.out_norm((self.mixer(u) + self.mixer(u.flip(1)).flip(1)) / 2)


class UnofficialDualPath(nn.Module):
    """Alternate "time" blocks and band blocks; ``(batch, frames, bands, dim)`` throughout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([Block(config), Block(config)]) for _ in range(config.depth))

    def forward(self, x: Tensor) -> Tensor:
        """Mix; without a transpose, the rows of the time path are cut from frames and bands in memory order."""
        batch, frames, bands, dim = x.shape
        for time_block, band_block in self.layers:
            x = time_block(x.reshape(batch * bands, frames, dim)).reshape(x.shape)
            x = band_block(x.reshape(batch * frames, bands, dim)).reshape(x.shape)
        return x


class UnofficialModel(nn.Module):
    """Separate vocals: mixture ``(batch, 2, samples)`` in, estimate of the same shape out, both channels equal."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.band_split = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, dim), nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, dim))
            for width in config.bands
        )
        self.dual_path = UnofficialDualPath(config)
        self.mask_estimator = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(dim), nn.Linear(dim, 2 * dim), nn.GLU(), nn.Linear(dim, 2 * width), nn.Tanh())
            for width in config.bands
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals."""
        stft = self.config.stft
        window = torch.hann_window(stft.n_fft)
        transform = {"n_fft": stft.n_fft, "hop_length": stft.hop_length, "window": window}
        spec = torch.stft(mixture.mean(1), **transform, return_complex=True)
        wave = torch.istft(self.apply_mask(self.mask(spec), spec), **transform, length=mixture.shape[-1])
        return wave[:, None].expand_as(mixture)

    def mask(self, spec: Tensor) -> Tensor:
        """Return the factors of real and imaginary part, ``(batch, bins, frames, 2)``, for a mono spectrogram."""
        parts = torch.view_as_real(spec).transpose(1, 2).split(self.config.bands, dim=2)  # (b, t, width, 2)
        x = torch.stack([net(part.flatten(2)) for net, part in zip(self.band_split, parts, strict=True)], dim=2)
        x = self.dual_path(x)
        masks = [net(x[:, :, k]).unflatten(-1, (-1, 2)) for k, net in enumerate(self.mask_estimator)]
        return torch.cat(masks, dim=2).transpose(1, 2)

    @staticmethod
    def apply_mask(mask: Tensor, spec: Tensor) -> Tensor:
        """Multiply real by real and imaginary by imaginary."""
        return torch.view_as_complex((torch.view_as_real(spec) * mask).contiguous())
