"""BSMamba2: band split, dual path of bidirectional Mamba-2 blocks, mask estimation (paper section 3, author's code)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from bsm.config import ModelConfig
from bsm.mamba2 import BiMamba2Block, Folded
from bsm.stft import STFT

# Without gradients the network works through slabs, so that a whole song needs little more than its features.
SLAB_TOKENS = 4096  # on a CPU, rows of a slab times their length: the blocks' intermediates stay in what a cache holds
SLAB_ROWS = 4  # and at least so many rows, up to so many times as many tokens: products of fewer leave a core idle
GPU_SLAB_TOKENS = 1 << 18  # elsewhere: five windows of 8 s at paper size in one piece; its widest layer takes 2.4 GB
SLAB_FRAMES = 1024  # of band split and mask estimator, whose hidden layer is four times as wide as the features


class RMSNorm(nn.Module):
    """``x / ||x|| * sqrt(dim) * gamma``, the norm of band split and output (no epsilon but division's guard)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., dim)``."""
        return F.normalize(x, dim=-1) * (x.shape[-1] ** 0.5 * self.gamma)


def _linear(layers: list[nn.Linear], x: Tensor) -> Tensor:
    """Apply one layer to each band, ``(bands, rows, in)`` to ``(bands, rows, out)``, in one batched product."""
    weight, bias = (torch.stack([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return torch.baddbmm(bias[:, None], x, weight.mT)


class _PerBand(nn.Module):
    """Layers of each band's own; runs of bands of one width are computed together."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.runs = [(size, len(list(run))) for size, run in groupby(sizes)]  # (width, bands)

    def _parts(self, layers: nn.ModuleList) -> Iterator[tuple[int, list[nn.Module]]]:
        """Yield each run's width and its bands' layers."""
        first = 0
        for size, count in self.runs:
            yield size, list(layers[first : first + count])
            first += count


class BandSplit(_PerBand):
    """Each band's bins, as real numbers, to one feature vector: ``(b, t, numbers)`` to ``(b, bands, t, dim)``."""

    def __init__(self, sizes: list[int], dim: int) -> None:
        super().__init__(sizes)
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(size), nn.Linear(size, dim)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Split and embed."""
        batch, frames, _ = x.shape
        features = []
        parts = x.split([size * count for size, count in self.runs], dim=-1)
        for part, (size, layers) in zip(parts, self._parts(self.to_features), strict=True):
            part = rearrange(part, "b t (k s) -> k (b t) s", s=size)
            gamma = torch.stack([norm.gamma for norm, _ in layers])
            part = F.normalize(part, dim=-1) * (size**0.5 * gamma[:, None])
            features.append(_linear([linear for _, linear in layers], part))
        return rearrange(torch.cat(features), "k (b t) d -> b k t d", b=batch, t=frames)


class MaskEstimator(_PerBand):
    """Each band's features to its complex mask: ``(b, bands, t, dim)`` to ``(b, t, numbers)``."""

    def __init__(self, sizes: list[int], dim: int, hidden: int) -> None:
        super().__init__(sizes)
        self.to_mask = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 2 * size), nn.GLU()) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Estimate all bands and put them side by side."""
        batch = len(x)
        masks = []
        parts = x.split([count for _, count in self.runs], dim=1)
        for part, (_, layers) in zip(parts, self._parts(self.to_mask), strict=True):
            hidden = torch.tanh(_linear([layer[0] for layer in layers], rearrange(part, "b k t d -> k (b t) d")))
            mask = F.glu(_linear([layer[2] for layer in layers], hidden))
            masks.append(rearrange(mask, "k (b t) s -> b t (k s)", b=batch))
        return torch.cat(masks, dim=-1)


class DualPath(nn.Module):
    """Layers of a time block (over frames) and a band block (over bands); ``(b, bands, t, dim)`` throughout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reshaped = config.time_path == "reshaped"
        mixer = {
            "d_state": config.d_state,
            "headdim": config.headdim,
            "expand": config.expand,
            "d_conv": config.d_conv,
            "backend": config.scan_backend,
            "directions": config.directions,
            "merge": config.merge,
        }
        self.layers = nn.ModuleList(
            nn.ModuleList([BiMamba2Block(config.dim, **mixer), BiMamba2Block(config.dim, **mixer)])
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor, *, in_place: bool = False) -> Tensor:
        """Mix over frames and bands in turn.

        Args:
            x: features.
            in_place: let the result take the place of ``x``; only where no gradient is wanted, ignored otherwise.
        """
        if torch.is_grad_enabled():
            for time_block, band_block in self.layers:
                x = _restored(_along_last(time_block, _reshaped(x))) if self.reshaped else _along_last(time_block, x)
                x = _along_last(band_block, x.transpose(1, 2)).transpose(1, 2)
            return x
        x = x if in_place else x.clone()
        for time_block, band_block in self.layers:
            if self.reshaped:
                rows = _reshaped(x)
                _update(time_block, rows)
                x.copy_(_restored(rows))
            else:
                _update(time_block, x)
            _update(band_block, x.transpose(1, 2))
        return x


def _reshaped(x: Tensor) -> Tensor:
    """Cut ``(b, bands, t, dim)``, laid out frame by frame, into rows of t without transposing: each mixes bands."""
    return x.transpose(1, 2).reshape(x.shape)


def _restored(rows: Tensor) -> Tensor:
    """Undo :func:`_reshaped`."""
    batch, bands, frames, dim = rows.shape
    return rows.reshape(batch, frames, bands, dim).transpose(1, 2)


def _along_last(block: BiMamba2Block, x: Tensor, folded: Folded | None = None) -> Tensor:
    """Apply a block to ``(b, rows, length, dim)`` along length."""
    return block(x.flatten(0, 1), folded).view(x.shape)


def _update(block: BiMamba2Block, x: Tensor) -> None:
    """Replace ``(b, rows, length, dim)``, a view or not, by the block's result along length, slab by slab of rows.

    A row's result depends on that row alone, so each slab can be written where it was read: one copy of the features
    is all that a song needs.
    """
    on_cpu = x.device.type == "cpu"
    parts = x.split(1) if on_cpu else (x,)
    batch, count, length, _ = parts[0].shape
    slab = min(count, _slab_rows(length) if on_cpu else max(1, GPU_SLAB_TOKENS // (batch * length)))
    folded = block.folded(batch * slab * length)
    for part in parts:
        for rows in part.split(slab, dim=1):
            rows.copy_(_along_last(block, rows, folded))


def _slab_rows(length: int) -> int:
    """Return how many rows of a length make a slab on a CPU: a power of two, which shares out evenly."""
    rows = max(1, SLAB_TOKENS // length, min(SLAB_ROWS, SLAB_ROWS * SLAB_TOKENS // length))
    return 1 << (rows.bit_length() - 1)


def _slabs(frames: int) -> list[slice]:
    return [slice(first, first + SLAB_FRAMES) for first in range(0, frames, SLAB_FRAMES)]


class BSMamba2(nn.Module):
    """The paper's vocal separator: ``(batch, channels, samples)`` in, the estimated vocals, same shape, out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [2 * config.streams * width for width in config.bands]
        self.stft = STFT(config.stft)
        self.band_split = BandSplit(sizes, config.dim)
        self.dual_path = DualPath(config)
        self.final_norm = RMSNorm(config.dim)
        self.mask_estimator = MaskEstimator(sizes, config.dim, config.dim * config.mask_expansion)

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals of a mixture of any length >= 1.

        Args:
            mixture: ``(batch, channels, samples)`` at ``config.sample_rate``.

        Raises:
            ValueError: another number of dimensions or channels, or no samples.
        """
        if mixture.ndim != 3 or mixture.shape[1] != self.config.channels or mixture.shape[2] == 0:
            raise ValueError(
                f"mixture must be (batch, channels={self.config.channels}, samples >= 1), got {tuple(mixture.shape)}"
            )
        return self._separate(mixture.mean(1, keepdim=True) if self.config.mono else mixture).expand_as(mixture)

    def _separate(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals of what the network sees, ``(batch, streams, samples)``."""
        spec = self.stft(mixture)  # (b, c, f, t)
        if torch.is_grad_enabled():
            return self.stft.inverse(self._masked(spec, self.mask(spec)), mixture.shape[-1])
        features = self._features(spec)
        for frames in _slabs(spec.shape[-1]):
            spec[..., frames] = self._masked(spec[..., frames], self._mask(features[:, :, frames]))
        del features  # before the inverse transform asks for memory of its own
        return self.stft.inverse(spec, mixture.shape[-1])

    def mask(self, spec: Tensor) -> Tensor:
        """Estimate the complex mask, ``(b, c, f, t)``, of a complex spectrogram of that shape.

        It is an unbounded factor; where ``config.mask`` is ``real``, its parts are the factors of both parts.
        """
        features = self._features(spec)
        if torch.is_grad_enabled():
            return self._mask(features)
        return torch.cat([self._mask(features[:, :, frames]) for frames in _slabs(spec.shape[-1])], dim=-1)

    def _features(self, spec: Tensor) -> Tensor:
        """Return what the dual path makes of ``(b, c, f, t)``: ``(b, bands, t, dim)``."""
        # Within a bin: channels, each with real and imaginary part; bins of a band side by side.
        x = torch.view_as_real(spec).permute(0, 3, 2, 1, 4)  # (b, t, f, c, 2)
        if torch.is_grad_enabled():
            return self.dual_path(self.band_split(x.flatten(2)))
        features = None
        for frames in _slabs(x.shape[1]):
            slab = self.band_split(x[:, frames].flatten(2))
            if features is None:
                features = slab.new_empty(*slab.shape[:2], x.shape[1], slab.shape[3])
            features[:, :, frames] = slab
        del slab
        return self.dual_path(features, in_place=True)

    def _mask(self, features: Tensor) -> Tensor:
        """Return the complex mask, ``(b, c, f, t)``, of features ``(b, bands, t, dim)``."""
        mask = self.mask_estimator(self.final_norm(features))
        mask = mask.unflatten(-1, (-1, self.config.streams, 2))  # (b, t, f, c, 2)
        mask = mask.float() if mask.dtype != torch.float64 else mask
        if self.config.mask == "real":
            mask = mask.tanh()
        return torch.view_as_complex(mask).permute(0, 3, 2, 1)

    def _masked(self, spec: Tensor, mask: Tensor) -> Tensor:
        """Apply a mask to a spectrogram of its shape."""
        if self.config.mask == "real":
            return torch.complex(spec.real * mask.real, spec.imag * mask.imag)
        return spec * mask

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part, and in all (``total``)."""
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()}
        counts = {name: n for name, n in counts.items() if n}
        return counts | {"total": sum(counts.values())}
