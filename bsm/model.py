"""BSMamba2: band split, dual path, mask estimation (paper section 3, author's code).

Letters in the shapes: B batch, C channels, F frequency bins, T frames, K bands, D features, L layers. R = 2 F C is the
number of real numbers in a frame of a spectrogram: real and imaginary part of each bin and channel.
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from bsm import fast
from bsm.config import ModelConfig
from bsm.mamba2 import BiMamba2Block, count_parameters
from bsm.stft import STFT
from bsm.time_blocks import build_time_block


def check_mixture(mixture: Tensor, channels: int) -> int:
    """Return the number of samples of a mixture; any shape but ``(batch, channels, samples)`` is a ValueError."""
    if mixture.ndim != 3 or mixture.shape[1] != channels or mixture.shape[2] == 0:
        raise ValueError(f"mixture must be (batch, channels={channels}, samples >= 1), got {tuple(mixture.shape)}")
    return mixture.shape[2]


class RMSNorm(nn.Module):
    """Normalise the last axis to ``x / ||x|| * sqrt(dim) * gamma``; zeros stay zeros.

    The author has this norm outside the blocks. The norm in the blocks adds a small number to the mean square, see
    :class:`bsm.norm.RMSNorm`.

    Args:
        dim: size of the last axis.
        bands: number of bands if each has its own ``gamma``; the input is then ``(bands, rows, dim)``.
    """

    def __init__(self, dim: int, bands: int | None = None) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim) if bands is None else torch.ones(bands, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, in its shape."""
        return F.normalize(x, dim=-1) * (x.shape[-1] ** 0.5 * self.gamma)


