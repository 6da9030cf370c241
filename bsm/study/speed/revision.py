"""Train a BSMamba2 of one revision of the package, a step for each line on standard input.

:mod:`bsm.study.speed.against` runs this file as a script in a process for each revision, with ``PYTHONPATH`` on that
revision's folder. It therefore uses only names that earlier revisions have, too.

The first line is the case, in JSON. Each line after it asks for a step. Each line of the output is one JSON object:
first the ``package`` and ``base_bytes``, then for each step ``seconds`` and ``peak_bytes``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Training:
    """A network, its optimiser and fixed segments of noise; each call takes a step.

    Args:
        case: the ``config`` of the network and that of the ``loss`` without values that are defaults, ``batch``,
            ``seconds`` of a segment, ``threads``.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        from bsm.config import LossConfig, ModelConfig
        from bsm.memory import keep_freed_memory
        from bsm.model import BSMamba2
        from bsm.train.trainer import AveragedWeights

        torch.set_num_threads(case["threads"])
        torch.manual_seed(0)
        keep_freed_memory()  # as a training does
        config = ModelConfig.from_dict(case["config"])
        self.network, self.loss_config = BSMamba2(config), LossConfig.from_dict(case["loss"])
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)
        self.averaged = AveragedWeights(self.network, 0.999)
        shape = case["batch"], config.channels, round(case["seconds"] * config.sample_rate)
        self.mixture, self.vocals = 0.1 * torch.randn(2, *shape)

    def __call__(self) -> dict[str, Any]:
        """Return the step's ``seconds``, wall and processor time, and ``peak_bytes`` of the process so far."""
        from bsm.loss import bsmamba2_loss

        started = time.perf_counter(), time.process_time()
        bsmamba2_loss(self.network(self.mixture), self.vocals, self.loss_config).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 3.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averaged.update()
        seconds = [time.perf_counter() - started[0], time.process_time() - started[1]]
        return {"seconds": seconds, "peak_bytes": _memory("VmHWM")}


def _memory(field: str) -> int | None:
    """Return this process's resident memory in bytes, ``VmRSS`` or its peak ``VmHWM``; None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Answer the lines of standard input."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a package prints is no answer
    import bsm

    base = _memory("VmRSS")
    train = Training(json.loads(sys.stdin.readline()))
    print(json.dumps({"package": bsm.__file__, "base_bytes": base}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(train()), file=answers, flush=True)


if __name__ == "__main__":
    main()
