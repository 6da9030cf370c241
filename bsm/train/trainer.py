"""The updates of a training: accumulated gradients, clipping, the optimiser, averaged weights, validation."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from bsm.config import TrainConfig
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.memory import peak_bytes
from bsm.metrics import usdr
from bsm.networks import blocks
from bsm.optimizer import make_optimizer
from bsm.train.distributed import StopRequest, pass_segments, passes_per_update
from bsm.train.journal import Ranking

log = logging.getLogger(__name__)

VALIDATION_SEGMENTS = 4  # segments of each validation song
SILENT = 1e-5  # mean square, 50 dB below full scale; quieter vocals are at most the start or end of a word


def recompute_blocks(model: nn.Module) -> None:
    """Apply gradient checkpointing to each block of a network, in place.

    Training then keeps only the inputs of blocks, and computes a block again for its gradients. So it holds the
    activations of one block at a time. The second computation draws the same random numbers.
    """
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class AveragedWeights:
    """Exponential moving average of a network's weights; the copy ``network`` has them. The first update copies.

    The result equals that of ``torch.optim.swa_utils.AveragedModel`` bit for bit, in a tenth of the time. That class
    lists and groups all tensors in every update. Buffers are not averaged, because no network here changes one.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.updates = copy.deepcopy(network).requires_grad_(False), 0
        self._decay = decay
        self._averaged = list(self.network.parameters())
        self._current = [parameter.detach() for parameter in network.parameters()]

    def update(self) -> None:
        """Add the network's present weights to the average."""
        torch._foreach_lerp_(self._averaged, self._current, 1 - self._decay if self.updates else 1.0)
        self.updates += 1


