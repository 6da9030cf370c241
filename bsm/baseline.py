"""The paper's yardstick: BS-RoFormer, of the package bs-roformer, behind the same interface as BSMamba2."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm import bands
from bsm.config import ModelConfig, StftConfig, _Config, check_bands
from bsm.errors import BackendUnavailable, InputError
from bsm.model import BSMamba2

PARTS = {
    "band_split": "band_split",
    "layers": "dual_path",
    "final_norm": "final_norm",
    "mask_estimators": "mask_estimator",
}
"""The package's name of each part, and ours."""
PACKAGE_MASK_EXPANSION = 4  # its own, which its constructor does not let one change


@dataclass(frozen=True)
class RoformerConfig(_Config):
    """The yardstick's sizes. The defaults stand beside the paper's BSMamba2: same transform, bands, width and depth.

    Attributes:
        sample_rate: Hz.
        channels: audio channels, 1 or 2.
        stft: analysis and synthesis transform.
        bands: band widths in bins; they sum to ``stft.bins``.
        dim: features per band and frame.
        depth: layers, each one transformer block over time and one over bands.
        heads: attention heads.
        dim_head: features of a head; even, and at least 4.
        mask_expansion: hidden width of the mask estimator as a multiple of ``dim``.
    """

    sample_rate: int = 44100
    channels: int = 2
    stft: StftConfig = field(default_factory=StftConfig)
    bands: tuple[int, ...] = bands.PAPER
    dim: int = 256
    depth: int = 6
    heads: int = 8
    dim_head: int = 48
    mask_expansion: int = 4

    def __post_init__(self) -> None:
        check_bands(self.bands, self.stft)
        if self.channels not in (1, 2):
            raise InputError(f"BS-RoFormer takes 1 or 2 channels, not {self.channels}")
        if self.dim_head < 4 or self.dim_head % 2:
            raise InputError(f"rotary positions need an even dim_head of at least 4, not {self.dim_head}")

    @classmethod
    def beside(cls, config: ModelConfig) -> RoformerConfig:
        """Return the yardstick of a BSMamba2: what both have is equal, attention keeps 8 heads of 48."""
        shared = cls.__dataclass_fields__.keys() & ModelConfig.__dataclass_fields__.keys()
        return cls(**{name: getattr(config, name) for name in shared})

    @classmethod
    def matched(cls, config: ModelConfig) -> RoformerConfig:
        """Return the yardstick with as many parameters as a BSMamba2: :meth:`beside`, its heads widened or narrowed.

        Raises:
            BackendUnavailable: bs-roformer is not installed.
        """
        base = cls.beside(config)
        with torch.device("meta"):
            wanted = BSMamba2(config).parameter_counts()["total"]
            narrow, wide = (BSRoformer(base.replace(dim_head=d)).parameter_counts()["total"] for d in (4, 8))
        # The count is a straight line over the heads' width, which has to be even.
        return base.replace(dim_head=max(4, 4 + 2 * round(2 * (wanted - narrow) / (wide - narrow))))


class BSRoformer(nn.Module):
    """``(batch, channels, samples)`` in, the estimated vocals, same shape, out.

    Architecture: Lu et al., arXiv 2309.02612, as bs-roformer 1.2 has it, with rotary positions, fused attention, and
    one residual stream, which leaves out the package's hyper-connections.
    """

    def __init__(self, config: RoformerConfig) -> None:
        """Build it with random weights.

        Raises:
            BackendUnavailable: bs-roformer is not installed.
        """
        super().__init__()
        try:
            from bs_roformer.bs_roformer import BSRoformer as Network  # slow to import
            from bs_roformer.bs_roformer import MaskEstimator
        except ImportError as error:
            raise BackendUnavailable(f"the comparison needs bs-roformer ({error}): pip install bs-roformer") from error
        self.config = config
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A window was not provided")  # it only counts the bins
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
            # It keeps the angles it first computes, in its input's precision: bfloat16 cannot count to 801 frames.
            rotary(torch.arange(rotary.cache_max_seq_len).float(), seq_len=rotary.cache_max_seq_len)

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate the vocals of a mixture of any length >= 1.

        The package needs more than half an FFT and gives back whole hops: the end is filled up with zeros and cut.

        Args:
            mixture: ``(batch, channels, samples)`` at ``config.sample_rate``, float32.

        Raises:
            ValueError: another number of dimensions or channels, or no samples.
        """
        config, samples = self.config, mixture.shape[-1]
        if mixture.ndim != 3 or mixture.shape[1] != config.channels or samples == 0:
            raise ValueError(
                f"mixture must be (batch, channels={config.channels}, samples >= 1), got {tuple(mixture.shape)}"
            )
        hop = config.stft.hop_length
        whole = -(-max(samples, config.stft.n_fft // 2 + 1) // hop) * hop
        with warnings.catch_warnings():
            # How the package chooses its attention kernel: true, and nothing that a caller could mend.
            warnings.filterwarnings("ignore", ".*sdp_kernel.* is deprecated", FutureWarning)
            return self.network(F.pad(mixture, (0, whole - samples)))[..., :samples]

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part, by BSMamba2's names, and in all (``total``)."""
        counts = {
            ours: sum(p.numel() for p in getattr(self.network, name).parameters()) for name, ours in PARTS.items()
        }
        return counts | {"total": sum(p.numel() for p in self.parameters())}


def _in_full_precision(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
    """Return a layer's result as float32 at least: complex numbers know no bfloat16."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
