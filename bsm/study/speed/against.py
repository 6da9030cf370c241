"""Training steps of this revision and of another one, which take turns in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from tqdm import tqdm

from bsm.config import LossConfig, ModelConfig
from bsm.errors import InputError, known
from bsm.stats import interval_words, ratio
from bsm.study.records import ROOT
from bsm.study.speed import revision
from bsm.study.speed.timer import is_quiet, turns

HERE, THERE = "here", "there"
WARM_UP = 2  # steps; the first one makes the optimiser's moments


@dataclass(frozen=True)
class Size:
    """What a step takes: a network's size, its loss, and ``batch`` segments of ``seconds``."""

    config: ModelConfig
    loss: LossConfig
    batch: int = 2
    seconds: float = 1.0

    @classmethod
    def of(cls, preset: str, **values: Any) -> Self:
        """Return the size of a preset, with the paper's loss at its rate."""
        config = ModelConfig.preset(preset)
        return cls(config, LossConfig.at_rate(config.sample_rate), **values)


SIZES = {name: Size.of(name) for name in ("study-16k", "tiny", "small")} | {
    "paper": Size.of("paper", batch=1, seconds=0.5)
}


def measure(folder: Path, sizes: Sequence[str] = tuple(SIZES), *, repeats: int = 5) -> list[dict[str, Any]]:
    """Measure training steps of this revision, and of the one in a folder, which take turns step by step.

    Both run with this process's number of threads, on random segments and with each revision's own settings of the C
    library's allocator.

    Args:
        folder: checkout of the other revision.
        sizes: of :data:`SIZES`.
        repeats: kept steps.

    Returns:
        One record per size and revision: ``size``, ``revision`` (:data:`HERE` or :data:`THERE`), the times of every
        step, ``peak_bytes`` and ``base_bytes`` (resident memory in all, and before the network was made).

    Raises:
        InputError: there is no such size, the folder holds no package ``bsm``, or a process ended early.
    """
    folders, records = {HERE: ROOT, THERE: folder.resolve()}, []
    for path in folders.values():
        if not (path / "bsm" / "__init__.py").is_file():
            raise InputError(f"{path}: no checkout of this project; it has no bsm/__init__.py")
    for name in tqdm(sizes, desc="training steps", unit="size"):
        with ExitStack() as stack:
            size = SIZES[known("size", name, SIZES)]
            made = {kind: stack.enter_context(_Revision(path, size)) for kind, path in folders.items()}
            for process in [*made.values()] * WARM_UP:
                process.step()
            times = turns({kind: process.step for kind, process in made.items()}, repeats)
            records += [{"size": name, "revision": kind} | times.of(kind) | p.memory for kind, p in made.items()]
    return records


class _Revision:
    """A process that trains a network of one revision."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, threads = folder, torch.get_num_threads()
        case = {"config": _changed(size.config), "loss": _changed(size.loss), "batch": size.batch}
        self.process = subprocess.Popen(
            [sys.executable, "-P", revision.__file__],  # -P: the script's own folder holds no packages
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = self._ask(case | {"seconds": size.seconds, "threads": threads})
        self.memory = {"base_bytes": told["base_bytes"]}
        if not Path(told["package"]).is_relative_to(folder):
            self.__exit__()
            raise InputError(f"{folder}: Python imported {told['package']} instead of this revision")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its input, which ends it

    def step(self) -> tuple[float, float]:
        """Take one step; return its wall and processor time, s."""
        taken = self._ask("step")
        self.memory["peak_bytes"] = taken["peak_bytes"]
        return tuple(taken["seconds"])

    def _ask(self, line: Any) -> dict[str, Any]:
        try:
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise InputError(f"{self.folder}: its training ended early; the lines above say why")
        return json.loads(answer)


def _changed(config: ModelConfig | LossConfig) -> dict[str, Any]:
    """Return a configuration's values that are not defaults, so that a revision need not know the other fields."""
    default = type(config)().to_dict()
    return {name: value for name, value in config.to_dict().items() if value != default[name]}


def table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List the best processor time of a step and its memory, and the ratio of both revisions."""
    rows = []
    for here, there in zip(records[::2], records[1::2], strict=True):
        times = [record["processor_seconds"] for record in (here, there)]
        ours, theirs = ({"step (ms)": 1e3 * min(own)} for own in times)
        ours["times as fast, best"] = min(times[1]) / min(times[0])
        ours["round by round"] = interval_words(ratio(times[1], times[0]), "x")
        for record, row in ((here, ours), (there, theirs)):
            row |= {"peak memory (MiB)": (record["peak_bytes"] or float("nan")) / 2**20}
            row |= {"quiet": "yes" if is_quiet(record) else "no"}
            rows.append({"size": record["size"], "revision": record["revision"]} | row)
    return pd.DataFrame(rows)