class Trainer:
    """The state that an update changes, and the update. The state is the same in every process."""

    def __init__(self, fabric: Fabric, model: nn.Module, config: TrainConfig) -> None:
        self.fabric, self.config = fabric, config
        self.passes = passes_per_update(config, fabric.world_size)
        model.to(fabric.device)
        optimizer = make_optimizer(model, config)
        self.averaged = AveragedWeights(model, config.ema_decay)
        self.parameters = list(model.parameters())
        if config.checkpoint_gradients:
            recompute_blocks(model)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.ranking = Ranking(config.keep_best)
        self.scores: dict[str, float | None] = {}  # of the last validation
        self.step = self.skipped = self.skipped_in_row = 0
        self.seconds = 0.0
        self.signum = 0  # a signal that any process had received by the last update; 0: none

    @property
    def finished(self) -> bool:
        """Whether all updates are made, or ``config.patience`` validations brought no better uSDR."""
        patience = self.config.patience
        return self.step >= self.config.steps or 0 < patience <= self.ranking.since_best

    def update(self, batches: Iterator[tuple[Tensor, Tensor]], stop: StopRequest) -> dict[str, Any]:
        """Take one optimiser step, unless the loss or its gradient is not finite in some process.

        Args:
            batches: this process's mixtures and vocals, ``(batch, channels, samples)``.
            stop: this process's stop request. Afterwards, all processes have the same ``self.signum``.

        Returns:
            The record of the update for the log (:func:`bsm.train.read_log`).
        """
        started = time.perf_counter()
        waited, losses = 0.0, []
        for number in range(self.passes):
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except InputError as error:  # a loader's process adds its traceback to the message
                raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
            mixture, vocals = (v.to(self.fabric.device, non_blocking=True) for v in batch)
            waited += time.perf_counter() - asked
            with self.fabric.no_backward_sync(self.model, enabled=number < self.passes - 1):
                loss = bsmamba2_loss(self.model(mixture), vocals, self.config.loss)
                self.fabric.backward(loss / self.passes)
            losses.append(loss.detach())
        gathered = torch.stack([*losses, losses[0].new_tensor(stop.signum)])
        gathered = self.fabric.all_gather(gathered).reshape(self.fabric.world_size, -1).double().cpu()
        losses, self.signum = gathered[:, :-1], int(gathered[:, -1].max())
        norm = clip_grad_norm_(self.parameters, self.config.clip, foreach=True)  # no precision here scales gradients
        record = {"step": self.step + 1, "loss": losses.mean().item(), "grad_norm": norm.item()}
        record["lr"] = self.config.learning_rate(self.step)
        if math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]):
            for group in self.optimizer.param_groups:
                group["lr"] = record["lr"]
            self.optimizer.step()
            self.averaged.update()
            self.skipped_in_row = 0
        else:
            record["skipped"] = self._unusable(losses)
            log.warning("step %d skipped: loss or gradient not finite, segments %s", self.step + 1, record["skipped"])
            self.skipped += 1
            self.skipped_in_row += 1
        self.optimizer.zero_grad()
        self.step += 1
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        return record | {"seconds": elapsed, "waited": waited, "memory_mb": self._peak_memory()}

    def _unusable(self, losses: Tensor) -> list[list[int]]:
        """Return the segments with a loss that is not finite, as [first, end) pairs; losses are (processes, passes).

        If all losses are finite, and only the gradient is not, return all segments of the update.
        """
        bad = (~losses.T.isfinite()).nonzero().tolist()
        parts = [pass_segments(self.config, self.step, number, rank, len(losses)) for number, rank in bad]
        first = self.step * self.config.update_segments
        return [[p.start, p.stop] for p in parts] or [[first, first + self.config.update_segments]]

    def check(self) -> None:
        """Raise a FloatingPointError if ``config.max_skipped`` updates in a row were skipped."""
        if self.skipped_in_row >= self.config.max_skipped:
            first = self.step - self.skipped_in_row + 1
            raise FloatingPointError(
                f"loss or gradient was not finite in {self.skipped_in_row} updates in a row, steps {first} to "
                f"{self.step}; the checkpoint before them is kept"
            )

    def _peak_memory(self) -> float:
        """Return the peak memory so far, MB: the GPU's, or this process's on a CPU."""
        if self.fabric.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.fabric.device) / 1e6
        return peak_bytes() / 1e6

    @torch.no_grad()
    def validate(self, segments: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Score the averaged weights on fixed segments: the mean loss, and the mean uSDR over songs in dB.

        The uSDR of a song is that of its joined segments. A segment without vocals has no ratio of energies of its own,
        but an estimate that is not silent there is an error. A song with :data:`SILENT` vocals counts in the loss only.
        If all songs are silent, the uSDR is NaN. The processes share the songs.
        """
        averaged = self.averaged.network.eval()
        size = VALIDATION_SEGMENTS
        songs = [segments[first : first + size] for first in range(0, len(segments), size)]
        scores = torch.zeros(len(songs), 3, dtype=torch.float64, device=self.fabric.device)  # loss, uSDR, not silent
        for index in range(self.fabric.global_rank, len(songs), self.fabric.world_size):
            mixture, vocals = (torch.stack(v).to(self.fabric.device) for v in zip(*songs[index], strict=True))
            with self.fabric.autocast():
                estimate = averaged(mixture)
            scores[index, 0] = bsmamba2_loss(estimate, vocals, self.config.loss)
            if vocals.square().mean() > SILENT:
                scores[index, 1] = usdr(*(v.transpose(0, 1).flatten(1) for v in (vocals, estimate)))
                scores[index, 2] = 1
        loss, score, sung = self.fabric.all_reduce(scores, reduce_op="sum").sum(0).tolist()
        return {"valid_loss": loss / len(songs), "valid_usdr": score / sung if sung else math.nan}

    def state(self) -> dict[str, Any]:
        """Return the state for a resumed run. The data have none: a segment depends on seed and index only."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "ranking": {"best": self.ranking.best, "since_best": self.ranking.since_best},
            "scores": self.scores,
            "model": self.model.module.state_dict(),
            "averaged": self.averaged.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.fabric.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        return state

    def load(self, state: dict[str, Any], path: Path) -> None:
        """Restore a state, read from the file ``path``. Another number of processes may have written it.

        A state that does not fit this training is an InputError.
        """
        try:
            self.step, self.seconds, self.skipped = state["step"], state["seconds"], state["skipped"]
            self.ranking = Ranking(self.config.keep_best, **state["ranking"])
            self.scores = state["scores"]
            self.model.module.load_state_dict(state["model"])
            self.averaged.network.load_state_dict(state["averaged"])
            self.averaged.updates = self.step - self.skipped
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            if self.fabric.device.type == "cuda" and "random_cuda" in state:
                torch.cuda.set_rng_state(state["random_cuda"], self.fabric.device)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{path}: not a checkpoint of this training ({type(error).__name__}); "
                "move it away to train from the start"
            ) from error
