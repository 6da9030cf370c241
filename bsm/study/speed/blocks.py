"""The parts around the scan: convolution, one block, compilation, and what the scan's direct term contributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bsm.config import ModelConfig
from bsm.conv import BACKENDS, causal_conv, unavailable
from bsm.mamba2 import BiMamba2Block, Mamba2, Scan
from bsm.model import BSMamba2
from bsm.scan import scan
from bsm.study.speed.scan import frames_of
from bsm.study.speed.timer import SEED, compiling, repeated


def measure(seconds: Sequence[float], *, repeats: int, device: str) -> dict[str, Any]:
    """Measure :func:`conv` at some lengths, in s, and :func:`block` at its default length."""
    return {"conv": conv(seconds, repeats=repeats, device=device), "block": block(repeats=repeats, device=device)}


def conv(
    seconds: Sequence[float] = (4.0,), *, batch: int = 4, repeats: int = 3, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Time the convolution backends that can run here, at the paper's 1280 channels and 4 taps."""
    config = ModelConfig.preset("paper")
    channels = config.d_inner + 2 * config.d_state
    torch.manual_seed(SEED)
    # Drawn on the CPU, so that every device gets the same.
    weight, bias = torch.randn(channels, 1, config.d_conv).to(device), torch.randn(channels).to(device)
    names = [n for n in BACKENDS if unavailable(n, device, torch.float32, config.d_conv) is None]
    records = []
    for span in seconds:
        x = torch.randn(batch, frames_of(span), channels).to(device)
        for train in (False, True):
            times = repeated({n: partial(_convolve, x, weight, bias, n, train) for n in names}, repeats)
            case = {"rows": batch, "length": x.shape[1], "pass": "forward + backward" if train else "forward"}
            records += [case | {"backend": n} | times.of(n) for n in names]
    return records


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, backend: str, train: bool) -> None:
    leaves = [v.detach().requires_grad_(train) for v in (x, weight, bias)]
    with torch.set_grad_enabled(train):
        y = causal_conv(*leaves, backend=backend)
    if train:
        y.backward(torch.ones_like(y))


def _block(config: ModelConfig) -> BiMamba2Block:
    torch.manual_seed(SEED)
    return BiMamba2Block(config)


def block(
    seconds: float = 4.0, *, rows: Sequence[int] = (1, 62), repeats: int = 3, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Time one bidirectional block of the paper's size, forward, with one row and with as many as there are bands."""
    module = _block(ModelConfig.preset("paper")).to(device)
    values = {n: torch.randn(n, frames_of(seconds), 256).to(device) for n in rows}
    with torch.inference_mode():
        times = repeated({str(n): partial(module, v) for n, v in values.items()}, repeats)
    return [{"rows": n, "length": frames_of(seconds)} | times.of(str(n)) for n in rows]


def compiled(preset: str = "small", *, seconds: float = 1.0, repeats: int = 5) -> dict[str, Any]:
    """Time a block's forward + backward with and without ``torch.compile``; also the seconds that compiling took."""
    config = ModelConfig.preset(preset)
    plain = _block(config)
    x = torch.randn(len(config.bands), frames_of(seconds), config.dim)

    def step(module: nn.Module) -> None:
        plain.zero_grad()
        module(x).square().mean().backward()

    return {"preset": preset} | compiling(partial(step, plain), partial(step, torch.compile(plain)), repeats)


@torch.inference_mode()
def direct_share(model: BSMamba2, mixture: Tensor) -> list[dict[str, Any]]:
    """Measure the direct term ``D x`` in each scan's output for a mixture, ``(batch, channels, samples)``.

    Returns:
        One record per mixer: its name, the sequence length, ``direct`` = ||D x|| / ||y||, and ``without_state`` =
        ||y - y of the feedthrough backend|| / ||y||, the error of leaving out the state between chunks.
    """
    energies: dict[tuple[str, int], np.ndarray] = {}

    def measure(name: str, module: Scan, _: tuple, values: dict[str, Tensor]) -> None:
        y, _ = scan(**values, reverse=module.reverse, final_state=False)
        rough, _ = scan(**values, reverse=module.reverse, final_state=False, backend="feedthrough")
        parts = np.array([float(p.square().sum()) for p in (y, values["x"] * values["D"][:, None], y - rough)])
        case = name, y.shape[1]
        energies[case] = energies.get(case, 0) + parts  # a scan is called once per slab of rows

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, Mamba2):
                hooks.enter_context(module.ssm.register_forward_pre_hook(partial(measure, name), with_kwargs=True))
        model(mixture)
    return [
        {"mixer": name, "length": length, "direct": math.sqrt(d / y), "without_state": math.sqrt(e / y)}
        for (name, length), (y, d, e) in energies.items()
    ]
