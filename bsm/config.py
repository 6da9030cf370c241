"""Configurations: frozen dataclasses that travel with every checkpoint and result file."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from bsm import bands
from bsm.errors import InputError, known

_KINDS = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "float | None": (numbers.Real, "a number or none"),
    "str": (str, "text"),
    "bool": (bool, "true or false"),
    "tuple[int, ...]": (numbers.Integral, "a list of whole numbers"),
    "tuple[float, float]": (numbers.Real, "two numbers"),
}
"""Type of a field, as the classes below write it -> the type of its value or entries, and the words for a message."""


class _Config:
    """Convert a configuration to and from a plain dictionary, and check the types and ranges of its values."""

    _RANGES: ClassVar[dict[str, tuple[float, float]]] = {}
    """Smallest and largest value of fields, or of the entries of a list."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            if f.type not in _KINDS:
                continue
            (kind, words), value = _KINDS[f.type], getattr(self, f.name)
            several, optional = f.type.startswith("tuple"), f.type.endswith("None")
            entries = value if several and isinstance(value, tuple) else (value,) * (not optional or value is not None)
            typed = all(isinstance(v, kind) and (kind is bool or not isinstance(v, bool)) for v in entries)
            if not typed or several != isinstance(value, tuple):
                raise InputError(f"{f.name} must be {words}, not {value!r}")
            low, high = self._RANGES.get(f.name, (None, None))
            if low is not None and not all(low <= v <= high for v in entries):  # NaN is in no range
                most = f" and at most {high:g}" if math.isfinite(high) else ""
                raise InputError(f"{f.name} must be at least {low:g}{most}, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as a plain dictionary, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the configuration from :meth:`to_dict`'s result; a name that it does not have is an InputError."""
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

    n_fft: int = 2048  # samples of a frame, and of its window
    hop_length: int = 441  # samples from frame to frame

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.hop_length <= self.n_fft // 2:  # otherwise the last samples cannot be inverted
            raise InputError(f"STFT hop of {self.hop_length} samples: choose 1 to n_fft / 2 = {self.n_fft // 2}")

    @property
    def bins(self) -> int:
        """Number of frequency bins, ``n_fft // 2 + 1``."""
        return self.n_fft // 2 + 1


TIME_BLOCKS = ("mamba2", "attention", "attention-nopos", "lstm", "convolution", "none")
_STRUCTURE = {
    "time_block": TIME_BLOCKS,
    "directions": ("separate", "shared", "forward"),
    "merge": ("concat", "mean"),
    "mono": (False, True),
    "time_path": ("transposed", "reshaped"),
    "mask": ("complex", "real"),
}
"""The fields of :class:`ModelConfig` that choose a structure, and their values; the first is the author's."""


def check_bands(widths: tuple[int, ...], stft: StftConfig) -> None:
    """Raise an InputError unless band widths, in bins, sum to the bins of a transform."""
    if sum(widths) != stft.bins:
        raise InputError(f"bands sum to {sum(widths)} bins, but the STFT has {stft.bins}; change one of the two")


@dataclass(frozen=True)
class ModelConfig(_Config):
    """The network's sizes and structure. The defaults are the paper's model: 48,098,188 parameters.

    The last six fields are the author's by default. Their other values exist for the study's comparisons.
    """

    sample_rate: int = 44100  # Hz
    channels: int = 2  # of the audio
    stft: StftConfig = field(default_factory=StftConfig)
    bands: tuple[int, ...] = bands.PAPER  # widths of the K bands in bins; their sum is stft.bins
    dim: int = 256  # features D per band and frame
    depth: int = 6  # layers L of the dual path, each a time block and a band block
    d_state: int = 128  # state size N of the scan, per head
    headdim: int = 64  # channels P per head
    expand: int = 4  # inner channels of a mixer as a multiple E of dim
    d_conv: int = 4  # taps of the causal convolution
    mask_expansion: int = 4  # hidden width of the mask estimator as a multiple of dim
    scan_backend: str = "auto"  # see bsm.scan.scan
    time_block: str = "mamba2"  # what runs along the frames; see bsm.time_blocks
    directions: str = "separate"  # a mixer for each direction; or one shared by both; or forward only
    merge: str = "concat"  # of both directions' results, before the projection; or their mean
    mono: bool = False  # separate the average of the channels; every output channel then has the same estimate
    time_path: str = "transposed"  # a time block's row has one band; or reshaped: a row mixes bands and frames
    mask: str = "complex"  # an unbounded factor; or real: two factors, of real and imaginary part, bounded by tanh

    _SIZES = "sample_rate", "channels", "bands", "dim", "depth", "d_state", "headdim", "expand", "d_conv"
    _RANGES = dict.fromkeys((*_SIZES, "mask_expansion"), (1, math.inf))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in _STRUCTURE.items():
            known(name, getattr(self, name), choices)
        check_bands(self.bands, self.stft)
        if (self.dim * self.expand) % self.headdim:
            raise InputError(f"headdim {self.headdim} does not divide dim * expand = {self.dim * self.expand}")
        if self.time_block == "attention" and self.headdim % 2:
            raise InputError(f"rotary positions need an even headdim, not {self.headdim}")

    @property
    def streams(self) -> int:
        """Channels of the spectrogram that the network processes."""
        return 1 if self.mono else self.channels

    @property
    def ablated(self) -> list[str]:
        """Names of the fields of structure whose values are not the author's."""
        return [name for name, choices in _STRUCTURE.items() if getattr(self, name) != choices[0]]

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
        """Return a named size, one of :data:`PRESETS`; any other name is an InputError."""
        return cls(**PRESETS[known("model preset", name, PRESETS)])


_SMALL = {"dim": 64, "depth": 2}
_TINY = {"dim": 32, "depth": 2, "d_state": 32, "headdim": 32, "expand": 2, "mask_expansion": 2}
_16K = {"sample_rate": 16000, "channels": 1, "bands": bands.PAPER_16K}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The reduced size of the unofficial implementation.
    "vram": {"dim": 192, "depth": 4, "bands": bands.equal(1025, 48)},
    "small": _SMALL,
    # With half the paper's frames per second, two CPU cores train it in minutes.
    "tiny": {"stft": StftConfig(hop_length=882), **_TINY},
    # For 16 kHz mono; frames and bands keep the paper's durations and frequencies.
    "small-16k": {"stft": StftConfig(744, 160), **_16K, **_SMALL},
    "tiny-16k": {"stft": StftConfig(744, 320), **_16K, **_TINY},
    # The study's base: coarser bands, and frames every 22.5 ms. It learns most per minute of a CPU core.
    "study-16k": {"stft": StftConfig(720, 360), **_16K, "bands": bands.COARSE_16K, **_TINY},
    # The base with twice the channels. It is no better on singers that it never heard (the report's table singer_arms).
    "wide-16k": {"stft": StftConfig(720, 360), **_16K, "bands": bands.COARSE_16K, **_TINY, "dim": 64},
    # For the probe of memory (bsm.cue_gap): 10 bands, frames every 32 ms.
    "probe-8k": {"sample_rate": 8000, "channels": 1, "stft": StftConfig(512, 256), "bands": bands.COARSE_8K, **_TINY},
}
"""Named sizes of the network. Each lists its differences from the paper's."""


