"""Train a network of one revision of the package, a step for each line on standard input.

:mod:`bsm.study.speed.against` runs this file as a script in a process for each revision, with ``PYTHONPATH`` on that
revision's folder. It therefore uses only names that earlier revisions have, too, and says what a revision lacks.

The first line is the case, in JSON. Each line after it asks for a step. Each line of the output is one JSON object:
first ``base_bytes`` or ``lacks``, then for each step ``seconds`` and ``parts`` and the memory so far.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

PARTS = ("forward", "loss", "backward", "clipping", "optimiser", "average")


def train(case: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Build a network and its optimiser; return the function that takes one step and times its parts.

    Args:
        case: ``network`` (``BSMamba2`` or ``BS-RoFormer``), its ``config`` and that of the ``loss`` without values that
            are defaults, ``batch``, ``seconds`` of a segment, ``threads``.
    """
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    from bsm.config import LossConfig
    from bsm.loss import bsmamba2_loss

    network, config = _network(case)
    loss_config = LossConfig.from_dict(case["loss"])
    if keep := _optional("bsm.memory", "keep_freed_memory"):  # as that revision's training does
        keep()
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    update = _average(network)
    shape = case["batch"], config.channels, round(case["seconds"] * config.sample_rate)
    mixture, vocals = 0.1 * torch.randn(2, *shape)

    def step() -> dict[str, Any]:
        moments = [(time.perf_counter(), time.process_time())]

        def done() -> None:
            moments.append((time.perf_counter(), time.process_time()))

        estimate = network(mixture)
        done()
        given = estimate.detach().requires_grad_()
        bsmamba2_loss(given, vocals, loss_config).backward()  # value and gradient: some revisions form both at once
        done()
        estimate.backward(given.grad)
        done()
        nn.utils.clip_grad_norm_(parameters, 3.0, foreach=True)
        done()
        optimizer.step()
        optimizer.zero_grad()
        done()
        update()
        done()
        parts = {name: b[1] - a[1] for name, a, b in zip(PARTS, moments, moments[1:], strict=False)}
        wall, own = (moments[-1][i] - moments[0][i] for i in (0, 1))
        return {"seconds": [wall, own], "parts": parts, "peak_bytes": _memory("VmHWM")}

    return step


def _network(case: dict[str, Any]) -> tuple[nn.Module, Any]:
    if case["network"] == "BSMamba2":
        from bsm.config import ModelConfig
        from bsm.model import BSMamba2

        config = ModelConfig.from_dict(case["config"])
        return BSMamba2(config), config
    from bsm.baseline import BSRoformer, RoformerConfig

    config = RoformerConfig.from_dict(case["config"])
    return BSRoformer(config), config


def _average(network: nn.Module) -> Callable[[], None]:
    """Return what takes the network's weights into their moving average, as that revision's training does."""
    if averaged := _optional("bsm.train.trainer", "AveragedWeights"):
        return averaged(network, 0.999).update
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    return lambda: model.update_parameters(network)


def _optional(module: str, name: str) -> Any:
    """Return a name that not every revision has, or None."""
    try:
        return getattr(__import__(module, fromlist=[name]), name, None)
    except ModuleNotFoundError:
        return None


def _memory(field: str) -> int | None:
    """Return this process's resident memory in bytes, ``VmRSS`` or its peak ``VmHWM``; None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Answer the lines of standard input."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a package prints is no answer

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    import bsm

    case = json.loads(sys.stdin.readline())
    base = _memory("VmRSS")
    try:
        step = train(case)
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        answer({"lacks": f"{type(error).__name__}: {error}", "package": bsm.__file__})
        return
    answer({"base_bytes": base, "package": bsm.__file__})
    for _ in sys.stdin:
        answer(step())


if __name__ == "__main__":
    main()
