"""The parts of a network that carry information from past to future: find them, replace them, follow a cue in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bsm import cue_gap
from bsm.cue_gap import RATE, TEST, Condition, Probe, example
from bsm.mamba2 import BiMamba2Block, CausalConv1d, Scan
from bsm.model import BSMamba2
from bsm.scan import scan
from bsm.time_blocks import Attention, AttentionBlock, LSTMBlock


def carriers(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Find the parts that carry information from past frames to future ones: (owner, attribute) in each time block.

    They are the scan of the forward mixer, the LSTM, the attention, and the short convolutions over past frames. Other
    time blocks have none.
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
    """Replace each part of :func:`carriers` by ``change(part)``, as long as the context is open.

    Raises:
        ValueError: the network has no such part.
    """
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


class Cut(nn.Module):
    """A part of :func:`carriers` that carries nothing from before ``frame`` to ``frame`` or later."""

    def __init__(self, part: nn.Module, frame: int) -> None:
        super().__init__()
        self.part, self.frame = part, frame
        if isinstance(part, CausalConv1d):
            self.out_channels = part.out_channels

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Return what the part would return at ``frame`` and later if nothing had been before it."""
        if isinstance(self.part, Attention):  # queries at the frame and later do not see earlier keys
            late = torch.arange(inputs[0].shape[-2]) >= self.frame
            return nn.functional.scaled_dot_product_attention(*inputs, attn_mask=~(late[:, None] & ~late))
        found = []
        for frames in (slice(self.frame), slice(self.frame, None)):
            own = {name: value[:, frames] if value.ndim > 1 else value for name, value in named.items()}
            found.append(self.part(*(value[:, frames] for value in inputs), **own))
        if isinstance(self.part, nn.LSTM):  # the backward direction is as it was
            forwards = torch.cat([output[..., : self.part.hidden_size] for output, _ in found], dim=1)
            return torch.cat([forwards, self.part(*inputs)[0][..., self.part.hidden_size :]], dim=-1), None
        return torch.cat(found, dim=1)


class Sharpened(nn.Module):
    """Attention with its logits multiplied by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; queries are multiplied by the factor."""
        return nn.functional.scaled_dot_product_attention(self.factor * q, k, v)


def traces(model: nn.Module, probe: Probe, gap: float, *, pairs: int = 10) -> list[dict[str, Any]]:
    """Follow the cue through a network over a gap: one record for each scan and each attention.

    The two examples of a pair differ only in the cue. Fields of attention:

    - ``mass``: by head, the weight that queries in the play stretch give to the cue's frames;
    - ``uniform``: what equal weights would give.

    Fields of a scan:

    - ``half_life``: by head, the time in s in which the state halves, median over the gap's frames;
    - ``difference``: distance between the states of a pair, relative to their norm, at ``times`` in s after the cue.
    """
    made = [
        example([TEST, 1, index], Condition(gap, swapped=swapped), probe, timbre=index % 2)
        for swapped in (False, True)
        for index in range(pairs)
    ]
    hop = model.config.stft.hop_length
    frames = {
        n: slice(round(s.start / hop), round(s.stop / hop)) for n, s in (("cue", made[0].cue), ("play", made[0].play))
    }
    records = []
    for part, inputs in _calls(model, cue_gap.mixtures_and_targets(made)[0]):
        record: dict[str, Any] = {"layer": len(records), "gap": gap}
        if isinstance(part, Attention):
            records.append(record | _mass(inputs[0], inputs[1], frames))
        elif isinstance(part, Scan):
            records.append(record | _state(inputs, frames, pairs, hop / RATE, gap))
    return records


@torch.no_grad()
def _calls(model: nn.Module, mixtures: Tensor) -> list[tuple[nn.Module, dict[int | str, Tensor]]]:
    """Run a network, and return each part of :func:`carriers` with its inputs, by position or name.

    A part is called several times, each time with some of the rows. Its inputs are concatenated, except vectors of
    weights, which are the same in each call.
    """
    calls: dict[nn.Module, dict[int | str, Tensor]] = {}

    def keep(part: nn.Module, args: tuple, kwargs: dict[str, Tensor]) -> None:
        own = calls.setdefault(part, {})
        for name, value in [*enumerate(args), *kwargs.items()]:
            own[name] = torch.cat([own[name], value]) if name in own and value.ndim > 1 else value

    with ExitStack() as hooks:
        for owner, name in carriers(model):
            hooks.enter_context(getattr(owner, name).register_forward_pre_hook(keep, with_kwargs=True))
        model(mixtures)
    return list(calls.items())


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
