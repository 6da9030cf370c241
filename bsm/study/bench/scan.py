"""Speed and memory, measured as ratios within one run: machines are noisy, and other work slows them unseen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bsm.config import ModelConfig
from bsm.scan import EXACT, available, scan

FRAMES_PER_SECOND = 100  # the paper's hop of 441 samples at 44.1 kHz


def repeated(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time functions in turn, round after round, so that a slow spell meets them all; seconds of each round.

    One round more runs first and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def scan_inputs(batch: int, length: int, config: ModelConfig, *, seed: int = 0) -> dict[str, Tensor]:
    """Draw random scan inputs of a model's shapes, with the official initial step sizes and decay rates; float32."""
    generator = torch.Generator().manual_seed(seed)
    heads = config.heads

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    start = torch.exp(math.log(1e-3) + math.log(100) * rand(heads))
    bias = start + torch.log(-torch.expm1(-start))
    return {
        "x": randn(batch, length, heads, config.headdim),
        "dt": torch.nn.functional.softplus(randn(batch, length, heads) / 2 + bias),
        "A": -(1 + 15 * rand(heads)),
        "B": randn(batch, length, 1, config.d_state),
        "C": randn(batch, length, 1, config.d_state),
        "D": torch.ones(heads),
    }


def _passes(inputs: dict[str, Tensor], backend: str, train: bool) -> tuple[Tensor, list[Tensor]]:
    """Run one scan; return its output and, for training, the gradient of every input for a fixed output gradient."""
    if not train:
        with torch.inference_mode():
            return scan(*inputs.values(), backend=backend, final_state=False)[0], []
    leaves = [v.detach().requires_grad_() for v in inputs.values()]
    y, _ = scan(*leaves, backend=backend, final_state=False)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return y.detach(), list(torch.autograd.grad(y, leaves, weight))


def scan_backends(
    seconds: Sequence[float] = (1.0, 4.0, 8.0),
    *,
    batch: int = 4,
    repeats: int = 3,
    config: ModelConfig | None = None,
    backends: Iterable[str] | None = None,
) -> list[dict[str, Any]]:
    """Measure error and time of the scan backends that can run here.

    On the time axis the sequence has 100 frames a second and ``batch`` rows; the band axis is as long as the model has
    bands, with 100 rows. The reference of the errors is ``sequential`` in float64.

    Args:
        seconds: lengths on the time axis, s.
        batch: rows on the time axis.
        repeats: timed rounds.
        config: gives the shapes; the paper's by default.
        backends: names; all exact ones that are available by default.

    Returns:
        One record per axis, length, pass and backend: times of every round in s, relative errors in float32
        (``||got - want|| / ||want||``; the largest over inputs for gradients).
    """
    config = config or ModelConfig.preset("paper")
    backends = [b for b in (backends or EXACT) if available()[b] is None]
    cases = [("time", batch, max(2, round(s * FRAMES_PER_SECOND) + 1)) for s in seconds]
    cases.append(("band", 100, len(config.bands)))
    records = []
    for axis, rows, length in tqdm(cases, desc="scan backends", unit="case"):
        inputs = scan_inputs(rows, length, config)
        # One row is enough for an error, and the reference in float64 is slow.
        row = {k: v[:1] if v.ndim > 1 else v for k, v in inputs.items()}
        want, want_grads = _passes({k: v.double() for k, v in row.items()}, "sequential", True)
        for train in (False, True):
            functions = {b: partial(_passes, inputs, b, train) for b in backends}
            for backend, times in repeated(functions, repeats).items():
                got, got_grads = _passes(row, backend, train)
                gradient_errors = [_error(g, w) for g, w in zip(got_grads, want_grads, strict=False)]
                records.append(
                    {
                        "axis": axis,
                        "rows": rows,
                        "length": length,
                        "pass": "forward + backward" if train else "forward",
                        "backend": backend,
                        "seconds": times,
                        "output_error": _error(got, want),
                        "gradient_error": max(gradient_errors, default=None),
                    }
                )
    return records


def _error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())
