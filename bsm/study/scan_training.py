"""The same short training with every scan backend: exact ones end within rounding; what leaving out the state loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from bsm.config import ModelConfig, TrainConfig
from bsm.data.mixing import MixingDataset
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.model import BSMamba2
from bsm.optimizer import make_optimizer
from bsm.scan.feedthrough import CHUNK
from bsm.study.speed.scan import frames

REFERENCE = "sequential"
APPROXIMATE = "feedthrough"
ROUNDING = 1e-9  # of float64, relative, after so few updates; float32 would leave 1e-4 and hide errors of that size


def trainings(
    model: ModelConfig, config: TrainConfig, tracks: Sequence[Track], backends: Sequence[str], *, seconds: float
) -> list[dict[str, Any]]:
    """Train in float64 from the same weights on the same segments, ``config.steps`` updates with each backend.

    :data:`REFERENCE` is among the backends. The segments are longer than a chunk: :data:`APPROXIMATE` leaves out the
    states between chunks.

    Returns:
        One record each: ``backend``, the ``loss`` of every update, and ``weights``, the distance of the last weights
        from the reference's, relative to how far those have come.

    Raises:
        InputError: segments so short that nothing is left out.
    """
    if frames(model, seconds) <= CHUNK:
        raise InputError(f"segments of {seconds:g} s have {frames(model, seconds)} frames; take more than {CHUNK}")
    found = {
        name: _train(model.replace(scan_backend=name), config, tracks, round(seconds * model.sample_rate))
        for name in tqdm(backends, desc="train with each scan", unit="scan")
    }
    _, start, end = found[REFERENCE]
    way = (end - start).norm().item()
    return [
        {"backend": name, "loss": loss, "weights": (last - end).norm().item() / way}
        for name, (loss, _, last) in found.items()
    ]


def _train(
    model: ModelConfig, config: TrainConfig, tracks: Sequence[Track], segment: int
) -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """Return the losses, and the weights before and after."""
    torch.manual_seed(config.seed)
    network = BSMamba2(model).double()
    start = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    optimizer = make_optimizer(network, config)
    length = config.steps * config.batch_size
    dataset = MixingDataset(tracks, segment=segment, seed=config.seed, length=length)
    losses = []
    for mixture, vocals in DataLoader(dataset, batch_size=config.batch_size):
        loss = bsmamba2_loss(network(mixture.double()), vocals.double(), config.loss)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, start, nn.utils.parameters_to_vector(network.parameters()).detach()


def without_state(model: ModelConfig, seconds: float) -> float:
    """Return the share of a segment's frames, in percent, that :data:`APPROXIMATE` computes without the state before.

    Along the bands, fewer than a chunk, it leaves out nothing.
    """
    return 100 * (1 - CHUNK / frames(model, seconds))


def table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List how far each backend's training ends from the reference's, and whether that is rounding."""
    reference = np.asarray(next(r["loss"] for r in records if r["backend"] == REFERENCE))
    rows = []
    for record in records:
        apart = np.asarray(record["loss"]) / reference - 1
        later = 100 * apart[len(apart) // 2 :]  # updates are not independent
        exact = max(np.abs(apart).max(), record["weights"]) <= ROUNDING
        above = "–" if exact else f"{later.mean():.2f} [{later.min():.2f}, {later.max():.2f}]"
        row = {"scan": record["backend"], "last loss": record["loss"][-1]}
        row |= {"losses differ by at most": f"{np.abs(apart).max():.1e}"}
        row |= {"weights differ by": f"{record['weights']:.1e}", "loss above the reference, second half (%)": above}
        rows.append(row | {"ends within rounding": "yes" if exact else "no"})
    return pd.DataFrame(rows)
