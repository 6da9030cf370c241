"""Where the time of a training step goes: a clock that follows the model's parts, forwards and backwards."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bsm.mamba2 import CausalConv1d, Scan
from bsm.model import BandLinear, BSMamba2
from bsm.study.speed.timer import finish
from bsm.study.speed.yardsticks import OtherScan

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
        """Count the time from now on to another part; None stops the clock. Wait for work queued on a GPU."""
        finish()
        moment = time.perf_counter()
        if self._now:
            self.seconds[self._now] += moment - self._since
        self._now, self._since = part and (part, direction), moment

    @contextmanager
    def follow(self, module: nn.Module, part: str) -> Iterator[None]:
        """Count a module's time, forward and backward, to a part inside the block.

        The module's inputs and its output, one tensor, pass through a node of the graph that switches the clock.
        Autograd runs this node once it has all gradients that enter the node. Otherwise it goes through the forward
        pass in reverse order. The time between two such nodes is therefore the module's own.
        """
        outside: list[str | None] = []  # the part around each call in progress

        def enter(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            outside.append(self._now and self._now[0])
            values = self._mark((*args, *kwargs.values()), part, outside[-1])
            return values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))

        def leave(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
            return self._mark((output,), outside.pop(), part)[0]

        before = module.register_forward_pre_hook(enter, with_kwargs=True)
        with before, module.register_forward_hook(leave):
            yield

    def _mark(self, values: tuple, on: str | None, back: str | None) -> tuple:
        """Count the time after this call to ``on``, and after its backward pass to ``back``; return the same values."""
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
def timed_parts(model: BSMamba2, clock: Clock) -> Iterator[None]:
    """Let a clock follow the parts of a model inside the block."""
    around = (model.band_split, model.dual_path, model.final_norm, model.mask_estimator)
    parts = [(model, STFT), *((module, ELEMENTWISE) for module in around)]
    layers = {SCAN: (Scan, OtherScan), CONV: (CausalConv1d,), PRODUCTS: (nn.Linear, BandLinear)}
    parts += [(m, part) for m in model.modules() for part, kinds in layers.items() if isinstance(m, kinds)]
    with ExitStack() as followed:
        for module, part in parts:
            followed.enter_context(clock.follow(module, part))
        yield
