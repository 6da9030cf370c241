"""Configurations: frozen dataclasses that travel with every checkpoint and result file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from bsm import bands
from bsm.errors import InputError


class _Config:
    """Conversion to and from plain dictionaries, shared by every configuration."""

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the configuration from :meth:`to_dict`'s result.

        Raises:
            InputError: a name that the configuration does not have.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise InputError(f"{cls.__name__} has no {', '.join(unknown)}; it has: {', '.join(fields)}")
        nested = {"stft": StftConfig, "loss": LossConfig}
        made = {}
        for name, value in values.items():
            if name in nested and isinstance(value, dict):
                value = nested[name].from_dict(value)
            made[name] = tuple(value) if isinstance(value, list) else value
        return cls(**made)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some values changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class StftConfig(_Config):
    """Short-time Fourier transform: centred, reflected at the ends, Hann window (author's code)."""

    n_fft: int = 2048
    hop_length: int = 441

    @property
    def bins(self) -> int:
        """Number of frequency bins, ``n_fft // 2 + 1``."""
        return self.n_fft // 2 + 1


@dataclass(frozen=True)
class ModelConfig(_Config):
    """The network's sizes. The defaults are the paper's model: 48,098,188 parameters.

    Attributes:
        sample_rate: Hz.
        channels: audio channels, 2 for stereo.
        stft: analysis and synthesis transform.
        bands: band widths in bins; they sum to ``stft.bins``.
        dim: features per band and frame.
        depth: dual-path layers, each a time block and a band block.
        d_state: state size N of the scan, per head.
        headdim: channels per head.
        expand: inner channels of a mixer as a multiple of ``dim``.
        d_conv: taps of the causal convolution.
        mask_expansion: hidden width of the mask estimator as a multiple of ``dim``.
        scan_backend: see :func:`bsm.scan.scan`.
    """

    sample_rate: int = 44100
    channels: int = 2
    stft: StftConfig = field(default_factory=StftConfig)
    bands: tuple[int, ...] = bands.PAPER
    dim: int = 256
    depth: int = 6
    d_state: int = 128
    headdim: int = 64
    expand: int = 4
    d_conv: int = 4
    mask_expansion: int = 4
    scan_backend: str = "auto"

    def __post_init__(self) -> None:
        if sum(self.bands) != self.stft.bins:
            raise InputError(f"bands sum to {sum(self.bands)} bins, the STFT has {self.stft.bins}")
        if (self.dim * self.expand) % self.headdim:
            raise InputError(f"headdim {self.headdim} does not divide dim * expand = {self.dim * self.expand}")

    @property
    def d_inner(self) -> int:
        """Inner channels of a mixer."""
        return self.dim * self.expand

    @property
    def heads(self) -> int:
        """Heads of a mixer."""
        return self.d_inner // self.headdim

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """Return a named size: ``paper``, ``vram``, ``small`` or ``tiny``.

        ``vram`` is the reduced configuration of the seed reports (dim 192, 4 layers, 48 equal bands); ``small`` is the
        paper's design at dim 64 and 2 layers; ``tiny`` is what two CPU cores can train in minutes, with half the
        paper's frames per second.

        Raises:
            InputError: an unknown name.
        """
        if name not in _PRESETS:
            raise InputError(f"unknown model preset {name!r}; choose one of {', '.join(_PRESETS)}")
        return cls(**_PRESETS[name])


_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "vram": {"dim": 192, "depth": 4, "bands": bands.equal(1025, 48)},
    "small": {"dim": 64, "depth": 2},
    "tiny": {
        "stft": StftConfig(hop_length=882),
        "dim": 32,
        "depth": 2,
        "d_state": 32,
        "headdim": 32,
        "expand": 2,
        "mask_expansion": 2,
    },
}


@dataclass(frozen=True)
class LossConfig(_Config):
    """The training loss (REFERENCE: author's defaults); the other values exist for the ablations.

    Attributes:
        windows: STFT window lengths in samples, one term each.
        hop_length: samples between frames, for every window.
        min_fft: transforms are at least this long; shorter windows are zero-padded to it.
        waveform_weight: factor of the waveform L1.
        magnitude: compare magnitudes instead of complex values (blind to phase).
        mean: average the windows' terms instead of summing them.
        center: centred frames with reflection at the ends.
    """

    windows: tuple[int, ...] = (4096, 2048, 1024, 512, 256)
    hop_length: int = 147
    min_fft: int = 2048
    waveform_weight: float = 10.0
    magnitude: bool = False
    mean: bool = False
    center: bool = True


@dataclass(frozen=True)
class TrainConfig(_Config):
    """Optimisation and sampling; the defaults are the author's, per process.

    Attributes:
        steps: optimiser updates.
        batch_size: segments per process and forward pass.
        accumulate: forward passes per update.
        segment_seconds: length of a training segment, s.
        lr: AdamW learning rate, constant.
        clip: gradient norm ceiling.
        ema_decay: decay of the averaged weights, which are the ones evaluated and published.
        validate_every: updates between validations.
        checkpoint_every: updates between checkpoints.
        workers: data loader processes; 0 reads in the main process.
        precision: Lightning Fabric's name, such as ``32-true`` or ``bf16-mixed``.
        seed: seeds the initial weights and the sampled segments.
        silence_probability: chance that a source is left out of a training mixture.
        gain: range of the uniform gain of each source.
        loss: the training loss.
    """

    steps: int = 200_000
    batch_size: int = 5
    accumulate: int = 6
    segment_seconds: float = 8.0
    lr: float = 5e-4
    clip: float = 3.0
    ema_decay: float = 0.999
    validate_every: int = 100
    checkpoint_every: int = 100
    workers: int = 2
    precision: str = "bf16-mixed"
    seed: int = 0
    silence_probability: float = 0.1
    gain: tuple[float, float] = (0.5, 1.5)
    loss: LossConfig = field(default_factory=LossConfig)
