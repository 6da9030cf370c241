"""Training steps of this revision and of another one, which take turns in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
    """Measure training steps of this revision, and of the checkout in a folder, which take turns in fresh processes.

    Both run with this process's number of threads, on random segments and with each revision's own settings of the C
    library's allocator. ``sizes`` are of :data:`SIZES`.

    Returns:
        One record per size and revision: ``size``, ``revision`` (:data:`HERE` or :data:`THERE`), the times of every
        step, and the largest ``peak_bytes``, resident memory in all.

    Raises:
        InputError: there is no such size, the folder holds no package ``bsm``, or a process failed.
    """
    folders, records = {HERE: ROOT, THERE: folder.resolve()}, []
    for path in folders.values():
        if not (path / "bsm" / "__init__.py").is_file():
            raise InputError(f"{path}: no checkout of this project; it has no bsm/__init__.py")
    for name in tqdm(sizes, desc="training steps", unit="size"):
        size, peaks = SIZES[known("size", name, SIZES)], {HERE: 0, THERE: 0}

        def take(kind: str, size: Size = size, peaks: dict[str, int] = peaks) -> tuple[float, float]:
            found = _step(folders[kind], size)
            peaks[kind] = max(peaks[kind], found["peak_bytes"])
            return tuple(found["seconds"])

        times = turns({kind: partial(take, kind) for kind in folders}, repeats)
        records += [{"size": name, "revision": k, "peak_bytes": peaks[k]} | times.of(k) for k in folders]
    return records


def _step(folder: Path, size: Size) -> dict[str, Any]:
    """Run :mod:`bsm.study.speed.revision` with the package of a folder; return what it says of its last step."""
    threads = torch.get_num_threads()
    case = {"config": _changed(size.config), "loss": _changed(size.loss), "batch": size.batch}
    done = subprocess.run(
        [sys.executable, "-P", revision.__file__],  # -P: the script's own folder holds no packages
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)},
        input=json.dumps(case | {"seconds": size.seconds, "threads": threads}),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise InputError(f"{folder}: its training failed; the lines above say why")
    found = json.loads(done.stdout)
    if not Path(found["package"]).is_relative_to(folder):
        raise InputError(f"{folder}: Python imported {found['package']} instead of this revision")
    return found


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
            row |= {"peak memory (MiB)": record["peak_bytes"] / 2**20, "quiet": "yes" if is_quiet(record) else "no"}
            rows.append({"size": record["size"], "revision": record["revision"]} | row)
    return pd.DataFrame(rows)
