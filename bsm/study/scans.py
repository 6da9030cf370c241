"""What notebook ``02_scan_backends`` shows of the scans: error, time, memory, the direct term, and short trainings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from bsm.config import ModelConfig, TrainConfig
from bsm.data.mixing import MixingDataset
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.evaluate import model_separator
from bsm.loss import bsmamba2_loss
from bsm.mamba2 import Mamba2, Scan
from bsm.metrics import usdr
from bsm.model import BSMamba2
from bsm.optimizer import make_optimizer
from bsm.scan import EXACT, scan
from bsm.scan.feedthrough import CHUNK
from bsm.stats import interval_words, ratio
from bsm.study import figures
from bsm.study.compare import paired, tables, words
from bsm.study.speed.scan import frames, worst_errors

YARDSTICKS = {"sequential": "x careful loop", "loop, indexed": "x indexed loop", "textbook": "x textbook"}
"""What the backends' speed is compared with, and the columns' names."""
REFERENCE, FEEDTHROUGH = "sequential", "feedthrough"
ROUNDING = 1e-9  # of float64, relative, after so few updates; float32 would leave 1e-4 and hide errors of that size
_CASE = ["axis", "rows", "length", "pass"]


def table(speed: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List error and best time of each backend, and its speed against each yardstick of the same case."""
    seconds = {(*(record[key] for key in _CASE), record["backend"]): record["seconds"] for record in speed}
    rows = []
    for record in speed:
        case = {key: record[key] for key in _CASE}
        row = case | {"backend": record["backend"], "best (ms)": 1e3 * min(record["seconds"])}
        for yardstick, name in YARDSTICKS.items():
            slow = seconds.get((*case.values(), yardstick))
            row[name] = interval_words(ratio(slow, record["seconds"]), digits=1) if slow else "–"
        row["output error"] = f"{record['output_error']:.0e}"
        row["gradient error"] = f"{max(record['gradient_errors'].values(), default=np.nan):.0e}".replace("nan", "–")
        rows.append(row)
    return pd.DataFrame(rows)


@figures.style()
def figure(speed: Sequence[dict[str, Any]]) -> Figure:
    """Draw the time of every backend against the length of the sequences, and lines of slope 1 and 2."""
    frame = pd.DataFrame([record for record in speed if record["axis"] == "time"])
    frame["best"], frame["worst"] = frame["seconds"].map(min), frame["seconds"].map(max)
    drawn, axes = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True)
    looks = dict(zip(frame["backend"].unique(), itertools.product(["-", "--"], figures.COLOURS.values()), strict=False))
    lengths = np.array(sorted(frame["length"].unique()))
    for ax, kind in zip(axes, ("forward", "forward + backward"), strict=True):
        own = frame[frame["pass"] == kind]
        for name, group in own.groupby("backend", sort=False):
            line, colour = looks[name]
            bars = [0 * group["best"], group["worst"] - group["best"]]
            ax.errorbar(group["length"], group["best"], bars, fmt=f"o{line}", markersize=4, color=colour, label=name)
        start = own[own["backend"] == "chunked"]["best"].iloc[0]
        for power, style in ((1, ":"), (2, "-.")):
            ax.plot(lengths, start * (lengths / lengths[0]) ** power, style, color="0.6", label=f"slope {power}")
        ax.set(
            xscale="log", yscale="log", xlabel="sequence length (frames)", title=f"{kind}, {frame['rows'].iloc[0]} rows"
        )
        ax.set_xticks(lengths, labels=[str(length) for length in lengths])
        ax.minorticks_off()
    axes[0].set_ylabel("time (s): best, bars up to the slowest")
    figures.name_lines(axes[-1])
    return drawn


def memory_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List the memory of forward and backward passes above the inputs."""
    frame = pd.DataFrame(records)
    inputs, peak = frame.pop("input_bytes"), frame.pop("peak_bytes").astype(float)
    own = {"inputs (MiB)": inputs / 2**20, "peak above inputs (MiB)": peak / 2**20, "times the inputs": peak / inputs}
    return frame.assign(**own)


def facts_table(results: dict[str, Any]) -> pd.DataFrame:
    """List what surrounds a scan: scaling, the machine's matrix products, block, convolution, compiler."""
    share, (short, long) = results["matmul_share"], results["scaling"]
    longer = min(long["seconds"]) / min(short["seconds"])
    facts = {
        f"time of {long['length']} steps over that of {short['length']}": longer,
        "forward time over that of its matrix products at full rate": min(share["seconds"]) / share["floor"],
        "matrix products (GFLOP/s)": share["rate"] / 1e9,
    }
    for record in results["block"]:
        size = f"block of the paper's size, {record['rows']} x {record['length']} frames"
        facts |= {f"{size} (ms)": 1e3 * min(record["seconds"])}
        facts |= {f"{size} (frames/s)": record["length"] / min(record["seconds"])}
    for record in results["conv"]:
        facts[f"convolution, {record['backend']}, {record['pass']} (ms)"] = 1e3 * min(record["seconds"])
    if compiled := results["compile"]:
        gain = ratio(compiled["seconds"]["plain"], compiled["seconds"]["compiled"])
        facts[f"gain of torch.compile, a block of `{compiled['preset']}`"] = interval_words(gain, "x")
        facts["time to compile that block (s)"] = compiled["compile_seconds"]
    return pd.DataFrame(facts.items(), columns=["", "value"])