@dataclass(frozen=True)
class LossConfig(_Config):
    """The training loss. The defaults are those of the author's code, for 44.1 kHz."""

    windows: tuple[int, ...] = (4096, 2048, 1024, 512, 256)  # of the STFT, in samples; one term each
    hop_length: int = 147  # samples between frames, for every window
    min_fft: int = 2048  # smallest transform in samples; a shorter window is zero-padded to it
    waveform_weight: float = 10.0  # factor of the waveform's L1 term
    magnitude: bool = False  # compare magnitudes instead of complex values; this ignores phase
    mean: bool = False  # average the terms of the windows instead of summing them
    center: bool = True  # centre the frames, with reflection at the ends
    blind: bool = False  # compare spectra with silence instead of the target, a control that must learn less

    _RANGES = dict.fromkeys(("windows", "hop_length", "min_fft"), (1, math.inf)) | {"waveform_weight": (0, math.inf)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.windows:
            raise InputError("windows of the loss: choose at least one")

    @classmethod
    def at_rate(cls, rate: int) -> Self:
        """Return the paper's loss for another sample rate in Hz: windows and hop have the same durations.

        A window is the nearest multiple of 8 without a prime factor above 5, within 4 % from 16 kHz on: a Fourier
        transform of 744 = 24 x 31 samples takes seven times as long as one of 720.
        """
        from scipy.fft import next_fast_len, prev_fast_len

        def nearest(samples: float) -> int:
            eighth = max(1, round(samples / 8))
            around = (8 * find(eighth, real=True) for find in (prev_fast_len, next_fast_len))
            return min(around, key=lambda length: abs(length - samples))

        paper, scale = cls(), rate / 44100
        return paper.replace(
            windows=tuple(nearest(window * scale) for window in paper.windows),
            hop_length=max(1, round(paper.hop_length * scale)),
            min_fft=nearest(paper.min_fft * scale),
        )


SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "muon")
NO_EFFECT = ("workers", "checkpoint_every", "keep_best", "max_skipped", "checkpoint_gradients")
"""Fields of :class:`TrainConfig` that do not change a training's weights. A run may go on with other values of them."""


