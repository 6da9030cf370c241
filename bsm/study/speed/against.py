"""Compare training steps of this revision and of another. They take turns, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from bsm import bands
from bsm.baseline import RoformerConfig
from bsm.config import TIME_BLOCKS, LossConfig, ModelConfig, StftConfig
from bsm.errors import InputError
from bsm.stats import interval_words, ratio
from bsm.study.records import ROOT
from bsm.study.speed import revision
from bsm.study.speed.timer import is_quiet, turns

ROFORMER = "BS-RoFormer"
NETWORKS = (*TIME_BLOCKS, ROFORMER)
HERE, THERE = "here", "there"
WARM_UP = 2  # steps; the first one makes the optimiser's moments


class Size(NamedTuple):
    """What a step takes: a network's size, its loss, and ``batch`` segments of ``seconds``."""

    config: ModelConfig
    loss: LossConfig
    batch: int = 2
    seconds: float = 1.0


MEL = ModelConfig.preset("tiny-16k").replace(stft=StftConfig(1024, 512), bands=bands.mel(513, 20, 16000))
SIZES = {
    "20 mel bands": Size(MEL, LossConfig.at_rate(16000).replace(windows=(1440, 360, 96))),
    "study-16k": Size(ModelConfig.preset("study-16k"), LossConfig.at_rate(16000)),
    "tiny": Size(ModelConfig.preset("tiny"), LossConfig()),
    "small": Size(ModelConfig.preset("small"), LossConfig()),
    "paper": Size(ModelConfig.preset("paper"), LossConfig(), batch=1, seconds=0.5),
}
BLOCKS_AT = "study-16k"  # the size at which all networks are measured


def cases(sizes: Iterable[str] = SIZES) -> list[tuple[str, str]]:
    """List (size, network): the paper's network at every size, and the others at :data:`BLOCKS_AT`, or at a size alone.

    Raises:
        InputError: a size is none of :data:`SIZES`.
    """
    sizes = list(sizes)
    if unknown := [s for s in sizes if s not in SIZES]:
        raise InputError(f"no size {', '.join(unknown)} is compared; choose from {', '.join(SIZES)}")
    return [(s, n) for s in sizes for n in NETWORKS if n == "mamba2" or s == BLOCKS_AT or len(sizes) == 1]


def measure(folder: Path, pairs: Sequence[tuple[str, str]], *, repeats: int = 5) -> list[dict[str, Any]]:
    """Measure training steps of this revision and of the one in a folder; the revisions take turns step by step.

    Both run with this process's number of threads, on random segments and with each revision's own settings of the C
    library's allocator.

    Args:
        folder: checkout of the other revision.
        pairs: (size, network), see :func:`cases`.
        repeats: kept steps.

    Returns:
        One record per size, network and revision: ``size``, ``network``, ``revision`` (:data:`HERE` or :data:`THERE`),
        the times of its steps (:meth:`Rounds.of`), ``parts`` (each part's processor time in every step), ``peak_bytes``
        and ``base_bytes`` (resident memory in all, and before the network was made). A revision that has no such
        network has ``lacks`` instead, with what it said.

    Raises:
        InputError: the folder holds no package ``bsm``, or a process ended early.
    """
    folders = {HERE: ROOT, THERE: folder.resolve()}
    for path in folders.values():
        if not (path / "bsm" / "__init__.py").is_file():
            raise InputError(f"{path}: no checkout of this project; it has no bsm/__init__.py")
    records = []
    for size, network in tqdm(pairs, desc="training steps", unit="case"):
        case = _case(size, network)
        with ExitStack() as stack:
            made = {name: stack.enter_context(_training(path, case)) for name, path in folders.items()}
            steps = {name: step for name, (told, step) in made.items() if "lacks" not in told}
            for step in [*steps.values()] * WARM_UP:
                step()
            times = turns(steps, repeats)
        for name, (told, _) in made.items():
            record = {"size": size, "network": network, "revision": name}
            if name in steps:
                parts = {part: [own[part] for own, _ in times.found[name]] for part in revision.PARTS}
                memory = {"peak_bytes": times.found[name][-1][1], "base_bytes": told["base_bytes"]}
                records.append(record | times.of(name) | {"parts": parts} | memory)
            else:
                records.append(record | {"lacks": told["lacks"]})
    return records


def _case(size: str, network: str) -> dict[str, Any]:
    """Return what :func:`bsm.study.speed.revision.train` gets."""
    chosen, other = SIZES[size], network == ROFORMER
    config = RoformerConfig.like(chosen.config) if other else chosen.config.replace(time_block=network)
    return chosen._asdict() | {
        "network": ROFORMER if other else "BSMamba2",
        "config": _changed(config),
        "loss": _changed(chosen.loss),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def _training(folder: Path, case: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Callable[[], tuple[Any, ...]]]]:
    """Start a process that trains with the revision in a folder.

    Yields:
        Its answer to the case, and a function that lets it take two steps and returns the second one's wall and
        processor time, its parts' times, and the peak of the process's memory so far.
    """
    command = [sys.executable, "-P", revision.__file__]  # -P: the script's own folder holds no packages
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(case["threads"])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, env=environment, **pipes) as process:

        def ask(line: Any) -> dict[str, Any]:
            answer = b""
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(line).encode() + b"\n")
                answer = process.stdout.readline()
            if not answer:
                raise InputError(f"{folder}: its training ended early; the lines above say why")
            return json.loads(answer)

        def step() -> tuple[Any, ...]:
            ask("step")  # after the other revision's turn, the caches hold its data; a training does not pause
            told = ask("step")
            return *told["seconds"], told["parts"], told["peak_bytes"]

        told = ask(case)
        if not Path(told["package"]).is_relative_to(folder):
            raise InputError(f"{folder}: Python imported {told['package']} instead of this revision")
        yield told, step


def _changed(config: ModelConfig | RoformerConfig | LossConfig) -> dict[str, Any]:
    """Return a configuration's values that are not defaults, so that a revision need not know the other fields."""
    default = type(config)().to_dict()
    return {name: value for name, value in config.to_dict().items() if value != default[name]}


def table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List the best processor times of a step and its parts, its memory, and the ratio of both revisions."""
    there = {(r["size"], r["network"]): r.get("processor_seconds") for r in records if r["revision"] == THERE}
    rows = []
    for record in records:
        row = {"size": record["size"], "network": record["network"], "revision": record["revision"]}
        if "lacks" in record:
            rows.append(row | {"step (ms)": float("nan"), "quiet": record["lacks"]})
            continue
        own = record["processor_seconds"]
        row["step (ms)"] = 1e3 * min(own)
        row |= {f"{part} (ms)": 1e3 * min(seconds) for part, seconds in record["parts"].items()}
        row["peak memory (MiB)"] = (record["peak_bytes"] or float("nan")) / 2**20
        if record["revision"] == HERE and (other := there.get((record["size"], record["network"]))):
            row["times as fast, best"] = min(other) / min(own)
            row["round by round"] = interval_words(ratio(other, own), "x")
        rows.append(row | {"quiet": "yes" if is_quiet(record) else "no"})
    return pd.DataFrame(rows)
