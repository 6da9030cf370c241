"""The parts around the scan: convolution, one block, and what compiling it gains."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bsm.compiled import applies
from bsm.config import ModelConfig
from bsm.conv import BACKENDS, causal_conv, unavailable
from bsm.mamba2 import BiMamba2Block
from bsm.study.speed.scan import PAPER, frames, timed_passes
from bsm.study.speed.timer import SEED, compiling, repeated


def measure(seconds: Sequence[float], *, repeats: int, device: str) -> dict[str, Any]:
    """Measure :func:`conv` at some lengths, in s, and :func:`block` at its default length."""
    return {"conv": conv(seconds, repeats=repeats, device=device), "block": block(repeats=repeats, device=device)}


def conv(seconds: Sequence[float], *, batch: int = 4, repeats: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Time the convolution backends that can run here, at the paper's 1280 channels and 4 taps."""
    functions = {name: partial(causal_conv, backend=name) for name in conv_backends(PAPER, device)}
    records = []
    for span in seconds:
        length = frames(PAPER, span)
        values = conv_inputs(batch, length, PAPER, device=device)
        records += timed_passes(functions, values, repeats, {"rows": batch, "length": length})
    return records


def conv_backends(config: ModelConfig, device: str, precision: torch.dtype = torch.float32) -> list[str]:
    """Return the convolution backends that run on a device, at a precision, with a model's taps."""
    return [name for name in BACKENDS if unavailable(name, device, precision, config.d_conv) is None]


def conv_inputs(rows: int, length: int, config: ModelConfig, *, device: str) -> dict[str, Tensor]:
    """Draw random inputs of a model's convolution, on the CPU, so that every device gets the same; float32."""
    generator, channels = torch.Generator().manual_seed(SEED), config.d_inner + 2 * config.d_state
    shapes = {"x": (rows, length, channels), "weight": (channels, 1, config.d_conv), "bias": (channels,)}
    return {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}


def _block(config: ModelConfig) -> BiMamba2Block:
    torch.manual_seed(SEED)
    return BiMamba2Block(config)


def block(seconds: float = 4.0, *, repeats: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Time one bidirectional block of the paper's size, forward, with one row and with as many as there are bands."""
    module, length = _block(PAPER).to(device), frames(PAPER, seconds)
    values = {n: torch.randn(n, length, PAPER.dim).to(device) for n in (1, len(PAPER.bands))}
    with torch.inference_mode():
        times = repeated({n: partial(module, v) for n, v in values.items()}, repeats)
    return times.records("rows", {"length": length})


def compiled(*, repeats: int) -> dict[str, Any]:
    """Time a small block's forward + backward on a second of audio with and without ``torch.compile``."""
    preset = "small"
    config = ModelConfig.preset(preset)
    plain = _block(config)
    x = torch.randn(len(config.bands), frames(config, 1.0), config.dim)

    def step(module: nn.Module) -> None:
        plain.zero_grad()
        module(x).square().mean().backward()

    times = compiling(partial(step, plain), partial(step, torch.compile(plain)), repeats)
    return {"preset": preset, "loops": applies(x)} | times