@dataclass(frozen=True)
class TrainConfig(_Config):
    """Optimisation and sampling. The defaults are the author's, but for one process; the preset ``paper`` has two."""

    steps: int = 200_000  # optimiser updates
    batch_size: int = 5  # segments per process and forward pass
    accumulate: int = 6  # forward passes per update and process
    processes: int = 1  # for which `accumulate` is meant; with another number, each makes more or fewer passes
    segment_seconds: float = 8.0  # length of a training segment
    window_seconds: float | None = None  # length of the window that must be active; None: that of the segment
    optimizer: str = "adamw"  # or muon, see bsm.optimizer
    lr: float = 5e-4  # learning rate, the highest of the schedule
    schedule: str = "constant"  # or cosine, which falls to 0 at the last update
    warmup: int = 0  # updates over which the learning rate first rises linearly
    clip: float = 3.0  # largest norm of the gradient
    ema_decay: float = 0.999  # of the averaged weights, which are evaluated and published
    validate_every: int = 100  # updates
    patience: int = 0  # validations without a better uSDR before an early stop; 0 for none
    keep_best: int = 3  # averaged weights that are kept, by validation uSDR
    checkpoint_every: int = 100  # updates
    max_skipped: int = 10  # updates in a row skipped for a loss or gradient that is not finite, before training fails
    checkpoint_gradients: bool = False  # compute each block again for its gradients: less memory, more time
    workers: int = 2  # data loader processes; 0 reads in the main process
    precision: str = "bf16-mixed"  # Lightning Fabric's name
    seed: int = 0  # of the initial weights and of the sampled segments
    silence_probability: float = 0.1  # that a source is left out of a training mixture
    gain: tuple[float, float] = (0.5, 1.5)  # range of the uniform gain of each source
    transpose: int = 0  # semitones by which a source is played higher and faster, or lower and slower, at most
    loss: LossConfig = field(default_factory=LossConfig)

    _SIZES = "steps", "batch_size", "accumulate", "processes", "validate_every", "checkpoint_every"
    _RANGES = (
        dict.fromkeys((*_SIZES, "keep_best", "max_skipped"), (1, math.inf))
        | dict.fromkeys(("workers", "transpose", "patience", "seed", "lr", "clip", "gain"), (0, math.inf))
        | dict.fromkeys(("segment_seconds", "window_seconds"), (0, math.inf))
        | dict.fromkeys(("ema_decay", "silence_probability"), (0, 1))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.gain) != 2 or self.gain[0] > self.gain[1]:
            raise InputError(f"gain must be two numbers, the smaller one first, not {self.gain!r}")
        known("schedule", self.schedule, SCHEDULES)
        known("optimizer", self.optimizer, OPTIMIZERS)
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"warmup of {self.warmup} updates: choose 0 to fewer than steps = {self.steps}")

    @property
    def update_segments(self) -> int:
        """Segments of an update, over all processes and passes."""
        return self.batch_size * self.accumulate * self.processes

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the update that follows ``step`` others."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return named settings, one of :data:`TRAIN_PRESETS`; any other name is an InputError."""
        return cls(**TRAIN_PRESETS[known("training preset", name, TRAIN_PRESETS)])


TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    # The author's code on two GPUs: 60 segments per update, at most 2000 epochs of 100 updates each.
    "paper": {"processes": 2},
    # For the size study-16k on one CPU core. The loss has the durations of the paper's windows within 4 %, every 5 ms.
    "study": {
        "steps": 4000,
        "batch_size": 2,
        "accumulate": 1,
        "segment_seconds": 1.0,
        # The author's 8 s leave many segments without vocals, and small models then learn silence first.
        "window_seconds": 2.0,
        "lr": 4e-3,
        "schedule": "cosine",
        "warmup": 50,
        "ema_decay": 0.99,
        "validate_every": 200,
        "checkpoint_every": 200,
        "keep_best": 1,
        "workers": 0,
        "precision": "32-true",
        "loss": LossConfig(windows=(1440, 720, 360, 180, 90), hop_length=80, min_fft=720),
    },
}
"""Named training settings. Each lists its differences from the author's."""
