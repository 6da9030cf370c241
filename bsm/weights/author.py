"""The author's layout of the weights: its names and shapes, and the sizes that its tensors show.

Facts from the author's code (EuiYeonKim/BSMamba2, revision 42eb8c8). The author's file is a Lightning checkpoint whose
``state_dict`` has the names below after ``model.``; the compatible published checkpoint leaves that prefix out. Mixers
are the official Mamba2's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bsm.config import ModelConfig, StftConfig
from bsm.errors import InputError
from bsm.model import band_groups

NAMED = 4  # how many tensors a message names before it counts the rest
TRANSFORMS = ("featurizer.", "inverse_featurizer.", "multi_featurizer.", "augmentations.")
"""Names of other parts of the Lightning module: transforms whose Hann windows are saved with it."""

# Ours -> the author's; a name that is not here is the same in both.
_BLOCKS = {
    r"^dual_path\.layers\.": "layers.",
    r"\.forward_direction\.": ".forward_blocks.0.",
    r"\.backward_direction\.": ".backward_blocks.0.",
    r"\.proj\.": ".linear.",
}
# The author has tensors for each band; {} is the band's number.
_BANDS = {"band_split": "band_split.to_features.{}.", "mask_estimator": "mask_estimators.0.to_freqs.{}.0."}
_GROUP = re.compile(r"(band_split|mask_estimator)\.groups\.(\d+)\.(.+)")


def author_names(name: str, bands: tuple[int, ...]) -> list[str]:
    """Return the author's names, without ``model.``, for one of our tensors: one, or one for each band of its group."""
    if match := _GROUP.fullmatch(name):
        counts = [count for _, count in band_groups(list(bands))]
        group = int(match[2])
        first = sum(counts[:group])
        return [_BANDS[match[1]].format(band) + match[3] for band in range(first, first + counts[group])]
    for ours, author in _BLOCKS.items():
        name = re.sub(ours, author, name)
    return [name]


def to_author(state: dict[str, Tensor], bands: tuple[int, ...]) -> dict[str, Tensor]:
    """Convert our tensors to the author's names, without ``model.``, and shapes. They share memory where possible."""
    made = {}
    for name, value in state.items():
        names = author_names(name, bands)
        if _GROUP.fullmatch(name):
            parts = [part if name.endswith("weight") else part.flatten() for part in value.unbind()]
        else:  # the projection is a ConvTranspose1d of kernel 1: its weight is (in, out, 1); a damaged one may be a row
            parts = [value.mT[..., None] if name.endswith(".proj.weight") and value.ndim > 1 else value]
        made |= zip(names, parts, strict=True)
    return made


def exported(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a BSMamba2's tensors on the CPU in the author's layout, as :func:`to_author` names them."""
    # Copies, because torch.save would store a whole group of bands with each view of it.
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in to_author(model.state_dict(), model.config.bands).items()
    }


def from_author(tensors: dict[str, Tensor], like: dict[str, Tensor], bands: tuple[int, ...]) -> dict[str, Tensor]:
    """Convert the author's tensors to ours; the reverse of :func:`to_author`. ``like`` is our ``state_dict``."""
    made = {}
    for name, wanted in like.items():
        parts = [tensors[author] for author in author_names(name, bands)]
        if _GROUP.fullmatch(name):
            made[name] = torch.stack(parts).view(wanted.shape)
        else:
            made[name] = parts[0][..., 0].mT if name.endswith(".proj.weight") else parts[0]
    return made


def from_first_layout(tensors: dict[str, Any]) -> dict[str, Any]:
    """Convert the tensors of bsm 0.1, one per band under names of its own, to the author's layout."""
    masks, theirs = r"^mask_estimator\.to_mask\.(\d+)\.", r"mask_estimators.0.to_freqs.\1.0."
    return {re.sub(masks, theirs, name): value for name, value in to_author(tensors, ()).items()}


def infer_config(tensors: dict[str, Any]) -> ModelConfig:
    """Read a model's sizes off the shapes of its tensors, by the author's names without ``model.``.

    Each size is read off any tensor that shows it: if one is missing, the caller can name it. If the FFT's length is no
    power of two, and the shapes fit both stereo and mono with twice the bins, stereo is assumed.

    Raises:
        InputError: the tensors are of another kind of model, or their sizes contradict each other.
    """
    shapes = {name: value.shape for name, value in tensors.items() if isinstance(value, Tensor)}

    def size(what: str, *patterns: tuple[str, int]) -> int:
        for pattern, axis in patterns:
            for name, shape in shapes.items():
                if re.fullmatch(pattern, name) and len(shape) > axis:
                    return shape[axis]
        raise InputError(
            f"holds no tensor of this model that shows its {what} ({len(tensors)} tensors: {some(sorted(tensors))})"
        )

    def count(pattern: str) -> int:
        return max((int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match), default=-1) + 1

    feature, mask, block = r"band_split\.to_features", r"mask_estimators\.0\.to_freqs", r"layers\.\d+\.[01]\."
    mixer = block + r"(?:for|back)ward_blocks\.0\.mixer\."
    dim = size("features", (r"final_norm\.gamma", 0), (rf"{feature}\.\d+\.1\.(?:bias|weight)", 0))
    inner = size("mixer's width", (mixer + r"norm\.weight", 0), (mixer + r"out_proj\.weight", 1))
    heads = size("heads", (mixer + "(?:dt_bias|A_log|D)", 0))
    convolved = size("convolution", (mixer + r"conv1d\.(?:weight|bias)", 0))
    hidden = size("mask estimator", (rf"{mask}\.\d+\.0\.0\.(?:weight|bias)", 0))
    if inner % dim or inner % heads or hidden % dim or (convolved - inner) % 2 or convolved <= inner:
        raise InputError(
            f"sizes that fit no model: features {dim}, mixer {inner}, heads {heads}, convolution {convolved}, "
            f"mask estimator {hidden}"
        )
    numbers = [
        size(f"band {band}", (rf"{feature}\.{band}\.0\.gamma", 0), (rf"{feature}\.{band}\.1\.weight", 1))
        for band in range(max(count(rf"{feature}\.(\d+)\."), count(rf"{mask}\.(\d+)\.")))
    ]
    channels = _channels(numbers)
    widths = tuple(n // (2 * channels) for n in numbers)
    return ModelConfig(
        channels=channels,
        stft=StftConfig(n_fft=2 * (sum(widths) - 1)),
        bands=widths,
        dim=dim,
        depth=count(r"layers\.(\d+)\."),
        d_state=(convolved - inner) // 2,
        headdim=inner // heads,
        expand=inner // dim,
        d_conv=size("convolution's taps", (mixer + r"conv1d\.weight", 2)),
        mask_expansion=hidden // dim,
    )


def _channels(numbers: list[int]) -> int:
    """Return 2 or 1 by the numbers per band, ``2 * channels * width``: the FFT's length should be a power of two."""
    fitting = [c for c in (2, 1) if all(n and n % (2 * c) == 0 for n in numbers)]
    if not fitting:
        raise InputError(f"bands of an odd number of values: {numbers}")
    bins = {c: sum(numbers) // (2 * c) for c in fitting}
    return next((c for c in fitting if bins[c] > 1 and (bins[c] - 1).bit_count() == 1), fitting[0])


def some(names: Iterable[str], separator: str = ", ") -> str:
    """Join the first :data:`NAMED` names, and say how many more there are."""
    names = list(names)
    more = len(names) - NAMED
    return separator.join([*names[:NAMED], *([f"and {more} more"] if more > 0 else [])])
