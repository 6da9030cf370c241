"""What a network is asked on the probe, and how its answers are scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bsm.cue_gap.examples import TEST, Condition, Probe, example, mixtures_and_targets
from bsm.metrics import usdr

ENDPOINT = 8  # times the longest training gap
BATCH = 20  # examples in a pass


@dataclass(frozen=True)
class Question:
    """A condition under which a trained network is scored.

    Attributes:
        name: short and unique.
        condition: of the examples.
        examples: how many.
    """

    name: str
    condition: Condition
    examples: int = 200


def questions(probe: Probe) -> list[Question]:
    """Return what every network is asked after training; the longest gap of the training's range is R.

    Gaps from 0.25 s to 16 R tell memory within the range from memory beyond it. ``lead`` has the length of a long gap
    before the cue instead of after it. ``deleted`` cuts a long gap out. With ``swapped`` cues the choice must flip.
    """
    longest = probe.longest_gap
    far = ENDPOINT * longest
    gaps = sorted({0.25, *(longest * 2**power for power in range(-1, 5))})
    asked = [Question(f"gap {gap:g}", Condition(gap), 400 if gap == far else 200) for gap in gaps]
    asked += [Question(f"lead {lead:g}", Condition(longest, lead)) for lead in (far, 2 * far)]
    asked += [Question(f"deleted {far:g}", Condition(far, deleted=True))]
    return asked + [Question(f"swapped {gap:g}", Condition(gap, swapped=True), 100) for gap in (longest, far)]


def answer(network: nn.Module, question: Question, probe: Probe) -> dict[str, Any]:
    """Score a network under one question.

    Returns:
        The question's ``name`` and condition, the ``seconds`` that an example lasts, and of each example ``sdr`` in dB
        and the parts ``target`` and ``other`` of the two voices in the output, as columns.
    """
    condition = question.condition
    rows = score(network, condition, probe, examples=question.examples)
    columns = {name: [round(row[name], 3) for row in rows] for name in ("sdr", "target", "other")}
    heard = condition.lead + probe.cue + (0 if condition.deleted else condition.gap) + probe.play
    return {"name": question.name, **asdict(condition), "seconds": round(heard, 3)} | columns


def summary(answered: dict[str, Any]) -> dict[str, Any]:
    """Return the means over an answer's examples.

    Returns:
        ``sdr``, dB; ``right``, the share of examples in which more of the target than of the other voice comes
        through; ``clear``, the same by a margin of half a voice; and ``examples``, their number.
    """
    target, other = np.array(answered["target"]), np.array(answered["other"])
    return {
        "sdr": float(np.mean(answered["sdr"])),
        "right": float((target > other).mean()),
        "clear": float((target - other > 0.5).mean()),
        "examples": len(target),
    }


@torch.no_grad()
def score(
    network: nn.Module, condition: Condition, probe: Probe, *, examples: int = 200, split: int = TEST
) -> list[dict[str, Any]]:
    """Score a network on the play stretch of balanced examples.

    Returns:
        One record per example: ``sdr`` against the target, dB; ``target`` and ``other``, the parts of the two voices in
        the output (1 where a voice is all there, 0 where it is not); ``right``, whether ``target`` is the larger.
    """
    network.eval()
    rows = []
    for first in range(0, examples, BATCH):
        batch = range(first, min(first + BATCH, examples))
        made = [example([split, 0, i], condition, probe, timbre=i % 2) for i in batch]
        mixture = mixtures_and_targets(made)[0]
        estimates = network(mixture.to(next(network.parameters(), mixture).device))[:, 0].cpu().numpy()
        for item, estimate in zip(made, estimates, strict=True):
            heard, target, other = (sound[item.play] for sound in (estimate, item.target, item.other))
            parts = {n: float(heard @ v / (v @ v)) for n, v in (("target", target), ("other", other))}
            right = parts["target"] > parts["other"]
            rows.append({"sdr": usdr(target[None], heard[None])} | parts | {"right": right})
    return rows
