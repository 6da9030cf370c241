"""Where the time of a training step goes: a clock that follows the model's parts, forwards and backwards."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import bsm.mamba2
import bsm.model
from bsm.model import BSMamba2
from bsm.study.bench import _finish

SCAN, CONV, PRODUCTS, ELEMENTWISE = "scan", "convolution", "other matrix products", "norms, gates, copies"
STFT, LOSS, OPTIMISER, DATA = "STFT and mask", "loss", "optimiser", "data"
PARTS = (SCAN, CONV, PRODUCTS, ELEMENTWISE, STFT, LOSS, OPTIMISER, DATA)


class Clock:
    """Counts every moment to one part and one direction, ``forward`` or ``backward``.

    Attributes:
        seconds: by (part, direction).
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._now: tuple[str, str] | None = None
        self._since = 0.0

    def switch(self, part: str | None, direction: str = "forward") -> None:
        """Count what comes to another part; None stops the clock. Work queued on a GPU is waited for."""
        _finish()
        moment = time.perf_counter()
        if self._now:
            self.seconds[self._now] += moment - self._since
        self._now, self._since = part and (part, direction), moment

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time, and that of its backward pass, counted to a part.

        Its inputs and outputs pass through a node of the graph that switches the clock. Autograd runs such a node when
        all gradients that enter it are there, and otherwise goes backwards in the order of the forward pass, so that
        what lies between two of them is the function's own.
        """

        def timed(*args: Any, **kwargs: Any) -> Any:
            outside = self._now[0] if self._now else None
            values = self._mark((*args, *kwargs.values()), part, outside)
            out = function(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
            if isinstance(out, tuple):
                return self._mark(out, outside, part)
            return self._mark((out,), outside, part)[0]

        return timed

    def _mark(self, values: tuple, on: str | None, back: str | None) -> tuple:
        """Count what follows to ``on``, and what follows in the backward pass to ``back``; return the same values."""
        graph = [torch.is_grad_enabled() and isinstance(v, Tensor) and v.requires_grad for v in values]
        if not any(graph):
            self.switch(on)
            return values
        marked = iter(_Switch.apply(self, on, back, *(v for v, kept in zip(values, graph, strict=True) if kept)))
        return tuple(next(marked) if kept else v for v, kept in zip(values, graph, strict=True))


class _Switch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, clock: Clock, on: str | None, back: str | None, *tensors: Tensor):
        ctx.clock, ctx.back = clock, back
        ctx.set_materialize_grads(False)
        clock.switch(on)
        return tuple(v.view_as(v) for v in tensors)

    @staticmethod
    def backward(ctx, *gradients):
        ctx.clock.switch(ctx.back, "backward")
        return None, None, None, *gradients


@contextmanager
def timed_parts(
    model: BSMamba2, clock: Clock | None, *, scan: Callable[..., tuple[Tensor, Tensor | None]] = bsm.mamba2.scan
) -> Iterator[None]:
    """Let a clock follow the parts of a model inside the block.

    Args:
        model: its calls are counted; no other model may be called inside the block.
        clock: None leaves the model as it is.
        scan: takes the place of :func:`bsm.scan.scan`.
    """
    with ExitStack() as stack:

        def put(owner: Any, name: str, part: str) -> None:
            stack.enter_context(patch.object(owner, name, clock.wrap(part, getattr(owner, name))))

        stack.enter_context(patch.object(bsm.mamba2, "scan", scan))
        if clock is None:
            yield
            return
        put(bsm.mamba2, "scan", SCAN)
        put(bsm.mamba2, "causal_conv", CONV)
        put(bsm.model.BandLinear, "forward", PRODUCTS)
        put(model, "forward", STFT)
        for module in (model.band_split, model.dual_path, model.final_norm, model.mask_estimator):
            put(module, "forward", ELEMENTWISE)
        for module in model.dual_path.modules():
            if isinstance(module, nn.Linear):
                put(module, "forward", PRODUCTS)
        yield
