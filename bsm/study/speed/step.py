"""One training step, part by part or whole: by size, by scan, and before and after the changes that reports describe.

The reports are the optimisation and integration reports of the unofficial implementation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from bsm import audio
from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.data.mixing import MixingDataset
from bsm.data.tracks import folder_tracks
from bsm.loss import bsmamba2_loss
from bsm.mamba2 import BiMamba2Block
from bsm.model import BSMamba2
from bsm.optimizer import make_optimizer
from bsm.scan import available
from bsm.study.counts import parameter_count
from bsm.study.speed import official
from bsm.study.speed.parts import DATA, LOSS, OPTIMISER, Clock, timed_parts
from bsm.study.speed.scan import frames
from bsm.study.speed.spectra import SEED_LOSS
from bsm.study.speed.timer import SEED, compiling, peak_memory_cuda, repeated, timed, turns
from bsm.study.speed.yardsticks import MonoSTFT, indexed_loop, plain_loss, replace_scans
from bsm.study.unofficial import REDUCED_LOSS
from bsm.train.trainer import AveragedWeights, recompute_blocks

LARGEST = 6 << 30  # bytes that the loops' states may take; larger cases are skipped
LOOPS = ("sequential", "indexed")
OFFICIAL = "official"  # the modules of mamba-ssm in place of the two directions of each block


@dataclass(frozen=True)
class Variant:
    """One way to take a training step.

    Attributes:
        name: for tables.
        scan: a backend's name, ``indexed`` for the loop of the optimisation report, or :data:`OFFICIAL`.
        loss: of estimate and target.
        mono: feed the network the average of the channels.
    """

    name: str
    scan: str = "auto"
    loss: Callable[[Tensor, Tensor], Tensor] = bsmamba2_loss
    mono: bool = False


BEFORE = Variant("loop, 5 complex windows", "indexed", partial(plain_loss, config=SEED_LOSS))
REDUCED = Variant("chunked, reduced loss, mono", "chunked", partial(plain_loss, config=REDUCED_LOSS), mono=True)
OURS = Variant("bsm: chunked, paper's loss", "chunked")
VARIANTS = (BEFORE, REDUCED, OURS)


class Step:
    """A model in training. Each call is one update, of one forward pass, as in :mod:`bsm.train`.

    ``batches`` yields a mixture and its vocals, ``(batch, channels, samples)``. With ``compiled``, each block goes
    through ``torch.compile``.
    """

    def __init__(
        self,
        variant: Variant,
        model: ModelConfig,
        config: TrainConfig,
        batches: Iterable,
        *,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(config.seed)
        replaced = variant.scan in ("indexed", OFFICIAL)
        self.model = BSMamba2(model.replace(scan_backend="auto" if replaced else variant.scan))
        if variant.mono:
            self.model.stft = MonoSTFT(self.model.stft)
        if variant.scan == OFFICIAL:
            official.put_into(self.model)
        elif replaced:
            replace_scans(self.model, indexed_loop)
        self.device = device
        self.model.to(device)
        self.variant, self.config, self.batches = variant, config, iter(batches)
        self.averaged = AveragedWeights(self.model, config.ema_decay)
        self.parameters = list(self.model.parameters())
        if config.checkpoint_gradients:
            recompute_blocks(self.model)
        if compiled:
            for block in self.model.dual_path.modules():
                if isinstance(block, BiMamba2Block):
                    block.compile()  # region by region: the whole network in one piece takes many times as long
        self.optimizer = make_optimizer(self.model, config)

    def __call__(self, clock: Clock | None = None) -> None:
        """Take one update. A clock, if given, counts the time of each part and slows the step a little."""
        switch = clock.switch if clock else lambda *_: None
        half = self.config.precision == "bf16-mixed"
        with timed_parts(self.model, clock) if clock else nullcontext():
            switch(DATA)
            mixture, vocals = (v.to(self.device) for v in next(self.batches))
            with torch.autocast(self.device, torch.bfloat16) if half else nullcontext():
                estimate = self.model(mixture)
            switch(LOSS)
            value = self.variant.loss(estimate, vocals)
            switch(LOSS, "backward")
            value.backward()
            switch(OPTIMISER)
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averaged.update()
        switch(None)


def write_noise(folder: Path, model: ModelConfig, seconds: float) -> None:
    """Write four songs of noise for a model, four sources each: reading them costs as much as music."""
    generator, shape = np.random.default_rng(SEED), (model.channels, round(seconds * model.sample_rate))
    for song in range(4):
        path = folder / f"noise {song}"
        path.mkdir()
        for source in ("vocals", "drums", "bass", "other"):
            sound = 0.1 * generator.standard_normal(shape, dtype=np.float32)
            audio.write(path / f"{source}.wav", sound, model.sample_rate, subtype="PCM_16")


def state_bytes(config: ModelConfig, seconds: float, batch: int) -> int:
    """Estimate the bytes that a looped scan keeps for its backward pass: three states per step, mixer and row."""
    tokens = batch * len(config.bands) * frames(config, seconds)
    return 3 * 4 * tokens * config.d_inner * config.d_state * 4 * config.depth


def breakdown(
    variants: Sequence[Variant],
    preset: str,
    *,
    seconds: float,
    batch: int,
    repeats: int,
    precision: str = "32-true",
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure training steps part by part. The variants take turns; a first round warms up and is not counted.

    Variants with more than :data:`LARGEST` bytes of states are skipped.

    Returns:
        One record per variant: ``variant``, ``scan``, ``preset``, ``audio_seconds``, ``batch``, ``precision``,
        ``parameters`` of the network, ``seconds`` of every round, and ``parts``: for each part and direction the
        seconds of every round.
    """
    model = ModelConfig.preset(preset)
    config = TrainConfig(batch_size=batch, segment_seconds=seconds, precision=precision, seed=SEED)
    fitting = [v for v in variants if v.scan not in LOOPS or state_bytes(model, seconds, batch) <= LARGEST]
    segment = round(seconds * model.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder), model, max(10.0, 2 * seconds))
        length = batch * (2 * repeats + 1)  # a disturbed round is repeated
        dataset = MixingDataset(folder_tracks(Path(folder), "train"), segment=segment, seed=SEED, length=length)
        loader = DataLoader(dataset, batch_size=batch)  # in this process, so that its time is counted
        steps = {v.name: Step(v, model, config, loader, device=device) for v in fitting}
        for step in tqdm(steps.values(), desc=f"warm up {preset}, {seconds:g} s, batch {batch}", unit="step"):
            step()
        times = turns({name: partial(_by_part, step) for name, step in steps.items()}, repeats)
    facts = {"preset": preset, "audio_seconds": seconds, "batch": batch, "precision": precision}
    facts["parameters"] = parameter_count(model)
    records = []
    for v in fitting:
        clocks = [clock for (clock,) in times.found[v.name]]
        parts = [
            {"part": part, "direction": direction, "seconds": [clock[part, direction] for clock in clocks]}
            for part, direction in dict.fromkeys(key for clock in clocks for key in clock)
        ]
        records.append({"variant": v.name, "scan": v.scan} | facts | {"parts": parts} | times.of(v.name))
    return records


