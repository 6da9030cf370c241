"""Errors of every scan and convolution backend on a device, outputs and gradients, against float64."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bsm.config import ModelConfig
from bsm.conv import causal_conv
from bsm.study.speed.blocks import conv_backends, conv_inputs
from bsm.study.speed.scan import errors, exact_backends, frames, inputs, outputs, run, weights_like

log = logging.getLogger(__name__)

PRECISIONS = (torch.float32, torch.bfloat16)


def measure(*, tf32: bool, seconds: float, rows: int, preset: str, device: str) -> dict[str, list[dict[str, Any]]]:
    """Compare all backends that can run on a device with the step-by-step scan and with Conv1d, both in float64.

    In bfloat16, the sequences have that precision and the parameters and step sizes float32, as under autocast. The
    reference is computed of the rounded values. Triton's own use of TF32 depends on ``TRITON_F32_DEFAULT`` (see
    :mod:`bsm.scan.triton`). Set this variable before the process starts.

    Args:
        tf32: whether PyTorch may multiply float32 matrices in TF32, on a GPU that has it; from then on in this process.
        seconds: of audio that the sequences are as long as.
        rows: sequences.
        preset: size of the network that gives the shapes.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``scan`` and ``conv``: one record per backend, precision and direction. ``output_error`` and
        ``gradient_errors`` are relative: ``||got - want|| / ||want||``. A backend that failed has its error
        message as ``failed`` instead.
    """
    config = ModelConfig.preset(preset)
    length, scans = frames(config, seconds), exact_backends(device)
    scanned, filtered = (draw(rows, length, config, device=device) for draw in (inputs, conv_inputs))
    records: dict[str, list[dict[str, Any]]] = {"scan": [], "conv": []}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    for precision in PRECISIONS:
        convs = conv_backends(config, device, precision)
        for reverse in (False, True):
            case = {"precision": str(precision).removeprefix("torch."), "reverse": reverse}
            for kind, function, names, reference, values in (
                ("scan", outputs, scans, "sequential", scanned),
                ("conv", causal_conv, convs, "conv1d", filtered),
            ):
                backends = {name: partial(function, backend=name, reverse=reverse) for name in (*names, reference)}
                rounded = {n: v.to(precision) if n in ("x", "B", "C") else v for n, v in values.items()}
                records[kind] += [case | found for found in _compared(backends, names, reference, rounded)]
    return records


def _compared(
    backends: Mapping[str, Callable[..., Tensor]], names: list[str], reference: str, values: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    """Yield the errors of each named backend for the same inputs and the same gradient of the output."""
    weights = weights_like(values["x"])
    want = run(backends[reference], {name: value.double() for name, value in values.items()}, weights)
    for name in names:
        try:
            got = run(backends[name], values, weights)
        except Exception as error:  # a kernel that fails here is a finding, and the other backends go on
            log.warning("%s failed: %s", name, error)
            yield {"backend": name, "failed": f"{type(error).__name__}: {error}"}
            continue
        yield {"backend": name} | errors(got, want)
