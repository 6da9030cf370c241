"""The files that a run writes during training: the log, TensorBoard's events, the best weights, the checkpoint."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from lightning_fabric.loggers import TensorBoardLogger
from torch import nn

from bsm.errors import InputError, first_line
from bsm.files import write_text
from bsm.weights.files import save_model
from bsm.weights.inert import advises_to_run


class Journal:
    """Write each update to ``log.jsonl`` and ``tensorboard/`` of a run's folder.

    A resumed run drops the lines after the ``step`` of its checkpoint, because it repeats those updates.
    """

    def __init__(self, run: Path, step: int) -> None:
        path = run / "log.jsonl"
        kept = [line for line in path.read_text().splitlines() if _step(line) <= step] if path.is_file() else []
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._board = TensorBoardLogger(run, name="tensorboard", version="", purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append an update. JSON has no NaN or infinity, so they become null."""
        record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        numbers = {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}
        self._board.log_metrics(numbers, step=record["step"])

    def flush(self) -> None:
        """Make sure that the lines are on the disk. Call this before a checkpoint that comes after these updates."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(*([OSError] if error else [])):  # with a full disk, this fails too; keep the first error
            self._file.close()
        with suppress(*([OSError] if error else [])):
            self._board.finalize("failed" if error else "success")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a killed run left half a line
        return math.inf


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the updates of a run, in order.

    Each has ``step``, ``loss``, ``grad_norm``, ``lr``, ``seconds``, ``waited`` (s spent waiting for data) and
    ``memory_mb`` (peak so far). An update with a validation also has ``valid_loss`` and ``valid_usdr``. A skipped
    update has ``skipped``, the unused segments as [first, end) pairs. A number that was not finite is NaN. Half a line
    at the end, which a killed run leaves behind, is left out.
    """
    lines = [line for line in (run / "log.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{k: math.nan if v is None else v for k, v in json.loads(line).items()} for line in lines]


# ---- the best weights


@dataclass
class Ranking:
    """The best validations of a run."""

    keep: int  # the most validations in the list
    best: list[tuple[float, int]] = field(default_factory=list)  # (uSDR in dB, step), best first
    since_best: int = 0  # validations after the best one

    def enter(self, score: float, step: int) -> bool:
        """Add a validation; return whether it is one of the best. Equal scores rank by step, and NaN ranks last."""
        score = -math.inf if math.isnan(score) else score
        self.best = sorted([*self.best, (score, step)], key=lambda entry: (-entry[0], entry[1]))[: self.keep]
        self.since_best = 0 if self.best[0][1] == step else self.since_best + 1
        return any(entry[1] == step for entry in self.best)


def save_best(run: Path, model: nn.Module, step: int, card: dict[str, Any]) -> Path:
    """Write a network's weights to ``best/step-<number>.safetensors``, with its card."""
    return save_model(model, _best(run, step), card | {"step": step})


def prune(run: Path, ranking: Ranking) -> None:
    """Delete the files in ``best/`` that are not in the ranking.

    Call this after a checkpoint with this ranking is written: a run that resumes from an older checkpoint needs the
    files of the older ranking.
    """
    kept = {_best(run, step) for _, step in ranking.best}
    for path in run.glob("best/*"):  # also the half-written files of a killed run
        if path.with_suffix(".safetensors") not in kept:
            path.unlink()


def _best(run: Path, step: int) -> Path:
    return run / "best" / f"step-{step:07d}.safetensors"


# ---- the checkpoint


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU; a damaged file, or one with foreign objects, is an InputError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = "not a checkpoint" if advises_to_run(error) else first_line(error)
        raise InputError(
            f"{path}: damaged training checkpoint ({reason}); move it away to train from the start"
        ) from error


@contextmanager
def writing(run: Path, kept: int) -> Iterator[None]:
    """Turn an error of writing in the block into an InputError that names the last checkpoint.

    ``run`` is the run's folder, and ``kept`` the step of that checkpoint; 0 for none.
    """
    try:
        yield
    except (OSError, RuntimeError, InputError) as error:
        reason = error if isinstance(error, InputError) else f"{run}: cannot be written ({error}); make room there"
        checkpoint = f"the checkpoint of step {kept} is kept" if kept else "there is no checkpoint yet"
        raise InputError(f"{reason}; {checkpoint}; then run the same command again") from error
