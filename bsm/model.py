"""BSMamba2: band split, dual path, mask estimation (paper section 3, author's code).

Letters in the shape comments: B batch, C channels, F frequency bins, T frames, K bands, D features.
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from bsm import fast
from bsm.config import ModelConfig
from bsm.mamba2 import BiMamba2Block
from bsm.stft import STFT
from bsm.time_blocks import build_time_block


def check_mixture(mixture: Tensor, channels: int) -> int:
    """Return the samples of a mixture ``(batch, channels, samples)``.

    Raises:
        ValueError: it has another number of dimensions or channels, or no samples.
    """
    if mixture.ndim != 3 or mixture.shape[1] != channels or mixture.shape[2] == 0:
        raise ValueError(f"mixture must be (batch, channels={channels}, samples >= 1), got {tuple(mixture.shape)}")
    return mixture.shape[2]


class RMSNorm(nn.Module):
    """Normalise to ``x / ||x|| * sqrt(dim) * gamma``; zeros stay zeros.

    Args:
        dim: size of the last axis.
        bands: give each of so many bands a ``gamma`` of its own; the input is then ``(bands, ..., dim)``.
    """

    def __init__(self, dim: int, bands: int | None = None) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim) if bands is None else torch.ones(bands, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.normalize(x, dim=-1) * (x.shape[-1] ** 0.5 * self.gamma)


class BandLinear(nn.Module):
    """Apply one linear layer per band, ``(bands, rows, fan_in)`` to ``(bands, rows, fan_out)``, as one product.

    All bands' weights are one tensor, because an optimiser spends its time per tensor in small models.
    """

    def __init__(self, bands: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(bands, fan_out, fan_in))
        self.bias = nn.Parameter(torch.empty(bands, 1, fan_out))
        for parameter in self.parameters():  # as nn.Linear does
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each band's layer to that band."""
        return torch.baddbmm(self.bias, x, self.weight.mT)


def band_groups(sizes: list[int]) -> list[tuple[int, int]]:
    """Return ``(size, bands)`` of each run of equal sizes: bands of one width are computed together."""
    return [(size, len(list(run))) for size, run in groupby(sizes)]


class BandSplit(nn.Module):
    """Turn the real numbers ``(B, T, sum of sizes)`` of all bands into features ``(B, K, T, D)``.

    ``sizes`` are the real numbers per band, ``2 * channels * width``.
    """

    def __init__(self, sizes: list[int], dim: int) -> None:
        super().__init__()
        self.runs = band_groups(sizes)
        self.groups = nn.ModuleList(
            nn.Sequential(RMSNorm(size, bands), BandLinear(bands, size, dim)) for size, bands in self.runs
        )

    def forward(self, x: Tensor) -> Tensor:
        """Split and embed."""
        parts = x.split([size * bands for size, bands in self.runs], dim=-1)
        features = [
            group(rearrange(part, "b t (k s) -> k (b t) s", s=size))
            for group, part, (size, _) in zip(self.groups, parts, self.runs, strict=True)
        ]
        return rearrange(torch.cat(features), "k (b t) d -> b k t d", b=len(x))


class MaskEstimator(nn.Module):
    """Turn features ``(B, K, T, D)`` into the masks' numbers ``(B, T, sum of sizes)``, through a layer of ``hidden``
    units.
    """

    def __init__(self, sizes: list[int], dim: int, hidden: int) -> None:
        super().__init__()
        self.runs = band_groups(sizes)
        self.groups = nn.ModuleList(
            nn.Sequential(BandLinear(bands, dim, hidden), nn.Tanh(), BandLinear(bands, hidden, 2 * size), nn.GLU())
            for size, bands in self.runs
        )

    def forward(self, x: Tensor) -> Tensor:
        """Estimate all bands and put them side by side."""
        parts = x.split([bands for _, bands in self.runs], dim=1)
        masks = [
            rearrange(group(rearrange(part, "b k t d -> k (b t) d")), "k (b t) s -> b t (k s)", b=len(x))
            for group, part in zip(self.groups, parts, strict=True)
        ]
        return torch.cat(masks, dim=-1)


