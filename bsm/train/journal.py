"""What a run writes down as it goes: ``log.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lightning_fabric.loggers import TensorBoardLogger

from bsm.files import write_text


class Journal:
    """``log.jsonl``, one line an update, and the same in ``tensorboard/``.

    On resuming, lines past the checkpoint are dropped: they will come again.

    Args:
        run: the run's folder.
        step: updates that the checkpoint holds.
    """

    def __init__(self, run: Path, step: int) -> None:
        path = run / "log.jsonl"
        kept = [line for line in path.read_text().splitlines() if _step(line) <= step] if path.is_file() else []
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._board = TensorBoardLogger(run, name="tensorboard", version="", purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append an update; JSON knows no number that is not finite, null stands for it."""
        record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        numbers = {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}
        self._board.log_metrics(numbers, step=record["step"])

    def flush(self) -> None:
        """Bring the lines to the disk, where the checkpoint that they belong to will be."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._board.finalize("failed" if error else "success")


class NoJournal:
    """Stands in for the journal in every process but the first."""

    def write(self, record: dict[str, Any]) -> None:
        """Write nothing."""

    def flush(self) -> None:
        """Flush nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # the half line of a killed run
        return math.inf


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the updates of a run, in order.

    Each has step, loss, grad_norm, lr, seconds, waited (s of them for data) and memory_mb (peak so far); validated ones
    have valid_loss and valid_usdr; skipped ones have the segments that were not used, as [first, end) pairs, under
    skipped. A number that was not finite is NaN.
    """
    lines = (run / "log.jsonl").read_text().splitlines()
    return [{k: math.nan if v is None else v for k, v in json.loads(line).items()} for line in lines]
