"""The processes of a training: their device, their shares of an update, and the signals that stop them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self, TypeVar

from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

from bsm.config import TrainConfig
from bsm.devices import choose_device
from bsm.errors import InputError, known, one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

# Fabric's names. There is no FFT in bfloat16, so 16-bit weights fail. In float16, gradients of the loss would overflow.
PRECISIONS = ("32-true", "bf16-mixed")


def make_fabric(device: str, precision: str) -> Fabric:
    """Connect the processes that ``torchrun`` started, or set up a single process.

    Args:
        device: Fabric's accelerator name: ``auto``, ``cpu``, ``cuda``.
        precision: one of :data:`PRECISIONS`.

    Raises:
        InputError: the device is not available, or the precision is not supported.
    """
    known("precision", precision, PRECISIONS)
    total = local = 1
    if distributed.is_available() and distributed.is_torchelastic_launched():
        total, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    try:
        fabric = Fabric(
            accelerator=choose_device(device),
            devices=local,
            num_nodes=total // local,
            strategy=DDPStrategy(broadcast_buffers=False) if total > 1 else "auto",  # buffers are constants
            precision=precision,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # Fabric's messages name the devices that exist
        raise InputError(f"device {device!r}: {one_line(error)}") from error
    fabric.launch()
    return fabric


def first_alone(fabric: Fabric, action: Callable[[], T]) -> T:
    """Run an action in the first process; return its result, or raise its InputError or OSError, in every process."""
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


# ---- the share of each process
#
# With n = config.update_segments, update u takes segments u n to (u + 1) n - 1 of the data set, whatever the number of
# processes. No segment comes twice.


def passes_per_update(config: TrainConfig, processes: int) -> int:
    """Return how many passes a process makes in an update; unequal shares of its segments are an InputError."""
    passes, rest = divmod(config.accumulate * config.processes, processes)
    if rest or not passes:
        raise InputError(
            f"an update is {config.accumulate * config.processes} passes of {config.batch_size} segments, which "
            f"{processes} processes cannot share evenly; start a number that divides it"
        )
    return passes


def pass_segments(config: TrainConfig, update: int, number: int, rank: int, processes: int) -> range:
    """Return the segments of forward pass ``number`` of a process in an update; all numbers count from 0."""
    first = update * config.update_segments + (number * processes + rank) * config.batch_size
    return range(first, first + config.batch_size)


def rank_segments(config: TrainConfig, *, first_update: int, rank: int, processes: int) -> Iterator[int]:
    """Yield the segments that one process reads, in order, from update ``first_update`` to the last."""
    for update in range(first_update, config.steps):
        for number in range(passes_per_update(config, processes)):
            yield from pass_segments(config, update, number, rank, processes)


# ---- signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0  # s after a signal in which a Ctrl-C counts as the same signal


class Stopped(KeyboardInterrupt):
    """A signal ended the training after it was saved; ``status`` is the shell's exit status for that signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.status = 128 + signum


class StopRequest:
    """Record the first SIGINT or SIGTERM of a ``with`` block in ``signum`` (0: none); a second Ctrl-C stops at once.

    The terminal or cluster signals every process, and ``torchrun`` passes the same signal on. So a process may receive
    it twice, and the second must not end the update that will be saved. Outside the main thread, Python gives no
    signals, and this records none.
    """

    def __init__(self) -> None:
        self.signum, self._since = 0, 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._since = number, time.monotonic()
            log.warning("%s: stopping after this update; Ctrl-C again stops at once", signal.Signals(number).name)
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt


def ignore_signals(_: int) -> None:
    """Ignore stop signals in a worker of the data loader: its end would stop the main process within an update."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
