"""The probe's examples: what sounds when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bsm.cue_gap.voices import phrases

VERSION = 1
RATE = 8000  # Hz
# Formants of the two timbres: (centre, width) in Hz of each.
TIMBRES = (((600, 120), (1100, 200)), ((1700, 250), (2600, 300)))
LOWEST, SEMITONES = 110.0, 25  # pitch of the lowest note in Hz, and number of notes
LEVEL = 0.1  # RMS of a voice
VOICES = ("tones", "sung")
TRAIN, VALID, TEST = range(3)  # first number of a split's seeds


@dataclass(frozen=True)
class Probe:
    """What examples look like in training.

    Attributes:
        longest_gap: training gaps lie between ``shortest_gap`` and this, s. It is the training's range.
        shortest_gap: s.
        longest_lead: training lead-ins lie between 0 and this, s.
        cue: length of the cue, s.
        play: length of the stretch with both voices, s.
        voices: ``tones`` (:func:`tone`) or ``sung`` (:mod:`bsm.cue_gap.voices`).

    Raises:
        ValueError: ``voices`` is neither.
    """

    longest_gap: float = 0.5
    shortest_gap: float = 0.1
    longest_lead: float = 1.0
    cue: float = 0.4
    play: float = 0.6
    voices: str = "tones"

    def __post_init__(self) -> None:
        if self.voices not in VOICES:
            raise ValueError(f"voices must be one of {', '.join(VOICES)}, not {self.voices!r}")


@dataclass(frozen=True)
class Condition:
    """What is asked of a trained network.

    Attributes:
        gap: s.
        lead: s of background before the cue.
        deleted: cut the gap out of the finished example, so that the play stretch follows the cue.
        swapped: give the cue the other voice's timbre and leave everything else as it is; the target is then the other
            voice.
    """

    gap: float
    lead: float = 0.5
    deleted: bool = False
    swapped: bool = False


@dataclass(frozen=True)
class Example:
    """One example; all sounds are float32 ``(samples,)`` at :data:`RATE`.

    Attributes:
        mixture: what a network hears.
        target: what it should give: the cue, then silence, then the target's notes.
        other: the other voice's notes.
        cue: samples of the cue.
        play: samples in which both voices sound.
    """

    mixture: np.ndarray
    target: np.ndarray
    other: np.ndarray
    cue: slice
    play: slice


def tone(rng: np.random.Generator, samples: int, timbre: int) -> np.ndarray:
    """Return random notes with vibrato, ``(samples,)`` float64: harmonics weighted by a timbre's formants.

    Notes last 0.15 to 0.5 s. A fifth of them are rests, but never the first, so that no voice is silent throughout.
    """
    sound = np.zeros(samples)
    start = 0
    while start < samples:
        length = min(int(RATE * rng.uniform(0.15, 0.5)), samples - start)
        rest = start > 0 and rng.random() < 0.2
        pitch = LOWEST * 2 ** (rng.integers(SEMITONES) / 12)  # Hz
        vibrato, phases = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi, 40)
        if not rest:
            sound[start : start + length] = _note(pitch, vibrato, phases, length, timbre)
        start += length
    return LEVEL * sound / np.sqrt(np.square(sound).mean())


def _note(pitch: float, vibrato: float, phases: np.ndarray, length: int, timbre: int) -> np.ndarray:
    time = np.arange(length) / RATE
    turn = 2 * np.pi * np.cumsum(pitch * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time + vibrato))) / RATE
    harmonics = np.arange(1, int(0.45 * RATE / pitch) + 1)
    formants = (np.exp(-0.5 * ((harmonics * pitch - centre) / width) ** 2) for centre, width in TIMBRES[timbre])
    weights = (0.03 + sum(formants)) * np.exp(1j * phases[: len(harmonics)])
    step = np.exp(1j * turn)
    sound, power = np.zeros(length), step.copy()
    for weight in weights:  # powers of one phasor: several times faster than a sine for each harmonic
        sound += (weight * power).imag
        power *= step
    edge = np.minimum(np.arange(length), np.arange(length)[::-1])  # samples to the nearer end of the note
    return sound * np.minimum(1, edge / (0.02 * RATE))


def sung(rng: np.random.Generator, samples: int, timbre: int, split: int) -> np.ndarray:
    """Return a random piece of a random phrase of a singer, ``(samples,)`` float64.

    Raises:
        ValueError: No phrase is as long.
        InputError: A package for demo songs is not installed.
    """
    pitch = round(69 + 12 * np.log2(LOWEST / 440))
    own = phrases(split, timbre, RATE, pitch, SEMITONES)
    phrase = own[rng.integers(len(own))]
    if len(phrase) < samples:
        raise ValueError(f"a sung phrase has {len(phrase)} samples, {samples} are wanted; shorten cue and play")
    start = rng.integers(len(phrase) - samples + 1)
    sound = phrase[start : start + samples]
    return LEVEL * sound / np.sqrt(np.square(sound).mean())


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
        seed: numbers that identify it, such as split, seed and index; sung voices depend on the split.
        condition: lengths of gap and lead-in, and interventions.
        probe: lengths of cue and play stretch, and the kind of voices.
        timbre: of the target, 0 or 1. The notes do not depend on it.
    """
    lead, cue, gap, play = (round(RATE * s) for s in (condition.lead, probe.cue, condition.gap, probe.play))
    begin, end = lead + cue + gap, lead + cue + gap + play
    streams = [np.random.default_rng([VERSION, *seed, part]) for part in range(4)]  # so that each part stays alone
    voice = tone if probe.voices == "tones" else partial(sung, split=seed[0])
    target, other = np.zeros(end), np.zeros(end)
    target[begin:], other[begin:] = voice(streams[0], play, timbre), voice(streams[1], play, 1 - timbre)
    if condition.swapped:
        target, other, timbre = other, target, 1 - timbre
    target[lead : lead + cue] = voice(streams[2], cue, timbre)
    # Rounded to 16 bits: the last digits of a sine differ from processor to processor.
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
