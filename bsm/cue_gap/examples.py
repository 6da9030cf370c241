"""The probe's examples: what sounds when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bsm.cue_gap.voices import RATE, VOICES, sung, tone
from bsm.errors import known

VERSION = 1
TRAIN, VALID, TEST = range(3)  # first number of a split's seeds


@dataclass(frozen=True)
class Probe:
    """Settings of the examples of a training, and of the tests that follow it.

    Raises:
        InputError: there are no such voices.
    """

    longest_gap: float = 0.5  # in training, s; also called the training's range
    shortest_gap: float = 0.1  # in training, s
    longest_lead: float = 1.0  # lead-in in training, s; the shortest is 0
    cue: float = 0.4  # length of the cue, s
    play: float = 0.6  # length of the stretch with both voices, s
    voices: str = "tones"  # one of bsm.cue_gap.voices.VOICES

    def __post_init__(self) -> None:
        known("voices", self.voices, VOICES)


@dataclass(frozen=True)
class Condition:
    """What the examples of a question to a trained network have in common."""

    gap: float  # length of the gap, s
    lead: float = 0.5  # length of the background before the cue, s
    deleted: bool = False  # cut the gap out of the finished example, so that the play stretch follows the cue
    swapped: bool = False  # only the cue gets the other voice's timbre; the target is then the other voice


@dataclass(frozen=True)
class Example:
    """One example; all sounds are float32 ``(samples,)`` at :data:`RATE`."""

    mixture: np.ndarray  # the input of a network
    target: np.ndarray  # the wanted output: the cue, then silence, then the target's notes
    other: np.ndarray  # the other voice's notes
    cue: slice  # samples of the cue
    play: slice  # samples of the stretch with both voices


def background(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return quiet noise with three decaying bursts a second, ``(samples,)`` float64."""
    sound = 0.01 * rng.standard_normal(samples)
    for start in range(int(rng.integers(RATE // 4)), samples, RATE // 3):
        length = min(RATE // 8, samples - start)
        sound[start : start + length] += 0.08 * rng.standard_normal(length) * np.exp(-np.arange(length) / 0.02 / RATE)
    return sound


def example(seed: Sequence[int], condition: Condition, probe: Probe, timbre: int) -> Example:
    """Make one example.

    Args:
        seed: numbers that identify the example, such as split, seed and index. The first is the split; sung voices
            depend on it.
        condition: lengths of gap and lead-in, and interventions.
        probe: lengths of cue and play stretch, and the kind of voices.
        timbre: of the target, 0 or 1. The notes do not depend on it.
    """
    lead, cue, gap, play = (round(RATE * s) for s in (condition.lead, probe.cue, condition.gap, probe.play))
    begin, end = lead + cue + gap, lead + cue + gap + play
    streams = [np.random.default_rng([VERSION, *seed, part]) for part in range(4)]  # each part has its own
    voice = tone if probe.voices == "tones" else partial(sung, split=seed[0])
    target, other = np.zeros(end), np.zeros(end)
    target[begin:], other[begin:] = voice(streams[0], play, timbre), voice(streams[1], play, 1 - timbre)
    if condition.swapped:
        target, other, timbre = other, target, 1 - timbre
    target[lead : lead + cue] = voice(streams[2], cue, timbre)
    # Rounded to 16 bits, because the last digits of a sine differ between processors.
    target, other, noise = (np.round(v * 2**15) / 2**15 for v in (target, other, background(streams[3], end)))
    sounds = [sound.astype(np.float32) for sound in (target + other + noise, target, other)]
    if condition.deleted:
        sounds = [np.delete(sound, slice(lead + cue, begin)) for sound in sounds]
        begin, end = begin - gap, end - gap
    return Example(*sounds, cue=slice(lead, lead + cue), play=slice(begin, end))


def mixtures_and_targets(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Stack examples of one length: mixtures and targets, each ``(examples, 1, samples)``."""
    mixtures, targets = (np.stack([getattr(e, name) for e in examples]) for name in ("mixture", "target"))
    return torch.from_numpy(mixtures)[:, None], torch.from_numpy(targets)[:, None]