class DualPath(nn.Module):
    """Alternate time blocks, along the frames, and band blocks, along the bands; ``(B, K, T, D)`` throughout.

    Each layer is a pair of blocks. A block maps ``(rows, length, D)`` to the same shape, row by row.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reshaped = config.time_path == "reshaped"
        self.layers = nn.ModuleList(
            nn.ModuleList([build_time_block(config), BiMamba2Block.of(config)])
            for _ in range(config.depth)  # L
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix over frames and bands in turn."""
        for time_block, band_block in self.layers:
            rows = self.to_rows(x)
            x = self.from_rows(time_block(rows.flatten(0, 1)).view(x.shape))  # (B K, T, D)
            x = x.transpose(1, 2)  # (B, T, K, D)
            x = band_block(x.flatten(0, 1)).view(x.shape).transpose(1, 2)
        return x

    def to_rows(self, x: Tensor) -> Tensor:
        """Return what the time blocks run over: the frames of each band, so ``x`` itself.

        The ``reshaped`` time path of the unofficial implementation cuts memory that holds frame after frame into rows
        of T without transposing, which mixes the bands.
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
        sizes = [2 * config.streams * width for width in config.bands]  # real numbers per band
        self.stft = STFT(config.stft)
        self.band_split = BandSplit(sizes, config.dim)
        self.dual_path = DualPath(config)
        self.final_norm = RMSNorm(config.dim)
        self.mask_estimator = MaskEstimator(sizes, config.dim, config.dim * config.mask_expansion)

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals of a mixture ``(batch, channels, samples)`` of any length >= 1 at ``config.sample_rate``.

        Without gradients, :mod:`bsm.fast` computes the same in less time and memory.

        Raises:
            ValueError: ``mixture`` has another number of dimensions or channels, or no samples.
        """
        samples = check_mixture(mixture, self.config.channels)
        heard = mixture.mean(1, keepdim=True) if self.config.mono else mixture
        if torch.is_grad_enabled():
            spec = self.stft(heard)  # (B, C, F, T)
            estimate = self.stft.inverse(self.apply_mask(spec, self.mask(spec)), samples)
        else:
            estimate = fast.separate(self, heard)
        return estimate.expand_as(mixture)

    def mask(self, spec: Tensor) -> Tensor:
        """Estimate the mask, ``(B, C, F, T)`` complex, of a complex spectrogram of that shape."""
        return self.to_mask(self.dual_path(self.band_split(self.to_numbers(spec))))

    def to_numbers(self, spec: Tensor) -> Tensor:
        """Lay out a spectrogram as the real numbers of each frame.

        Bins come in order; in a bin, the channels; of each channel, real and imaginary part.
        """
        return rearrange(torch.view_as_real(spec), "b c f t z -> b t (f c z)")

    def to_mask(self, features: Tensor) -> Tensor:
        """Turn the dual path's features ``(B, K, T, D)`` into the mask ``(B, C, F, T)``."""
        numbers = self.mask_estimator(self.final_norm(features))
        numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))  # complex needs full precision
        if self.config.mask == "real":
            numbers = numbers.tanh()
        mask = numbers.unflatten(-1, (-1, self.config.streams, 2))  # (B, T, F, C, 2)
        return torch.view_as_complex(mask).permute(0, 3, 2, 1)

    def apply_mask(self, spec: Tensor, mask: Tensor) -> Tensor:
        """Multiply a spectrogram by its mask: one complex, unbounded factor; or, with ``config.mask`` ``real``, two
        factors, of the spectrogram's real and imaginary part.
        """
        if self.config.mask == "real":
            return torch.complex(spec.real * mask.real, spec.imag * mask.imag)
        return spec * mask

    def parameter_counts(self) -> dict[str, int]:
        """Count the parameters of each part and of all (``total``)."""
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()}
        counts = {name: count for name, count in counts.items() if count}
        return counts | {"total": sum(counts.values())}
