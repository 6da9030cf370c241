"""The probe's experiment: train arms alike, and ask them questions, some while their memory is changed.

An arm is a time block in the paper's design made small, or ``bs-roformer``. See :mod:`bsm.cue_gap` for the probe.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bsm import cue_gap
from bsm.config import TIME_BLOCKS, ModelConfig, StftConfig, TrainConfig
from bsm.cue_gap import ENDPOINT, RATE, TEST, TRAINING, Condition, Probe, Question, example
from bsm.networks import build, count_parameters, from_factory, network_config
from bsm.study.long.carriers import Cut, Sharpened, replaced, traces
from bsm.study.records import Mark, mark, write_result
from bsm.time_blocks import Attention
from bsm.versions import RECIPE
from bsm.weights.files import save_model

ARMS = (*TIME_BLOCKS, "bs-roformer")
MEASURED = "cue and gap: SDR in dB and the two voices' parts in the output, example by example"
TRAINING_SECONDS = 1.75  # length of a typical training example: lead-in, cue, gap and play


def network(arm: str, *, seed: int, hop_length: int = 256) -> nn.Module:
    """Build the network of one of :data:`ARMS`, ``hop_length`` samples from frame to frame at 8 kHz.

    Raises:
        BackendUnavailable: The arm is ``bs-roformer``, and that package is not installed.
    """
    config = ModelConfig.preset("probe-8k").replace(stft=StftConfig(512, hop_length))
    torch.manual_seed(seed)
    return build(network_config(arm, config))


def experiment(
    path: Path,
    *,
    arm: str,
    seed: int,
    lr: float,
    longest_gap: float = 0.5,
    voices: str = "tones",
    hop_length: int = 256,
    steps: int = 2000,
    asked: bool = True,
) -> None:
    """Train an arm on the probe, ask it all its questions, and write the result and the weights.

    Args:
        path: of the result, a JSON file; the weights take the same name with ``.safetensors``.
        arm: see :func:`network`.
        seed: of the initial weights and the training examples.
        lr: highest learning rate.
        longest_gap: the training's range, s.
        voices: of :class:`bsm.cue_gap.Probe`.
        hop_length: see :func:`network`.
        steps: updates.
        asked: whether to ask the questions; False where a training only serves to choose a learning rate.
    """
    started, probe = mark(), Probe(longest_gap, voices=voices)
    model = network(arm, seed=seed, hop_length=hop_length)
    config = _config(seed=seed, lr=lr, steps=steps)
    history = cue_gap.train(model, probe, config)
    values: dict[str, Any] = {"history": history, "training_cpu_seconds": round(mark().cpu - started.cpu, 1)}
    if asked:
        questions = [(question, None) for question in cue_gap.questions(probe)] + interventions(arm, probe)
        values["answers"] = [answer(model, question, probe, change) for question, change in questions]
        gaps = (longest_gap, ENDPOINT * longest_gap)
        values["traces"] = [trace for gap in gaps for trace in traces(model, probe, gap)]
        save_model(model, path.with_suffix(".safetensors"), {"data": data_title(probe), "seed": seed, "arm": arm})
    _write(path, started, values, model, arm=arm, model=model.config, train=config, probe=probe, recipe=RECIPE)


def measure(*, arm: str, seed: int, lr: float, longest_gap: float, steps: int, device: str) -> dict[str, Any]:
    """Train an arm on the probe on a device, and ask it what every network is asked; see :func:`experiment`."""
    model = network(arm, seed=seed).to(device)
    return _trained_and_asked(model, Probe(longest_gap), _config(seed=seed, lr=lr, steps=steps))


def _trained_and_asked(model: nn.Module, probe: Probe, config: TrainConfig) -> dict[str, Any]:
    history, questions = cue_gap.train(model, probe, config), tqdm(cue_gap.questions(probe), desc="questions")
    return {"history": history, "answers": [cue_gap.answer(model, question, probe) for question in questions]}


def _write(path: Path, started: Mark, values: dict[str, Any], trained: nn.Module, **settings: Any) -> None:
    """Write the result of a training on the probe."""
    settings["parameters"] = count_parameters(trained)
    about = {"data": data_title(settings["probe"]), "seed": settings["train"].seed, "started": started}
    write_result(path, measured=MEASURED, parameters=settings, values=values, inputs=[], **about)


def data_title(probe: Probe) -> str:
    """Say in a result file what a probe's examples are."""
    return f"cue and gap, {probe.voices}, version {cue_gap.VERSION}"


