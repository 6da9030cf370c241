"""The author's layout of the weights: its names, and the sizes that its tensors' shapes show.

Facts from the author's code (EuiYeonKim/BSMamba2, revision 42eb8c8): a Lightning checkpoint whose ``state_dict`` has
the names below after ``model.``; the compatible published checkpoint does without. Mixers are the official Mamba2's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from bsm.config import ModelConfig, StftConfig
from bsm.errors import InputError

PREFIX = "model."
BESIDE = ("featurizer.", "inverse_featurizer.", "multi_featurizer.", "augmentations.")
"""Parts of the Lightning module beside its ``model``: transforms, whose Hann windows are saved with it."""

# Ours on the left, the author's on the right; what is not here has the same name in both.
_NAMES = {
    r"dual_path\.layers\.": "layers.",
    r"\.forward_direction\.": ".forward_blocks.0.",
    r"\.backward_direction\.": ".backward_blocks.0.",
    r"\.proj\.": ".linear.",
    r"mask_estimator\.to_mask\.(\d+)\.": r"mask_estimators.0.to_freqs.\1.0.",
}


def author_name(name: str) -> str:
    """Return the author's name, without ``model.``, of one of our tensors."""
    for ours, author in _NAMES.items():
        name = re.sub(ours, author, name)
    return name


def to_author(name: str, value: Tensor) -> Tensor:
    """Shape one of our tensors as the author has it: the projection is a ConvTranspose1d of kernel 1, (in, out, 1)."""
    return value.mT[..., None] if name.endswith(".proj.weight") else value


def from_author(name: str, value: Tensor) -> Tensor:
    """Undo :func:`to_author`; ``name`` is ours. A tensor of another shape comes back as it is."""
    return value[..., 0].mT if name.endswith(".proj.weight") and value.ndim == 3 and value.shape[2] == 1 else value


def infer_config(tensors: dict[str, Any]) -> ModelConfig:
    """Read a model's sizes off the shapes of its tensors, by the author's names without ``model.``.

    Every size is looked for in all the tensors that show it, so that a missing one can still be named by the caller.
    With an FFT that is no power of two, stereo is assumed where the shapes would also fit mono of twice the bins.

    Raises:
        InputError: tensors of another kind of model, or of sizes that contradict each other.
    """
    shapes = {name: value.shape for name, value in tensors.items() if isinstance(value, Tensor)}

    def size(what: str, *patterns: tuple[str, int]) -> int:
        for pattern, axis in patterns:
            for name, shape in shapes.items():
                if re.fullmatch(pattern, name) and len(shape) > axis:
                    return shape[axis]
        raise InputError(f"holds no tensor of this model that shows its {what} ({_some(tensors)})")

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
    numbers = []
    for band in range(max(count(rf"{feature}\.(\d+)\."), count(rf"{mask}\.(\d+)\."))):
        own = (rf"{feature}\.{band}\.0\.gamma", 0), (rf"{feature}\.{band}\.1\.weight", 1)
        try:
            numbers.append(size(f"band {band}", *own))
        except InputError:
            numbers.append(size(f"band {band}", (rf"{mask}\.{band}\.0\.2\.(?:weight|bias)", 0)) // 2)
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
    """Tell stereo from mono by the numbers per band, ``2 * channels * width``: the FFT is a power of two."""
    fitting = [c for c in (2, 1) if all(n and n % (2 * c) == 0 for n in numbers)]
    if not fitting:
        raise InputError(f"bands of an odd number of values: {numbers}")
    bins = {c: sum(numbers) // (2 * c) for c in fitting}
    return next((c for c in fitting if bins[c] > 1 and (bins[c] - 1).bit_count() == 1), fitting[0])


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return f"{len(listed)} tensors: {', '.join(listed[:4])}{', ...' if len(listed) > 4 else ''}"