@torch.inference_mode()
def direct_share(model: BSMamba2, mixture: Tensor) -> list[dict[str, Any]]:
    """Measure the direct term ``D x`` in each scan's output for a mixture, ``(batch, channels, samples)``.

    Returns:
        One record per mixer: its name, the sequence length, ``direct`` = ||D x|| / ||y||, and ``without_state`` =
        ||y - y of the feedthrough backend|| / ||y||, the error of leaving out the state between chunks.
    """
    energies: dict[tuple[str, int], np.ndarray] = {}

    def measure(name: str, module: Scan, _: tuple, values: dict[str, Tensor]) -> None:
        y, _ = scan(**values, reverse=module.reverse, final_state=False)
        rough, _ = scan(**values, reverse=module.reverse, final_state=False, backend=FEEDTHROUGH)
        parts = np.array([float(p.square().sum()) for p in (y, values["x"] * values["D"][:, None], y - rough)])
        case = name, y.shape[1]
        energies[case] = energies.get(case, 0) + parts  # a scan is called once per slab of rows

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, Mamba2):
                hooks.enter_context(module.ssm.register_forward_pre_hook(partial(measure, name), with_kwargs=True))
        model(mixture)
    return [
        {"mixer": name, "length": length, "direct": math.sqrt(d / y), "without_state": math.sqrt(e / y)}
        for (name, length), (y, d, e) in energies.items()
    ]


def direct_shares(trained: BSMamba2, track: Track, seed: int) -> list[dict[str, Any]]:
    """Return the direct term's share of each mixer's output, and the error without state, untrained and trained."""
    torch.manual_seed(seed)
    networks = {"random": BSMamba2(trained.config).eval(), "trained": trained}
    mixture = torch.from_numpy(track.mixture())[None]
    found = {kind: direct_share(network, mixture) for kind, network in networks.items()}
    return [{"weights": kind} | record for kind, records in found.items() for record in records]


def direct_table(shares: Sequence[dict[str, Any]], bands: int) -> pd.DataFrame:
    """Sum up the records of :func:`direct_shares` over the mixers of each path; ``bands`` is the model's number."""
    frame = pd.DataFrame(shares)
    frame["path"] = np.where(frame["length"] > bands, "time", "band")
    found = frame.groupby(["weights", "path"], sort=False)[["direct", "without_state"]].agg(["min", "mean", "max"])
    found.columns = [f"{name.replace('_', ' ')}, {statistic}" for name, statistic in found.columns]
    return found.reset_index()


def set_backend(network: nn.Module, backend: str) -> None:
    """Set the scan backend of every Mamba2 mixer in a network."""
    for module in network.modules():
        if isinstance(module, Scan):
            module.backend = backend


def scores(trained: BSMamba2, tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Score whole songs with the exact scan and without state: windows within a chunk would hide the difference."""
    records = []
    for track in tracks:
        row: dict[str, Any] = {"track": track.name}
        for name in ("chunked", FEEDTHROUGH):
            set_backend(trained, name)
            row[name] = usdr(track.read("vocals"), model_separator(trained, whole=True)(track))
        records.append(row)
    return records


def score_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Compare the scores of the exact scan with those of the approximation, paired over songs."""
    found = tables(pd.DataFrame(records).melt("track", var_name="system", value_name="usdr").to_dict("records"), "usdr")
    exact, rough = found["chunked"], found[FEEDTHROUGH]
    row = {f"uSDR, {n} (dB)": words(paired(own)) for n, own in (("exact scan", exact), (FEEDTHROUGH, rough))}
    gain = paired(rough, exact)
    return pd.DataFrame([row | {"difference (dB)": words(gain), "songs": gain["songs"], "verdict": gain["verdict"]}])


def trainings(
    model: ModelConfig, config: TrainConfig, tracks: Sequence[Track], backends: Sequence[str], *, seconds: float
) -> list[dict[str, Any]]:
    """Train in float64 from the same weights on the same segments, ``config.steps`` updates with each backend.

    :data:`REFERENCE` is among the backends. The segments are longer than a chunk: :data:`FEEDTHROUGH` leaves out the
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
) -> tuple[list[float], Tensor, Tensor]:
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
    """Return the share of a segment's frames, in percent, that :data:`FEEDTHROUGH` computes without the state before.

    Along the bands, fewer than a chunk, it leaves out nothing.
    """
    return 100 * (1 - CHUNK / frames(model, seconds))


def training_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
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


def worst_error(speed: Sequence[dict[str, Any]]) -> float:
    """Return the largest relative error of outputs and gradients among exact backends."""
    return max(worst_errors([record for record in speed if record["backend"] in EXACT]))
