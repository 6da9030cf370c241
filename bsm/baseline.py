"""The paper's baseline: BS-RoFormer, from the package bs-roformer, behind the same interface as BSMamba2."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm import bands
from bsm.config import ModelConfig, StftConfig, _Config, check_bands
from bsm.errors import BackendUnavailable, InputError
from bsm.mamba2 import count_parameters
from bsm.model import BSMamba2, check_mixture

PARTS = {
    "band_split": "band_split",
    "layers": "dual_path",
    "final_norm": "final_norm",
    "mask_estimators": "mask_estimator",
}
"""The package's name of each part -> ours."""
PACKAGE_MASK_EXPANSION = 4  # the package's constructor fixes it


@dataclass(frozen=True)
class RoformerConfig(_Config):
    """The baseline's sizes. The defaults match the paper's BSMamba2: same transform, bands, width and depth."""

    sample_rate: int = 44100  # Hz
    channels: int = 2  # of the audio, 1 or 2
    stft: StftConfig = field(default_factory=StftConfig)
    bands: tuple[int, ...] = bands.PAPER  # widths in bins; their sum is stft.bins
    dim: int = 256  # features per band and frame
    depth: int = 6  # layers, each one transformer block over time and one over bands
    heads: int = 8  # of attention
    dim_head: int = 48  # features of a head; even, and at least 4
    mask_expansion: int = 4  # hidden width of the mask estimator as a multiple of dim

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bands(self.bands, self.stft)
        if self.channels not in (1, 2):
            raise InputError(f"BS-RoFormer takes 1 or 2 channels, not {self.channels}")
        if self.dim_head < 4 or self.dim_head % 2:
            raise InputError(f"rotary positions need an even dim_head of at least 4, not {self.dim_head}")

    @classmethod
    def like(cls, config: ModelConfig) -> RoformerConfig:
        """Return the baseline with the settings that it shares with a BSMamba2; attention has 8 heads of 48."""
        shared = cls.__dataclass_fields__.keys() & ModelConfig.__dataclass_fields__.keys()
        return cls(**{name: getattr(config, name) for name in shared})

    @classmethod
    def matched(cls, config: ModelConfig) -> RoformerConfig:
        """Return :meth:`like` with heads so wide that it has about as many parameters as the BSMamba2."""
        base = cls.like(config)
        with torch.device("meta"):
            wanted = count_parameters(BSMamba2(config))
            narrow, wide = (count_parameters(BSRoformer(base.replace(dim_head=d))) for d in (4, 8))
        # The count grows linearly with the heads' width, and that width must be even.
        return base.replace(dim_head=max(4, 4 + 2 * round(2 * (wanted - narrow) / (wide - narrow))))


class BSRoformer(nn.Module):
    """Separate vocals: mixture ``(batch, channels, samples)`` in, estimated vocals of the same shape out.

    The architecture is that of Lu et al. (arXiv 2309.02612), as bs-roformer 1.2 implements it with rotary positions and
    fused attention. With one residual stream, the package uses no hyper-connections. Without the package, building
    raises BackendUnavailable.
    """

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        try:
            from bs_roformer.bs_roformer import BSRoformer as Network  # slow to import
            from bs_roformer.bs_roformer import MaskEstimator
        except ImportError as error:
            raise BackendUnavailable(f"BS-RoFormer needs bs-roformer ({error}): pip install bs-roformer") from error
        self.config = config
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A window was not provided")  # the package only counts the bins here
            self.network = Network(
                dim=config.dim,
                depth=config.depth,
                stereo=config.channels == 2,
                time_transformer_depth=1,
                freq_transformer_depth=1,
                freqs_per_bands=tuple(config.bands),
                heads=config.heads,
                dim_head=config.dim_head,
                num_residual_streams=1,
                dim_freqs_in=config.stft.bins,
                stft_n_fft=config.stft.n_fft,
                stft_win_length=config.stft.n_fft,
                stft_hop_length=config.stft.hop_length,
            )
        if config.mask_expansion != PACKAGE_MASK_EXPANSION:
            widths = tuple(2 * config.channels * width for width in config.bands)
            estimator = MaskEstimator(config.dim, widths, depth=2, mlp_expansion_factor=config.mask_expansion)
            self.network.mask_estimators = nn.ModuleList([estimator])
        for estimator in self.network.mask_estimators:
            estimator.register_forward_hook(_in_full_precision)
        for rotary in {m for m in self.network.modules() if type(m).__name__ == "RotaryEmbedding"}:
            # The package caches the angles of its first call, in the precision of the input. bfloat16 has too few
            # digits for the numbers of 801 frames.
            rotary(torch.arange(rotary.cache_max_seq_len).float(), seq_len=rotary.cache_max_seq_len)

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals of a mixture of any length >= 1 at ``config.sample_rate``, float32.

        The package needs more samples than half an FFT, and returns whole hops. So the end is padded with zeros, and
        cut afterwards. Another number of dimensions or channels is a ValueError.
        """
        config, samples = self.config, check_mixture(mixture, self.config.channels)
        hop = config.stft.hop_length
        whole = -(-max(samples, config.stft.n_fft // 2 + 1) // hop) * hop
        with warnings.catch_warnings():
            # The package chooses its attention kernel by a deprecated call, which a caller cannot change.
            warnings.filterwarnings("ignore", ".*sdp_kernel.* is deprecated", FutureWarning)
            return self.network(F.pad(mixture, (0, whole - samples)))[..., :samples]

    def parameter_counts(self) -> dict[str, int]:
        """Count the parameters of each part, by BSMamba2's names, and of all (``total``)."""
        counts = {ours: count_parameters(getattr(self.network, name)) for name, ours in PARTS.items()}
        return counts | {"total": count_parameters(self)}


def _in_full_precision(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
    """Convert a layer's output to at least float32: there are no complex numbers in bfloat16."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
