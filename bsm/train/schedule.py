"""The learning rate of each update: a function of the configuration and the update's number, so nothing to save."""

from __future__ import annotations

import math

from bsm.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of the update that comes after ``step`` others.

    It rises from ``lr / warmup`` to ``lr``; then it stays there, or falls along half a cosine towards 0.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / (config.steps - config.warmup)
    return config.lr * (1 + math.cos(math.pi * done)) / 2
