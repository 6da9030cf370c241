"""Training a network on the probe."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bsm.config import LossConfig, TrainConfig
from bsm.cue_gap.examples import RATE, TRAIN, VALID, VERSION, Condition, Probe, example, mixtures_and_targets
from bsm.cue_gap.scoring import score
from bsm.loss import bsmamba2_loss

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


def train(
    network: nn.Module, probe: Probe, config: TrainConfig = TRAINING, *, stop: Callable[[], bool] = lambda: False
) -> list[dict[str, float]]:
    """Train a network on the probe with AdamW, and leave it with the weights of the best validation.

    A validation scores 66 examples: at the shortest gap, at the longest of the curriculum, and halfway between. Only
    those of the training's second half can be the best, because before it a curriculum asks for less.

    Args:
        network: maps ``(batch, 1, samples)`` at :data:`RATE` to the same shape; it is changed in place, and
            trained on the device of its parameters.
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
