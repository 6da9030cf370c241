"""Errors of every scan and convolution backend on a device, outputs and gradients, against float64."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bsm import conv
from bsm.config import ModelConfig
from bsm.scan import scan
from bsm.study.speed.scan import errors, exact_backends, frames_of, inputs, with_gradients
from bsm.study.speed.timer import SEED

log = logging.getLogger(__name__)

PRECISIONS = (torch.float32, torch.bfloat16)


def measure(*, seconds: float, rows: int, preset: str, device: str) -> dict[str, list[dict[str, Any]]]:
    """Compare all backends that can run on a device with the step-by-step scan and with Conv1d, both in float64.

    In bfloat16, the sequences have that precision and the parameters and step sizes float32, as under autocast. The
    reference is computed of the rounded values. Whether matrices are multiplied in TF32 depends on variables of the
    environment, which have to be set before this process starts (:data:`bsm.study.gpu.PARTS`).

    Args:
        seconds: length of the sequences, at 100 frames a second.
        rows: sequences.
        preset: size of the network whose shapes they have.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``scan`` and ``conv``: one record per backend, precision and direction. ``output_error`` and
        ``gradient_errors`` are relative: ``||got - want|| / ||want||``. A backend that failed has ``failed`` instead:
        what it said.
    """
    config, length = ModelConfig.preset(preset), frames_of(seconds)
    channels = config.d_inner + 2 * config.d_state
    generator = torch.Generator().manual_seed(SEED)  # on the CPU, so that every device gets the same
    shapes = {"x": (rows, length, channels), "weight": (channels, 1, config.d_conv), "bias": (channels,)}
    filtered = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    scanned = inputs(rows, length, config, device=device)
    records: dict[str, list[dict[str, Any]]] = {"scan": [], "conv": []}
    for precision in PRECISIONS:
        convs = [name for name in conv.BACKENDS if conv.unavailable(name, device, precision, config.d_conv) is None]
        for reverse in (False, True):
            case = {"precision": str(precision).removeprefix("torch."), "reverse": reverse}
            for kind, function, names, reference, values in (
                ("scan", _scan, exact_backends(device), "sequential", scanned),
                ("conv", conv.causal_conv, convs, "conv1d", filtered),
            ):
                rounded = {n: v.to(precision) if n in ("x", "B", "C") else v for n, v in values.items()}
                exact = {name: value.double() for name, value in rounded.items()}
                weight = torch.randn(exact["x"].shape, generator=torch.Generator().manual_seed(SEED)).bfloat16()
                want = with_gradients(partial(function, backend=reference, reverse=reverse), exact, weight)
                for name in names:
                    try:
                        got = with_gradients(partial(function, backend=name, reverse=reverse), rounded, weight)
                        found = errors(got, want)
                    except Exception as error:  # a kernel that fails here is a finding, and the other backends go on
                        log.warning("%s failed: %s", name, error)
                        found = {"failed": f"{type(error).__name__}: {error}"}
                    records[kind].append(case | {"backend": name} | found)
    return records


def _scan(**values: Any) -> Tensor:
    return scan(**values, final_state=False)[0]
