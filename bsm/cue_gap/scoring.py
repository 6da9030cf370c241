"""The questions that a network is asked on the probe, and the scores of its answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bsm.cue_gap.examples import TEST, Condition, Probe, example, mixtures_and_targets
from bsm.cue_gap.voices import RATE
from bsm.errors import InputError
from bsm.metrics import usdr

ENDPOINT = 8  # gap of the main question, as a multiple of the longest training gap
BATCH = 20  # examples per forward pass


@dataclass(frozen=True)
class Question:
    """A condition under which a trained network is scored."""

    name: str  # short and unique
    condition: Condition
    examples: int = 200


def questions(probe: Probe) -> list[Question]:
    """Return the questions for every trained network. R is the longest gap of its training.

    - ``gap``: gaps of 0.25 s, and from R / 2 to 16 R, within and beyond the training's range.
    - ``lead``: as much background as in a long gap, but before the cue. Examples are as long, and the gap is short.
    - ``deleted``: a long gap is cut out of the finished example.
    - ``swapped``: the cue has the other voice's timbre, so that the choice must flip.
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
        The question's ``name`` and condition, the ``seconds`` that an example lasts, and the columns of :func:`score`,
        rounded to three decimals.
    """
    condition = question.condition
    scores = score(network, condition, probe, examples=question.examples)
    columns = {name: [round(value, 3) for value in values] for name, values in scores.items()}
    heard = condition.lead + probe.cue + (0 if condition.deleted else condition.gap) + probe.play
    return {"name": question.name, **asdict(condition), "seconds": round(heard, 3)} | columns


def summary(scores: dict[str, Any]) -> dict[str, Any]:
    """Summarise the columns of :func:`score` or :func:`answer` over the examples.

    Returns:
        ``sdr``, the mean in dB; ``right``, the share of examples whose output has more of the target than of the other
        voice; ``clear``, the share where the difference exceeds 0.5; and ``examples``, their number.
    """
    target, other = np.array(scores["target"]), np.array(scores["other"])
    return {
        "sdr": float(np.mean(scores["sdr"])),
        "right": float((target > other).mean()),
        "clear": float((target - other > 0.5).mean()),
        "examples": len(target),
    }


@torch.no_grad()
def score(
    network: nn.Module, condition: Condition, probe: Probe, *, examples: int = 200, split: int = TEST
) -> dict[str, list[float]]:
    """Score a network on the play stretch of examples; in every other one, the other timbre is the target.

    Returns:
        Columns with a value per example: ``sdr`` against the target, dB; ``target`` and ``other``, the factors of the
        two voices in the output (1: the whole voice; 0: nothing of it).
    """
    network.eval()
    scores: dict[str, list[float]] = {"sdr": [], "target": [], "other": []}
    for first in range(0, examples, BATCH):
        batch = range(first, min(first + BATCH, examples))
        made = [example([split, 0, i], condition, probe, timbre=i % 2) for i in batch]
        mixture = mixtures_and_targets(made)[0]
        estimates = network(mixture.to(next(network.parameters(), mixture).device))[:, 0].cpu().numpy()
        for item, estimate in zip(made, estimates, strict=True):
            heard, target, other = (sound[item.play] for sound in (estimate, item.target, item.other))
            scores["sdr"].append(usdr(target, heard))
            for name, voice in (("target", target), ("other", other)):
                scores[name].append(float(heard @ voice / (voice @ voice)))
    return scores


def receptive_field(network: nn.Module, seconds: float = 4.0) -> tuple[float, float]:
    """Measure from how far the input reaches the output at one moment: s before it, and s after it.

    The gradient with respect to random noise tells. ``seconds`` is the noise's length, with the moment in the middle. A
    network that depends on all of its input gives half of the length on either side.

    Raises:
        InputError: the output does not depend on the input.
    """
    noise = torch.randn(1, 1, round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(network.parameters(), noise).device).requires_grad_()
    moment = noise.shape[-1] // 2
    (gradient,) = torch.autograd.grad(network.eval()(noise)[0, 0, moment], noise)
    reached = gradient[0, 0].nonzero().flatten().tolist()
    if not reached:
        raise InputError("the network's output does not depend on its input, so it has no receptive field")
    return (moment - min(reached)) / RATE, (max(reached) - moment) / RATE
