"""Train a BSMamba2 of one revision of the package for a few steps; print what the last one took.

:mod:`bsm.study.speed.against` runs this file as a script in a process for each revision, with ``PYTHONPATH`` on that
revision's folder. It therefore uses only names that earlier revisions have, too. Standard input and output hold a JSON
object each: the case, and ``package``, ``seconds`` (wall and processor time) and ``peak_bytes`` of the process.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

WARM_UP = 2  # steps; the first one makes the optimiser's moments


def training(case: dict[str, Any]) -> tuple[nn.Module, Callable[[], None]]:
    """Return a network, and what takes a step of its training on fixed segments of noise.

    Args:
        case: the ``config`` of the network and that of the ``loss`` without values that are defaults, ``batch``,
            ``seconds`` of a segment, ``threads``.
    """
    from bsm.config import LossConfig, ModelConfig
    from bsm.loss import bsmamba2_loss
    from bsm.memory import keep_freed_memory
    from bsm.model import BSMamba2
    from bsm.train.trainer import AveragedWeights

    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    keep_freed_memory()  # as a training does
    config, loss_config = ModelConfig.from_dict(case["config"]), LossConfig.from_dict(case["loss"])
    network = BSMamba2(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    averaged = AveragedWeights(network, 0.999)
    shape = case["batch"], config.channels, round(case["seconds"] * config.sample_rate)
    mixture, vocals = 0.1 * torch.randn(2, *shape)

    def step() -> None:
        bsmamba2_loss(network(mixture), vocals, loss_config).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 3.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update()

    return network, step


def main() -> None:
    """Take the steps."""
    answer, sys.stdout = sys.stdout, sys.stderr  # whatever a package prints is no answer
    import bsm

    _, step = training(json.load(sys.stdin))
    for _ in range(WARM_UP):
        step()
    started = time.perf_counter(), time.process_time()
    step()
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    json.dump({"package": bsm.__file__, "seconds": seconds, "peak_bytes": peak}, answer)


if __name__ == "__main__":
    main()
