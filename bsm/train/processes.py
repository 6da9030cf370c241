"""Devices and processes: one, or those that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

from bsm.errors import InputError

T = TypeVar("T")

# FFTs know no half precision, and float16's range is too small for the loss's gradients without a scaler.
PRECISIONS = ("32-true", "bf16-mixed")


def make_fabric(device: str, precision: str) -> Fabric:
    """Join the processes that ``torchrun`` started, or be the only one.

    Args:
        device: Fabric's accelerator name: ``auto``, ``cpu``, ``cuda``.
        precision: one of :data:`PRECISIONS`.

    Raises:
        InputError: a device or precision that is not here.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} cannot be trained in; choose one of {', '.join(PRECISIONS)}")
    total = local = 1
    if distributed.is_available() and distributed.is_torchelastic_launched():
        total, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    try:
        fabric = Fabric(
            accelerator=device,
            devices=local,
            num_nodes=total // local,
            strategy=DDPStrategy(broadcast_buffers=False) if total > 1 else "auto",  # buffers are constants
            precision=precision,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # Fabric's refusals, which name what there is
        raise InputError(f"device {device!r}: {' '.join(str(error).split())}") from error
    fabric.launch()
    return fabric


def first_alone(fabric: Fabric, action: Callable[[], T]) -> T:
    """Let the first process act while the others wait; give all of them its result, or raise its refusal in all."""
    outcome = None
    if fabric.is_global_zero:
        try:
            outcome = action()
        except (InputError, OSError) as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
