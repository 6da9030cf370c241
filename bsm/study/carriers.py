"""What carries the probe's cue from past to future in a network: found, replaced, and followed over a gap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bsm import cue_gap
from bsm.cue_gap import RATE, TEST, Condition, Example, Probe, example
from bsm.mamba2 import BiMamba2Block, CausalConv1d, Scan
from bsm.model import BSMamba2
from bsm.scan import scan
from bsm.time_blocks import Attention, AttentionBlock, LSTMBlock


def carriers(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
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
def replaced(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> Iterator[None]:
    """Replace each memory of a network by what a change makes of it, within the block."""
    found = [(owner, name, getattr(owner, name)) for owner, name in carriers(model)]
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


class Sharpened(nn.Module):
    """Attention with its logits multiplied by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; queries are multiplied by the factor."""
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
            records.append(record | _state(inputs[0], frames, pairs, model.config.stft.hop_length / RATE, gap))
    return records


def _frames(made: Example, hop: int) -> dict[str, slice]:
    return {n: slice(round(s.start / hop), round(s.stop / hop)) for n, s in (("cue", made.cue), ("play", made.play))}


@torch.no_grad()
def _calls(model: nn.Module, mixtures: Tensor) -> list[tuple[nn.Module, Any]]:
    """Run a network, and return each memory with the inputs that it got, over all slabs of rows."""
    calls: dict[nn.Module, list] = {}
    hooks = []
    for owner, name in carriers(model):
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
    inputs: dict[str, Tensor], frames: dict[str, slice], pairs: int, frame_seconds: float, gap: float
) -> dict[str, Any]:
    end = frames["cue"].stop
    rate = -inputs["A"] * inputs["dt"][:, end : frames["play"].start]  # decay per frame, (rows, frames, heads)
    half_life = (math.log(2) / rate * frame_seconds).flatten(0, 1).median(0).values
    times = [t for t in (0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16) if t <= gap]
    differences = []
    for time in times:
        upto = {k: v[:, : end + round(time / frame_seconds)] if v.ndim > 1 else v for k, v in inputs.items()}
        state = scan(**upto)[1].unflatten(0, (2, pairs, -1))  # (cue, pair, band, heads, headdim, N)
        distance = (state[0] - state[1]).flatten(1).norm(dim=1)
        differences.append(round((distance / state.flatten(2).norm(dim=2).mean(0)).mean().item(), 4))
    return {"half_life": [round(v, 3) for v in half_life.tolist()], "times": times, "difference": differences}