class BandLinear(nn.Module):
    """Apply a linear layer of its own to each band: ``(bands, rows, fan_in)`` to ``(bands, rows, fan_out)``.

    One tensor holds the weights of all bands: in small models, each further tensor costs the optimiser time.
    """

    def __init__(self, bands: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(bands, fan_out, fan_in))
        self.bias = nn.Parameter(torch.empty(bands, 1, fan_out))
        for parameter in self.parameters():  # as nn.Linear does
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply all bands by their weights in one batched product."""
        return torch.baddbmm(self.bias, x, self.weight.mT)


def band_groups(sizes: list[int]) -> list[tuple[int, int]]:
    """Return ``(size, number of bands)`` for each run of equal sizes. The bands of a run are computed together."""
    return [(size, len(list(run))) for size, run in groupby(sizes)]


class BandSplit(nn.Module):
    """Embed each band of each frame: ``(B, T, R)`` to features ``(B, K, T, D)``.

    ``sizes`` are the K bands' shares of R: ``2 * channels * width in bins``.
    """

    def __init__(self, sizes: list[int], dim: int) -> None:
        super().__init__()
        self.runs = band_groups(sizes)
        self.groups = nn.ModuleList(
            nn.Sequential(RMSNorm(size, bands), BandLinear(bands, size, dim)) for size, bands in self.runs
        )

    def forward(self, x: Tensor) -> Tensor:
        """Split into bands and embed them, run by run of equal sizes."""
        parts = x.split([size * bands for size, bands in self.runs], dim=-1)
        features = [
            group(rearrange(part, "b t (k s) -> k (b t) s", s=size))
            for group, part, (size, _) in zip(self.groups, parts, self.runs, strict=True)
        ]  # (bands of the run, B T, D) each
        return rearrange(torch.cat(features), "k (b t) d -> b k t d", b=len(x))


class MaskEstimator(nn.Module):
    """Estimate the mask of each band from its features: ``(B, K, T, D)`` to ``(B, T, R)``.

    ``sizes`` are those of :class:`BandSplit`, ``hidden`` is the width of the hidden layer.
    """

    def __init__(self, sizes: list[int], dim: int, hidden: int) -> None:
        super().__init__()
        self.runs = band_groups(sizes)
        self.groups = nn.ModuleList(
            nn.Sequential(BandLinear(bands, dim, hidden), nn.Tanh(), BandLinear(bands, hidden, 2 * size), nn.GLU())
            for size, bands in self.runs
        )

    def forward(self, x: Tensor) -> Tensor:
        """Estimate run by run of equal sizes, and join the bands."""
        parts = x.split([bands for _, bands in self.runs], dim=1)
        masks = [
            rearrange(group(rearrange(part, "b k t d -> k (b t) d")), "k (b t) s -> b t (k s)", b=len(x))
            for group, part in zip(self.groups, parts, strict=True)
        ]  # (B, T, numbers of the run) each
        return torch.cat(masks, dim=-1)


class DualPath(nn.Module):
    """Mix features ``(B, K, T, D)`` in L layers: a time block along the frames, then a band block along the bands.

    A block maps ``(rows, length, D)`` to the same shape, row by row.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reshaped = config.time_path == "reshaped"
        self.layers = nn.ModuleList(
            nn.ModuleList([build_time_block(config), BiMamba2Block(config)])
            for _ in range(config.depth)  # L
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, K, T, D)`` to the same shape."""
        for time_block, band_block in self.layers:
            rows = self.to_rows(x)
            x = self.from_rows(time_block(rows.flatten(0, 1)).view(x.shape))  # the block maps (B K, T, D)
            x = x.transpose(1, 2)  # (B, T, K, D)
            x = band_block(x.flatten(0, 1)).view(x.shape)  # the block maps (B T, K, D)
            x = x.transpose(1, 2)  # (B, K, T, D)
        return x

    def to_rows(self, x: Tensor) -> Tensor:
        """Return the rows that the time blocks run along: the frames of each band, so ``x`` itself.

        For the ablation, ``config.time_path`` may be ``reshaped``, as in the unofficial implementation. It reshapes
        ``(B, T, K, D)`` to ``(B, K, T, D)`` without transposing, so that a row mixes bands and frames.
        """
        return x.transpose(1, 2).reshape(x.shape) if self.reshaped else x

    def from_rows(self, rows: Tensor) -> Tensor:
        """Undo :meth:`to_rows`."""
        batch, bands, frames, dim = rows.shape
        return rows.reshape(batch, frames, bands, dim).transpose(1, 2) if self.reshaped else rows


class BSMamba2(nn.Module):
    """Separate vocals: mixture ``(batch, channels, samples)`` in, estimated vocals of the same shape out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [2 * config.streams * width for width in config.bands]  # K numbers, which sum to R
        self.stft = STFT(config.stft)
        self.band_split = BandSplit(sizes, config.dim)
        self.dual_path = DualPath(config)
        self.final_norm = RMSNorm(config.dim)
        self.mask_estimator = MaskEstimator(sizes, config.dim, config.dim * config.mask_expansion)

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals of a mixture ``(batch, channels, samples)`` of any length >= 1 at ``config.sample_rate``.

        Without gradients, :mod:`bsm.fast` computes the same in less time and memory. A mixture of another shape is a
        ValueError.
        """
        samples = check_mixture(mixture, self.config.channels)
        wave = mixture.mean(1, keepdim=True) if self.config.mono else mixture  # (B, C, samples)
        if torch.is_grad_enabled():
            spec = self.stft(wave)  # (B, C, F, T)
            estimate = self.stft.inverse(self.apply_mask(spec, self.mask(spec)), samples)  # (B, C, samples)
        else:
            estimate = fast.separate(self, wave)
        return estimate.expand_as(mixture)

    def mask(self, spec: Tensor) -> Tensor:
        """Estimate the mask, ``(B, C, F, T)`` complex, of a complex spectrogram of that shape."""
        x = self.to_numbers(spec)  # (B, T, R)
        x = self.band_split(x)  # (B, K, T, D)
        x = self.dual_path(x)  # (B, K, T, D)
        return self.to_mask(x)  # (B, C, F, T)

    def to_numbers(self, spec: Tensor) -> Tensor:
        """Lay out a spectrogram ``(B, C, F, T)`` as the real numbers of each frame, ``(B, T, R)``.

        The order is: bin, then channel, then real and imaginary part.
        """
        return rearrange(torch.view_as_real(spec), "b c f t z -> b t (f c z)")

    def to_mask(self, features: Tensor) -> Tensor:
        """Turn the dual path's features ``(B, K, T, D)`` into the mask ``(B, C, F, T)``."""
        numbers = self.mask_estimator(self.final_norm(features))  # (B, T, R)
        numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))  # complex needs full precision
        if self.config.mask == "real":
            numbers = numbers.tanh()
        mask = numbers.unflatten(-1, (-1, self.config.streams, 2))  # (B, T, F, C, 2)
        return torch.view_as_complex(mask).permute(0, 3, 2, 1)

    def apply_mask(self, spec: Tensor, mask: Tensor) -> Tensor:
        """Multiply a spectrogram by its mask, both ``(B, C, F, T)``.

        For the ablation, ``config.mask`` may be ``real``: real and imaginary part then have a factor each.
        """
        if self.config.mask == "real":
            return torch.complex(spec.real * mask.real, spec.imag * mask.imag)
        return spec * mask

    def parameter_counts(self) -> dict[str, int]:
        """Count the parameters of each part and of all (``total``)."""
        counts = {name: count_parameters(part) for name, part in self.named_children()}
        return {name: count for name, count in counts.items() if count} | {"total": count_parameters(self)}
