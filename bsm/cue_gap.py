"""Cue and gap: a probe of how long a separator remembers which voice it is to follow.

An example is background noise with sounds in four stretches::

    lead-in      cue               gap          play
    background   the target alone  background   target and another voice at once

Both voices draw their notes from one range of pitch; only their timbres differ. Which timbre is the target changes
from example to example, and only the cue tells. So the output in ``play`` measures memory over the gap, and nothing
else. The lead-in has a random length: without it, networks learn "what sounds first" instead of a cue.

The generator has a :data:`VERSION`. The same version, seed and index give the same example, bit for bit, anywhere.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bsm.config import LossConfig, TrainConfig
from bsm.loss import bsmamba2_loss
from bsm.metrics import usdr

log = logging.getLogger(__name__)

VERSION = 1
RATE = 8000  # Hz
TRAINING = TrainConfig(
    steps=2000,
    batch_size=4,
    accumulate=1,
    lr=4e-3,
    schedule="cosine",
    warmup=50,
    validate_every=200,
    precision="32-true",
    loss=LossConfig.at_rate(RATE).replace(hop_length=80),
)
"""Settings of a training on one CPU core in a few minutes; fields about songs and files have no effect here."""
# Formants of the two timbres: (centre, width) in Hz of each.
TIMBRES = (((600, 120), (1100, 200)), ((1700, 250), (2600, 300)))
LOWEST, SEMITONES = 110.0, 25  # pitch of the lowest note in Hz, and number of notes
LEVEL = 0.1  # RMS of a voice
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
    """

    longest_gap: float = 0.5
    shortest_gap: float = 0.1
    longest_lead: float = 1.0
    cue: float = 0.4
    play: float = 0.6


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
        seed: numbers that identify it, such as split, seed and index.
        condition: lengths of gap and lead-in, and interventions.
        probe: lengths of cue and play stretch.
        timbre: of the target, 0 or 1. The notes do not depend on it.
    """
    lead, cue, gap, play = (round(RATE * s) for s in (condition.lead, probe.cue, condition.gap, probe.play))
    begin, end = lead + cue + gap, lead + cue + gap + play
    streams = [np.random.default_rng([VERSION, *seed, part]) for part in range(4)]  # so that each part stays alone
    target, other = np.zeros(end), np.zeros(end)
    target[begin:], other[begin:] = tone(streams[0], play, timbre), tone(streams[1], play, 1 - timbre)
    if condition.swapped:
        target, other, timbre = other, target, 1 - timbre
    target[lead : lead + cue] = tone(streams[2], cue, timbre)
    # Rounded to 16 bits: the last digits of a sine differ from processor to processor.
    target, other, noise = (np.round(v * 2**15) / 2**15 for v in (target, other, background(streams[3], end)))
    sounds = [sound.astype(np.float32) for sound in (target + other + noise, target, other)]
    if condition.deleted:
        sounds = [np.delete(sound, slice(lead + cue, begin)) for sound in sounds]
        begin, end = begin - gap, end - gap
    return Example(*sounds, cue=slice(lead, lead + cue), play=slice(begin, end))


def training_batch(seed: int, update: int, size: int, probe: Probe, longest_gap: float) -> tuple[Tensor, Tensor]:
    """Return the mixtures and targets of an update, ``(size, 1, samples)``; they share gap and lead-in.

    Gaps are drawn log-uniformly up to ``longest_gap`` s, lead-ins uniformly.
    """
    rng = np.random.default_rng([VERSION, TRAIN, seed, update])
    gap = math.exp(rng.uniform(math.log(probe.shortest_gap), math.log(longest_gap)))
    condition = Condition(gap, rng.uniform(0, probe.longest_lead))
    timbres = rng.integers(2, size=size)
    return mixtures_and_targets([example([TRAIN, seed, update, i], condition, probe, t) for i, t in enumerate(timbres)])


def curriculum(probe: Probe, progress: float) -> float:
    """Return the longest gap, s, at a point of the training from 0 to 1.

    It starts at 0.5 s or the training's range, if that is shorter, and doubles in equal steps up to the range, which
    it reaches after two thirds of the training.
    """
    first = min(0.5, probe.longest_gap)
    doublings = math.ceil(math.log2(probe.longest_gap / first))
    return min(probe.longest_gap, first * 2 ** math.floor(1.5 * progress * (doublings + 1)))


def mixtures_and_targets(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Stack examples of one length: mixtures and targets, each ``(examples, 1, samples)``."""
    mixtures, targets = (np.stack([getattr(e, name) for e in examples]) for name in ("mixture", "target"))
    return torch.from_numpy(mixtures)[:, None], torch.from_numpy(targets)[:, None]


