"""The averaged weights of the best validations, as files that can be loaded like the final ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from bsm.weights.files import save_model


@dataclass
class Ranking:
    """The best validations of a run, ``(uSDR in dB, step)``, best first, and how many have passed since the first one.

    Attributes:
        keep: length of the list.
    """

    keep: int
    best: list[tuple[float, int]] = field(default_factory=list)
    since_best: int = 0

    def enter(self, score: float, step: int) -> bool:
        """Enter a validation; return whether it is among the best. Of equals the earlier is better; NaN is worst."""
        score = -math.inf if math.isnan(score) else score
        self.best = sorted([*self.best, (score, step)], key=lambda entry: (-entry[0], entry[1]))[: self.keep]
        self.since_best = 0 if self.best[0][1] == step else self.since_best + 1
        return any(entry[1] == step for entry in self.best)

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"best": [list(entry) for entry in self.best], "since_best": self.since_best}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.best, self.since_best = [(score, step) for score, step in state["best"]], state["since_best"]


def save_best(run: Path, model: nn.Module, step: int, card: dict[str, Any]) -> Path:
    """Write a network's weights to ``best/step-<number>.safetensors``, with its card."""
    return save_model(model, _path(run, step), card | {"step": step})


def prune(run: Path, ranking: Ranking) -> None:
    """Delete the weights in ``best/`` that are no longer among the best.

    Only once a checkpoint holds the ranking: a run that goes on from an older one finds the files of its own.
    """
    kept = {_path(run, step) for _, step in ranking.best}
    for path in run.glob("best/*"):  # also what a killed run left half written
        if path.with_suffix(".safetensors") not in kept:
            path.unlink()


def _path(run: Path, step: int) -> Path:
    return run / "best" / f"step-{step:07d}.safetensors"
