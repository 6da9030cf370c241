"""Training a network on the probe."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bsm.config import LossConfig, TrainConfig
from bsm.cue_gap.examples import TRAIN, VALID, VERSION, Condition, Probe, example, mixtures_and_targets
from bsm.cue_gap.scoring import score, summary
from bsm.loss import bsmamba2_loss
from bsm.optimizer import make_optimizer

TRAINING = TrainConfig(
    steps=2000,
    batch_size=4,
    accumulate=1,
    lr=4e-3,
    schedule="cosine",
    warmup=50,
    validate_every=200,
    precision="32-true",
    # Windows as long as the paper's. The long study's trainings have them; those of LossConfig.at_rate are faster.
    loss=LossConfig(windows=(744, 372, 184, 92, 48), hop_length=80, min_fft=372),
)
"""Settings for minutes on one CPU core. The probe has no songs and files: settings for these have no effect."""


def training_batch(seed: int, update: int, size: int, probe: Probe, longest_gap: float) -> tuple[Tensor, Tensor]:
    """Return the mixtures and targets of an update, ``(size, 1, samples)`` each.

    All examples of an update have the same gap and lead-in. The gap is drawn log-uniformly up to ``longest_gap`` s, the
    lead-in uniformly.
    """
    rng = np.random.default_rng([VERSION, TRAIN, seed, update])
    gap = math.exp(rng.uniform(math.log(probe.shortest_gap), math.log(longest_gap)))
    condition = Condition(gap, rng.uniform(0, probe.longest_lead))
    timbres = rng.integers(2, size=size)
    return mixtures_and_targets([example([TRAIN, seed, update, i], condition, probe, t) for i, t in enumerate(timbres)])


def curriculum(probe: Probe, progress: float) -> float:
    """Return the longest gap, s, at a point of the training from 0 to 1.

    It starts at 0.5 s, or at the training's longest gap if that is shorter. It doubles at equal intervals, and reaches
    the training's longest gap after two thirds of the training.
    """
    first = min(0.5, probe.longest_gap)
    doublings = math.ceil(math.log2(probe.longest_gap / first))
    return min(probe.longest_gap, first * 2 ** math.floor(1.5 * progress * (doublings + 1)))


def train(network: nn.Module, probe: Probe, config: TrainConfig = TRAINING) -> list[dict[str, float]]:
    """Train a network on the probe, and leave it with the weights of the best validation.

    A validation scores 66 examples: a third each at the shortest gap, at the curriculum's longest gap, and at their
    geometric mean. Only validations of the training's second half can be the best: earlier ones have shorter gaps.

    Args:
        network: maps ``(batch, 1, samples)`` at :data:`~bsm.cue_gap.voices.RATE` to the same shape. It is trained in
            place, on the device of its parameters.
        probe: lengths of gaps and lead-ins, and the kind of voices.
        config: number of updates, batch size, optimiser, learning rate, clipping, validations and loss. Its seed
            chooses the examples. Seed the network's initial weights before you build it.

    Returns:
        One record per validation: ``update``, ``loss`` (mean since the last), ``sdr`` (mean, dB), ``right`` (share).
    """
    optimizer = make_optimizer(network, config)
    history: list[dict[str, float]] = []
    losses, best = [], None
    network.train()
    for update in tqdm(range(config.steps), desc="cue and gap", unit="update", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(update)
        longest = curriculum(probe, update / config.steps)
        batch = training_batch(config.seed, update, config.batch_size, probe, longest)
        mixture, target = (sound.to(next(network.parameters(), sound).device) for sound in batch)
        loss = bsmamba2_loss(network(mixture), target, config.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (update + 1) % config.validate_every == 0 or update + 1 == config.steps:
            gaps = (probe.shortest_gap, math.sqrt(probe.shortest_gap * longest), longest)
            parts = [score(network, Condition(gap), probe, examples=22, split=VALID) for gap in gaps]
            scores = summary({name: [value for part in parts for value in part[name]] for name in parts[0]})
            record = {"update": update + 1, "loss": float(np.mean(losses))}
            history.append(record | {name: scores[name] for name in ("sdr", "right")})
            losses = []
            if update >= config.steps / 2 and (best is None or scores["sdr"] > best[0]):
                best = scores["sdr"], copy.deepcopy(network.state_dict())
            network.train()
    if best is not None:
        network.load_state_dict(best[1])
    return history
