"""Errors of every scan and convolution backend on a device, outputs and gradients, against float64."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bsm import conv
from bsm.config import ModelConfig
from bsm.scan import scan
from bsm.study.speed.scan import FRAMES_PER_SECOND, exact_backends, inputs
from bsm.study.speed.timer import SEED

log = logging.getLogger(__name__)

PRECISIONS = (torch.float32, torch.bfloat16)


def measure(*, tf32: bool, seconds: float, rows: int, preset: str, device: str) -> dict[str, list[dict[str, Any]]]:
    """Compare all backends that can run on a device with the step-by-step scan and with Conv1d, both in float64.

    In bfloat16, the sequences have that precision and the parameters and step sizes float32, as under autocast. The
    reference is computed of the rounded values. Triton's own use of TF32 depends on ``TRITON_F32_DEFAULT`` (see
    :mod:`bsm.scan.triton`), which has to be set before this process starts.

    Args:
        tf32: whether PyTorch may multiply float32 matrices in TF32, on a GPU that has it.
        seconds: length of the sequences, at 100 frames a second.
        rows: sequences.
        preset: size of the network whose shapes they have.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``scan`` and ``conv``: one record per backend, precision and direction. ``output_error`` and
        ``gradient_errors`` are relative: ``||got - want|| / ||want||``. A backend that failed has ``failed`` instead:
        what it said.
    """
    config, length = ModelConfig.preset(preset), round(seconds * FRAMES_PER_SECOND) + 1
    channels = config.d_inner + 2 * config.d_state
    generator = torch.Generator().manual_seed(SEED)  # on the CPU, so that every device gets the same
    shapes = {"x": (rows, length, channels), "weight": (channels, 1, config.d_conv), "bias": (channels,)}
    filtered = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    scanned = inputs(rows, length, config, device=device)
    scans = exact_backends(device)
    records: dict[str, list[dict[str, Any]]] = {"scan": [], "conv": []}
    with _tf32(tf32):
        for precision in PRECISIONS:
            convs = [name for name in conv.BACKENDS if conv.unavailable(name, device, precision, config.d_conv) is None]
            for reverse in (False, True):
                case = {"precision": str(precision).removeprefix("torch."), "reverse": reverse}
                for kind, function, names, reference, values in (
                    ("scan", _scan, scans, "sequential", scanned),
                    ("conv", conv.causal_conv, convs, "conv1d", filtered),
                ):
                    backends = {name: partial(function, backend=name, reverse=reverse) for name in (*names, reference)}
                    rounded = {n: v.to(precision) if n in ("x", "B", "C") else v for n, v in values.items()}
                    records[kind] += [case | found for found in _compared(backends, names, reference, rounded)]
    return records


def _scan(**values: Any) -> Tensor:
    return scan(**values, final_state=False)[0]


def _compared(
    backends: Mapping[str, Callable[..., Tensor]], names: list[str], reference: str, values: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    """Yield the errors of each named backend for the same inputs and the same gradient of the output."""
    x = values["x"]  # the output has its shape
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED)).bfloat16().to(x.device)
    want = _results(backends[reference], {name: value.double() for name, value in values.items()}, weight)
    for name in names:
        try:
            got = _results(backends[name], values, weight)
        except Exception as error:  # a kernel that fails here is a finding, and the other backends go on
            log.warning("%s failed: %s", name, error)
            yield {"backend": name, "failed": f"{type(error).__name__}: {error}"}
            continue
        errors = {key: float((got[key].double() - want[key]).norm() / want[key].norm()) for key in want}
        yield {"backend": name, "output_error": errors.pop(""), "gradient_errors": errors}


def _results(function: Callable[..., Tensor], values: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Return the gradient of each input by its name, and under the empty name the output."""
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    y = function(**leaves)
    gradients = torch.autograd.grad(y, list(leaves.values()), weight.to(y.dtype))
    return {"": y.detach()} | dict(zip(leaves, gradients, strict=True))


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let PyTorch multiply and convolve float32 in TF32, or not, within the block."""
    libraries = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [library.allow_tf32 for library in libraries]
    try:
        for library in libraries:
            library.allow_tf32 = allowed
        yield
    finally:
        for library, value in zip(libraries, before, strict=True):
            library.allow_tf32 = value