def train(
    network: nn.Module, probe: Probe, config: TrainConfig = TRAINING, *, stop: Callable[[], bool] = lambda: False
) -> list[dict[str, float]]:
    """Train a network on the probe with AdamW, and leave it with the weights of the best validation.

    A validation scores 66 examples: at the shortest gap, at the longest of the curriculum, and halfway between. Only
    those of the training's second half can be the best, because before it a curriculum asks for less.

    Args:
        network: maps ``(batch, 1, samples)`` at :data:`RATE` to the same shape; it is changed in place.
        probe: the training's range.
        config: number of updates, batch size, learning rate, clipping, validations, loss. Its seed chooses the
            examples; seed the network's initial weights before it is built.
        stop: asked before each update; where it returns True, the training ends there.

    Returns:
        One record per validation: ``update``, ``loss`` (mean since the last), ``sdr`` (mean, dB), ``right`` (share).
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, fused=True)
    history: list[dict[str, float]] = []
    losses, best = [], None
    network.train()
    for update in tqdm(range(config.steps), desc="cue and gap", unit="update", mininterval=10):
        if stop():
            break
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(update)
        longest = curriculum(probe, update / config.steps)
        mixture, target = training_batch(config.seed, update, config.batch_size, probe, longest)
        loss = bsmamba2_loss(network(mixture), target, config.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (update + 1) % config.validate_every == 0 or update + 1 == config.steps:
            gaps = (probe.shortest_gap, math.sqrt(probe.shortest_gap * longest), longest)
            rows = [row for gap in gaps for row in score(network, Condition(gap), probe, examples=22, split=VALID)]
            record = {"update": update + 1, "loss": float(np.mean(losses))}
            record |= {name: float(np.mean([row[name] for row in rows])) for name in ("sdr", "right")}
            history.append(record)
            losses = []
            if update >= config.steps / 2 and (best is None or record["sdr"] > best[0]):
                best = record["sdr"], copy.deepcopy(network.state_dict())
            network.train()
    if best is not None:
        network.load_state_dict(best[1])
    return history


@torch.no_grad()
def score(
    network: nn.Module,
    condition: Condition,
    probe: Probe,
    *,
    examples: int = 200,
    batch_size: int = 20,
    seed: int = 0,
    split: int = TEST,
) -> list[dict[str, Any]]:
    """Score a network on the play stretch of balanced examples.

    Returns:
        One record per example: ``sdr`` against the target, dB; ``target`` and ``other``, the parts of the two voices in
        the output (1 where a voice is all there, 0 where it is not); ``right``, whether ``target`` is the larger.
    """
    network.eval()
    rows = []
    for batch in _batches(examples, batch_size):
        made = [example([split, seed, i], condition, probe, timbre=i % 2) for i in batch]
        estimates = network(mixtures_and_targets(made)[0])[:, 0].numpy()
        for item, estimate in zip(made, estimates, strict=True):
            heard, target, other = (sound[item.play] for sound in (estimate, item.target, item.other))
            parts = {n: float(heard @ v / (v @ v)) for n, v in (("target", target), ("other", other))}
            right = parts["target"] > parts["other"]
            rows.append({"sdr": usdr(target[None], heard[None])} | parts | {"right": right})
    return rows


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))