def _by_part(step: Step) -> tuple[float, float, dict[tuple[str, str], float]]:
    """Take a step; return its wall time, which is the sum of its parts, its processor time, and the parts' seconds."""
    clock = Clock()
    _, processor = timed(partial(step, clock))
    return sum(clock.seconds.values()), processor, clock.seconds


def part_seconds(record: dict[str, Any], *names: str) -> np.ndarray:
    """Add up some parts of a record, both directions, round by round."""
    chosen = [p["seconds"] for p in record["parts"] if p["part"] in names]
    return np.sum(chosen, axis=0) if chosen else np.zeros(len(record["seconds"]))


def size(record: dict[str, Any]) -> str:
    """Say how many segments a step took, and how long they were: ``2 x 1 s``."""
    return f"{record['batch']} x {record['audio_seconds']:g} s"


def named(records: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the record of a variant."""
    return next(record for record in records if record["variant"] == name)


def compiled(preset: str, *, seconds: float, batch: int, repeats: int, precision: str, device: str) -> dict[str, Any]:
    """Time whole training steps with and without ``torch.compile``, and what compiling took, in s."""
    model = ModelConfig.preset(preset)
    config = TrainConfig(batch_size=batch, precision=precision, seed=SEED)
    sound = _segments(model, seconds, batch)
    steps = [Step(OURS, model, config, repeat(sound), device=device, compiled=flag) for flag in (False, True)]
    return {"preset": preset, "audio_seconds": seconds, "batch": batch} | compiling(*steps, repeats)


def compared(
    cases: Sequence[tuple[str, bool]],
    preset: str,
    *,
    seconds: float,
    batch: int,
    repeats: int,
    precision: str,
    device: str,
) -> list[dict[str, Any]]:
    """Measure whole training steps with several scans, with and without gradient checkpointing.

    A case is a scan (:attr:`Variant.scan`), and whether gradients are checkpointed, so that large batches fit into a
    GPU. The step with :data:`OFFICIAL` also computes the loss as the author does. Cases that cannot run are left out.

    Returns:
        One record per case: ``scan``, ``recomputed``, ``seconds`` of every step, and ``peak_bytes``, the memory above
        what stays between steps; None on a CPU. A case that runs out of a GPU's memory has ``failed`` instead.
    """
    model = ModelConfig.preset(preset)
    sound = _segments(model, seconds, batch)
    steps, records = {}, []
    for scan, again in cases:
        if official.unavailable(device) if scan == OFFICIAL else available(device)[scan]:
            continue
        config = TrainConfig(batch_size=batch, precision=precision, seed=SEED, checkpoint_gradients=again)
        loss = partial(plain_loss, config=LossConfig()) if scan == OFFICIAL else bsmamba2_loss
        taken = Step(Variant(scan, scan, loss), model, config, repeat(sound), device=device)
        record = {"scan": scan, "recomputed": again}
        try:
            taken()  # allocates what stays
            record["peak_bytes"] = peak_memory_cuda(taken) if device == "cuda" else None
            steps[len(records)] = taken
        except torch.OutOfMemoryError as error:
            record["failed"] = str(error)
            del taken
        records.append(record)
    times = repeated(steps, repeats, warm_up=0)
    return [record | (times.of(number) if number in steps else {}) for number, record in enumerate(records)]


def _segments(model: ModelConfig, seconds: float, batch: int) -> Tensor:
    """Return noise in the place of a mixture and its vocals, ``(2, batch, channels, samples)``."""
    torch.manual_seed(SEED)
    return 0.1 * torch.randn(2, batch, model.channels, round(seconds * model.sample_rate))
