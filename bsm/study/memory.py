"""The probe's experiment: arms that are trained alike, what they are asked, and where they keep the cue.

An arm is a time block in the paper's design made small, or ``bs-roformer``. See :mod:`bsm.cue_gap` for the probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bsm import cue_gap
from bsm.config import TIME_BLOCKS, ModelConfig, StftConfig, TrainConfig
from bsm.cue_gap import ENDPOINT, RATE, TEST, TRAINING, Condition, Example, Probe, Question, example
from bsm.mamba2 import BiMamba2Block, CausalConv1d, Scan
from bsm.model import BSMamba2
from bsm.networks import build, from_factory, network_config
from bsm.scan import scan
from bsm.study.records import Mark, mark, write_result
from bsm.time_blocks import Attention, AttentionBlock, LSTMBlock
from bsm.versions import RECIPE
from bsm.weights.files import save_model

ARMS = (*TIME_BLOCKS, "bs-roformer")
DATA = f"cue and gap, tones, version {cue_gap.VERSION}"
MEASURED = "cue and gap: SDR in dB and the two voices' parts in the output, example by example"
TRAINING_SECONDS = 1.75  # length of a typical training example: lead-in, cue, gap and play


def network(arm: str, *, seed: int, hop_length: int = 256) -> nn.Module:
    """Build an arm's network with the initial weights of a seed.

    Args:
        arm: one of :data:`ARMS`.
        seed: of the initial weights.
        hop_length: samples from frame to frame at 8 kHz.

    Raises:
        BackendUnavailable: The arm is ``bs-roformer``, and that package is not installed.
    """
    config = ModelConfig.preset("probe-8k").replace(stft=StftConfig(512, hop_length))
    torch.manual_seed(seed)
    return build(network_config(arm, config))


def experiment(
    path: Path, *, arm: str, seed: int, lr: float, longest_gap: float = 0.5, hop_length: int = 256, steps: int = 2000,
    asked: bool = True,
) -> None:  # fmt: skip
    """Train an arm on the probe, ask it all its questions, and write the result and the weights.

    Args:
        path: of the result, a JSON file; the weights take the same name with ``.safetensors``.
        arm: one of :data:`ARMS`.
        seed: of the initial weights and the training examples.
        lr: highest learning rate.
        longest_gap: the training's range, s.
        hop_length: samples from frame to frame.
        steps: updates.
        asked: False for a training that only serves the choice of a learning rate.
    """
    started, probe = mark(), Probe(longest_gap)
    model = network(arm, seed=seed, hop_length=hop_length)
    config = _config(seed=seed, lr=lr, steps=steps)
    history = cue_gap.train(model, probe, config)
    values: dict[str, Any] = {"history": history, "training_cpu_seconds": round(mark().cpu - started.cpu, 1)}
    if asked:
        questions = [(question, None) for question in cue_gap.questions(probe)] + interventions(arm, probe)
        values["answers"] = [answer(model, question, probe, change) for question, change in questions]
        gaps = (longest_gap, ENDPOINT * longest_gap)
        values["traces"] = [trace for gap in gaps for trace in traces(model, probe, gap)]
        save_model(model, path.with_suffix(".safetensors"), {"data": DATA, "seed": seed, "arm": arm})
    _write(path, started, values, model, arm=arm, model=model.config, train=config, probe=probe, recipe=RECIPE)


def _write(path: Path, started: Mark, values: dict[str, Any], trained: nn.Module, **settings: Any) -> None:
    """Write the result of a training on the probe."""
    settings["parameters"] = sum(p.numel() for p in trained.parameters())
    seed = settings["train"].seed
    write_result(
        path, measured=MEASURED, parameters=settings, values=values, seed=seed, started=started, data=DATA, inputs=[]
    )


def _config(*, seed: int, lr: float, steps: int) -> TrainConfig:
    """Return the training's settings: ten validations, and a warm-up that fits into short trainings."""
    warmup = min(TRAINING.warmup, steps // 10)
    return TRAINING.replace(seed=seed, lr=lr, steps=steps, warmup=warmup, validate_every=max(1, steps // 10))


def benchmark(
    path: Path, factory: str, *, seed: int, lr: float, longest_gap: float, steps: int
) -> list[dict[str, Any]]:
    """Train anyone's network on the probe, score it, and write the result.

    Args:
        path: of the result, a JSON file.
        factory: ``package.module:name`` of a callable that returns the network (:func:`bsm.networks.from_factory`).
        seed: of the initial weights and the training examples.
        lr: highest learning rate.
        longest_gap: the training's range, s.
        steps: updates.

    Returns:
        The answers (:func:`bsm.cue_gap.answer`).

    Raises:
        InputError: There is no such factory, or what it returns is no network of ``(batch, 1, samples)``.
    """
    started, probe = mark(), Probe(longest_gap)
    torch.manual_seed(seed)
    model = from_factory(factory, cue_gap.mixtures_and_targets([example([TEST, 0, 0], Condition(0.25), probe, 0)])[0])
    config = _config(seed=seed, lr=lr, steps=steps)
    history = cue_gap.train(model, probe, config)
    asked = tqdm(cue_gap.questions(probe), desc="questions")
    answers = [cue_gap.answer(model, question, probe) for question in asked]
    _write(path, started, {"history": history, "answers": answers}, model, arm=factory, train=config, probe=probe)
    return answers


# ---- what is asked


def interventions(arm: str, probe: Probe) -> list[tuple[Question, str]]:
    """Return what an arm is asked while its memory is changed, and the change.

    With memory ``cut``, nothing is carried across the middle of the gap, and the choice must fall to chance.
    ``sharpen`` multiplies attention's logits by the ratio of the logarithms of the lengths, of this example and of a
    training example.
    """
    longest = probe.longest_gap
    far = ENDPOINT * longest
    asked = []
    if arm in ("mamba2", "lstm", "attention", "attention-nopos"):
        asked += [(Question(f"cut {gap:g}", Condition(gap), 100), "cut") for gap in (longest, 2 * longest)]
    if arm in ("attention", "attention-nopos"):
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
        changed = memories_replaced(model, lambda part: cut(part, frame))
    elif change == "sharpen":
        seconds = condition.lead + probe.cue + condition.gap + probe.play
        factor = math.log(seconds * RATE / hop) / math.log(TRAINING_SECONDS * RATE / hop)
        changed = memories_replaced(model, lambda part: _Sharpened(factor) if isinstance(part, Attention) else part)
    with changed:
        found = cue_gap.answer(model, question, probe)
    return found | {"change": change, "frames": round(found["seconds"] * RATE / hop)}


# ---- interventions on what carries the cue from past to future


def memories(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Find what carries information from past frames to future ones: (owner, attribute) in each time block.

    These are the scan of the forward mixer, the LSTM, the attention, and the short convolutions that look at past
    frames. Other blocks have none.
    """
    if not isinstance(model, BSMamba2):
        return
    for block, _ in model.dual_path.layers:
        if isinstance(block, BiMamba2Block):
            yield block.forward_direction.mixer, "ssm"
            yield block.forward_direction.mixer, "conv1d"
        elif isinstance(block, LSTMBlock):
            yield block, "lstm"
        elif isinstance(block, AttentionBlock):
            yield block, "attention"
            yield block.convs, "0"


@contextmanager
def memories_replaced(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> Iterator[None]:
    """Replace each memory of a network by what a change makes of it, within the block."""
    found = [(owner, name, getattr(owner, name)) for owner, name in memories(model)]
    if not found:
        raise ValueError("this network has no memory that could be changed")
    try:
        for owner, name, part in found:
            setattr(owner, name, change(part))
        yield
    finally:
        for owner, name, part in found:
            setattr(owner, name, part)


def cut(part: nn.Module, frame: int) -> nn.Module:
    """Return a memory that carries nothing from before ``frame`` to that frame or a later one."""
    kinds = {Scan: _CutScan, nn.LSTM: _CutLSTM, Attention: _CutAttention, CausalConv1d: _CutConvolution}
    return kinds[type(part)](part, frame)


class _Cut(nn.Module):
    def __init__(self, part: nn.Module, frame: int) -> None:
        super().__init__()
        self.part, self.frame = part, frame


class _CutScan(_Cut):
    """The state is zero at the frame."""

    def forward(self, **inputs: Tensor) -> Tensor:
        halves = ({k: v.split([self.frame, v.shape[1] - self.frame], dim=1)[i] if v.ndim > 1 else v
                   for k, v in inputs.items()} for i in range(2))  # fmt: skip
        return torch.cat([self.part(**half) for half in halves], dim=1)


class _CutConvolution(_Cut):
    """Frames before the frame count as zeros after it."""

    def __init__(self, part: nn.Module, frame: int) -> None:
        super().__init__(part, frame)
        self.out_channels = part.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.part(half) for half in (x[:, : self.frame], x[:, self.frame :])], dim=1)


class _CutLSTM(_Cut):
    """The state of the forward direction is zero at the frame; the backward direction is as it was."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        size = self.part.hidden_size
        forwards = [self.part(half)[0][..., :size] for half in (x[:, : self.frame], x[:, self.frame :])]
        return torch.cat([torch.cat(forwards, dim=1), self.part(x)[0][..., size:]], dim=-1), None


class _CutAttention(_Cut):
    """Queries at the frame and later do not see earlier keys."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        late = torch.arange(q.shape[-2]) >= self.frame
        seen = ~(late[:, None] & ~late)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


class _Sharpened(nn.Module):
    """Attention with its logits multiplied by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.factor * q, k, v)


# ---- where the cue is kept


def traces(model: nn.Module, probe: Probe, gap: float, *, pairs: int = 10) -> list[dict[str, Any]]:
    """Follow the cue through a network over a gap: one record for each scan and attention.

    Each pair of examples differs in its cue alone. Depending on the block, a record has

    - ``mass``: of attention, by head: the weight that queries in the play stretch give to the cue's frames, and
      ``uniform``, what equal weights would give;
    - ``half_life``: of Mamba2, by head: time in s over which the state halves, the median over the gap's frames;
    - ``difference``: of Mamba2: distance between the states of a pair, relative to their norm, at ``times`` in s after
      the cue.
    """
    condition = Condition(gap)
    made = [
        example([TEST, 1, index], Condition(gap, swapped=swapped), probe, timbre=index % 2)
        for swapped in (False, True)
        for index in range(pairs)
    ]
    seen = _calls(model, cue_gap.mixtures_and_targets(made)[0])
    frames = _frames(made[0], model.config.stft.hop_length)
    records = []
    for part, inputs in seen:
        record: dict[str, Any] = {"layer": len(records), "gap": gap}
        if isinstance(part, Attention):
            records.append(record | _mass(*inputs[:2], frames))
        elif isinstance(part, Scan):
            records.append(record | _state(inputs[0], frames, pairs, model.config.stft.hop_length / RATE, condition))
    return records


def _frames(made: Example, hop: int) -> dict[str, slice]:
    return {n: slice(round(s.start / hop), round(s.stop / hop)) for n, s in (("cue", made.cue), ("play", made.play))}


@torch.no_grad()
def _calls(model: nn.Module, mixtures: Tensor) -> list[tuple[nn.Module, Any]]:
    """Run a network, and return each memory with the inputs that it got, over all slabs of rows."""
    calls: dict[nn.Module, list] = {}
    hooks = []
    for owner, name in memories(model):
        part = getattr(owner, name)
        calls[part] = []

        def keep(part: nn.Module, args: tuple, kwargs: dict) -> None:
            calls[part].append((*args, kwargs) if args else (kwargs,))

        hooks.append(part.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        model(mixtures)
    finally:
        for hook in hooks:
            hook.remove()
    return [(part, _joined(got)) for part, got in calls.items()]


def _joined(calls: list[tuple]) -> tuple:
    """Put the rows of several calls together; what has no rows (vectors of weights) is the same in each."""

    def join(values: tuple) -> Any:
        if isinstance(values[0], dict):
            return {k: join(tuple(v[k] for v in values)) for k in values[0]}
        return torch.cat(values) if values[0].ndim > 1 else values[0]

    return tuple(join(values) for values in zip(*calls, strict=True))


def _mass(q: Tensor, k: Tensor, frames: dict[str, slice]) -> dict[str, Any]:
    logits = q[..., frames["play"], :] @ k.mT / math.sqrt(q.shape[-1])
    mass = logits.softmax(-1)[..., frames["cue"]].sum(-1).mean((0, 2))  # (rows, heads, queries) -> (heads,)
    cue = frames["cue"]
    return {"mass": [round(v, 4) for v in mass.tolist()], "uniform": round((cue.stop - cue.start) / k.shape[-2], 4)}


def _state(
    inputs: dict[str, Tensor], frames: dict[str, slice], pairs: int, frame_seconds: float, condition: Condition
) -> dict[str, Any]:
    end = frames["cue"].stop
    rate = -inputs["A"] * inputs["dt"][:, end : frames["play"].start]  # decay per frame, (rows, frames, heads)
    half_life = (math.log(2) / rate * frame_seconds).flatten(0, 1).median(0).values
    times = [t for t in (0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16) if t <= condition.gap]
    differences = []
    for time in times:
        upto = {k: v[:, : end + round(time / frame_seconds)] if v.ndim > 1 else v for k, v in inputs.items()}
        state = scan(**upto)[1].unflatten(0, (2, pairs, -1))  # (cue, pair, band, heads, headdim, N)
        distance = (state[0] - state[1]).flatten(1).norm(dim=1)
        differences.append(round((distance / state.flatten(2).norm(dim=2).mean(0)).mean().item(), 4))
    return {
        "half_life": [round(v, 3) for v in half_life.tolist()],
        "times": times,
        "difference": differences,
    }
