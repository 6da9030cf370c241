"""Which segments an update takes, and which of them a process reads.

Update ``u`` takes the segments ``u * n`` to ``(u + 1) * n - 1`` of the data set, with ``n`` the configuration's
:attr:`~bsm.config.TrainConfig.update_segments`, whatever the number of processes. No segment comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from bsm.config import TrainConfig
from bsm.errors import InputError


def passes_per_update(config: TrainConfig, processes: int) -> int:
    """Return the forward passes of a process in an update.

    Raises:
        InputError: the update's segments cannot be shared out evenly.
    """
    passes, rest = divmod(config.accumulate * config.processes, processes)
    if rest or not passes:
        raise InputError(
            f"an update is {config.accumulate * config.processes} passes of {config.batch_size} segments, which "
            f"{processes} processes cannot share evenly; start a number that divides it"
        )
    return passes


def pass_segments(config: TrainConfig, update: int, number: int, rank: int, processes: int) -> range:
    """Return the segments of a process's forward pass ``number`` in an update (all count from 0)."""
    first = update * config.update_segments + (number * processes + rank) * config.batch_size
    return range(first, first + config.batch_size)


class RankSampler(Sampler[int]):
    """The segments that one process reads, from an update to the end, in order."""

    def __init__(self, config: TrainConfig, *, first_update: int, rank: int, processes: int) -> None:
        self._config, self._first, self._rank, self._processes = config, first_update, rank, processes
        self._passes = passes_per_update(config, processes)

    def __len__(self) -> int:
        return (self._config.steps - self._first) * self._passes * self._config.batch_size

    def __iter__(self) -> Iterator[int]:
        for update in range(self._first, self._config.steps):
            for number in range(self._passes):
                yield from pass_segments(self._config, update, number, self._rank, self._processes)