def _config(*, seed: int, lr: float, steps: int) -> TrainConfig:
    """Return the training's settings: ten validations, and a warm-up that fits into short trainings."""
    warmup = min(TRAINING.warmup, steps // 10)
    return TRAINING.replace(seed=seed, lr=lr, steps=steps, warmup=warmup, validate_every=max(1, steps // 10))


def benchmark(
    path: Path, factory: str, *, seed: int, lr: float, longest_gap: float, steps: int, voices: str = "tones"
) -> list[dict[str, Any]]:
    """Train anyone's network on the probe, score it, and write the result; for the settings see :func:`experiment`.

    ``factory`` is ``package.module:name`` of a callable that returns the network (:func:`bsm.networks.from_factory`).

    Returns:
        The answers (:func:`bsm.cue_gap.answer`).

    Raises:
        InputError: There is no such factory, or it does not return a network of ``(batch, 1, samples)``.
    """
    started, probe = mark(), Probe(longest_gap, voices=voices)
    torch.manual_seed(seed)
    model = from_factory(factory, cue_gap.mixtures_and_targets([example([TEST, 0, 0], Condition(0.25), probe, 0)])[0])
    config = _config(seed=seed, lr=lr, steps=steps)
    values = _trained_and_asked(model, probe, config)
    _write(path, started, values, model, arm=factory, train=config, probe=probe)
    return values["answers"]


# ---- what is asked


def interventions(arm: str, probe: Probe) -> list[tuple[Question, str]]:
    """Return the questions that an arm is asked while its memory is changed, each with the change.

    With memory ``cut``, nothing is carried across the middle of the gap, and the choice must fall to chance.
    ``sharpen`` multiplies attention's logits by the ratio of the logarithms of the lengths, of this example and of a
    training example.
    """
    longest = probe.longest_gap
    far, asked = ENDPOINT * longest, []
    if arm in ("mamba2", "lstm", "attention", "attention-nopos"):
        asked += [(Question(f"cut {gap:g}", Condition(gap), 100), "cut") for gap in (longest, 2 * longest)]
    if arm.startswith("attention"):
        asked += [(Question(f"sharpened gap {far:g}", Condition(far)), "sharpen")]
        asked += [(Question(f"sharpened lead {far:g}", Condition(longest, far)), "sharpen")]
    return asked


def answer(model: nn.Module, question: Question, probe: Probe, change: str | None = None) -> dict[str, Any]:
    """Score a network under one question and one change of its memory (:func:`interventions`).

    Returns:
        As :func:`bsm.cue_gap.answer`, with ``change``, and ``frames`` of an example.
    """
    condition, hop = question.condition, model.config.stft.hop_length
    changed: AbstractContextManager[None] = nullcontext()
    if change == "cut":
        frame = round((condition.lead + probe.cue + condition.gap / 2) * RATE / hop)
        changed = replaced(model, lambda part: Cut(part, frame))
    elif change == "sharpen":
        seconds = condition.lead + probe.cue + condition.gap + probe.play
        factor = math.log(seconds * RATE / hop) / math.log(TRAINING_SECONDS * RATE / hop)
        changed = replaced(model, lambda part: Sharpened(factor) if isinstance(part, Attention) else part)
    with changed:
        found = cue_gap.answer(model, question, probe)
    return found | {"change": change, "frames": round(found["seconds"] * RATE / hop)}
