"""Whole models: BSMamba2 beside BS-RoFormer, time and memory of one pass by length of audio, and what they go into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator
from torch import nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from bsm.baseline import BSRoformer, RoformerConfig
from bsm.config import ModelConfig
from bsm.model import BSMamba2
from bsm.study.figures import COLOURS
from bsm.study.speed.timer import SEED, fresh, resident, timed, turns

MODELS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "BSMamba2": BSMamba2,
    "BS-RoFormer": lambda config: BSRoformer(RoformerConfig.like(config)),
}
THREADS = 2
WARM_UP = 0.5  # seconds of audio that load libraries and wake the allocator before anything is measured
TOP = 10  # costs that are listed
PACKED = "_linear_pointwise"  # oneDNN's product, see bsm.fast
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", PACKED),
    "attention": ("attention",),
    "copies": ("copy_", "cat", "stack", "fill_", "index_select", "gather", "_reorder_linear_weight"),
    "Fourier transforms": ("fft",),
}
"""What an operation's name ends in, or for attention and transforms contains; everything else is elementwise."""
ELEMENTWISE = "elementwise and sums"


def separation(
    seconds: Sequence[float] = (8.0, 16.0),
    *,
    preset: str = "paper",
    repeats: int = 3,
    threads: int = THREADS,
    profile_seconds: Sequence[float] = (8.0,),
    models: Sequence[str] = tuple(MODELS),
) -> dict[str, Any]:
    """Measure one forward pass of both models, random weights, stereo, without gradients.

    Every measurement has a process of its own, and the models take turns, so that a slow spell of the machine meets
    both.

    Args:
        seconds: lengths of the audio, s.
        preset: size of BSMamba2; BS-RoFormer takes the same width, depth, bands and transform, with 8 heads of 48.
        repeats: rounds.
        threads: CPU threads.
        profile_seconds: lengths that are profiled; those runs are slower and not among the times.
        models: of :data:`MODELS`; one alone for a length that the other has no memory for.

    Returns:
        ``speed``: one record per length and model: ``audio_seconds``, ``seconds`` of every round, ``peak_bytes``, the
        largest resident memory of the process in all, and ``base_bytes``, what it was before the pass (libraries and
        weights), of every round; None where the system does not tell (outside Linux).
        ``costs``: one record per profiled length, model and operation, see :func:`_profile`.
        ``parameters`` of each model.
    """
    speed = []
    for span in seconds:
        memory: dict[str, list[tuple[int | None, int | None]]] = {name: [] for name in models}
        with tqdm(desc=f"{span:g} s of audio", unit="pass") as bar:

            def take(name: str, span: float = span, memory: dict = memory, bar: tqdm = bar) -> tuple[float, float]:
                times, found = fresh(_measure, name, preset, span, threads)
                memory[name].append(found or (None, None))
                bar.update()
                return times

            times = turns({name: partial(take, name) for name in models}, repeats)
        for name in models:
            base, peak = zip(*(memory[name][turn] for turn in times.kept), strict=True)
            sizes = {"peak_bytes": list(peak), "base_bytes": list(base)}
            speed.append({"audio_seconds": span, "model": name} | times.of(name) | sizes)
    costs = [
        cost for span in profile_seconds for name in models for cost in fresh(_profile, name, preset, span, threads)
    ]
    with torch.device("meta"):
        counts = {
            name: make(ModelConfig.preset(preset)).parameter_counts()["total"]
            for name, make in MODELS.items()
            if name in models
        }
    return {"speed": speed, "costs": costs, "parameters": counts}


def _prepared(name: str, preset: str, seconds: float, threads: int) -> Callable[[], Any]:
    """Return one pass of a model over noise, after a short one."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    config = ModelConfig.preset(preset)
    model = MODELS[name](config).eval()
    lengths = (round(span * config.sample_rate) for span in (min(WARM_UP, seconds), seconds))
    short, mixture = (0.1 * torch.randn(1, config.channels, length) for length in lengths)
    with torch.inference_mode():
        model(short)
    return torch.inference_mode()(lambda: model(mixture))


def _measure(name: str, preset: str, seconds: float, threads: int) -> tuple[tuple[float, float], Any]:
    """Return the times of one pass, and the memory before it and its peak as :func:`resident` gives them."""
    run = _prepared(name, preset, seconds, threads)
    times: list[tuple[float, float]] = []
    memory = resident(lambda: times.append(timed(run)))
    return times[0], memory


def _profile(name: str, preset: str, seconds: float, threads: int) -> list[dict[str, Any]]:
    """Profile one pass.

    Returns:
        One record per operation: ``model``, ``audio_seconds``, ``operation``, ``kind`` (:data:`KINDS`), ``calls``,
        ``seconds`` of its own (those of operations inside it apart).
    """
    run = _prepared(name, preset, seconds, threads)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    return [
        {
            "model": name,
            "audio_seconds": seconds,
            "operation": event.key,
            "kind": kind(event.key),
            "calls": event.count,
            "seconds": event.self_cpu_time_total / 1e6,
        }
        for event in sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)
        if event.self_cpu_time_total
    ]


def kind(operation: str) -> str:
    """Tell what kind of work an operation of PyTorch is, by its name."""
    name = operation.removeprefix("aten::").removeprefix("mkldnn::")
    for found, (first, *more) in KINDS.items():
        inside = first in ("attention", "fft")
        if (inside and first in name) or name in (first, *more):
            return found
    return ELEMENTWISE


def speed_table(speed: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Set the models side by side: best time and memory of each length."""
    best = {(r["audio_seconds"], r["model"]): min(r["seconds"]) for r in speed}
    return pd.DataFrame(
        [
            {
                "audio (s)": f"{span:g}",
                "model": name,
                "best (s)": best[span, name],
                "seconds per second of audio": best[span, name] / span,
                "BS-RoFormer takes, times": best[span, "BS-RoFormer"] / best[span, name],
                "memory in all (GiB)": _gib(record["peak_bytes"]),
                "above libraries and weights (GiB)": _gib(record["peak_bytes"]) - _gib(record["base_bytes"]),
                "rounds": len(record["seconds"]),
            }
            for (span, name), record in zip(best, speed, strict=True)
        ]
    )


def _gib(rounds: Sequence[int | None]) -> float:
    """Return the largest of the rounds in GiB; NaN where it could not be measured."""
    return float("nan") if None in rounds else max(rounds) / 2**30


def cost_table(costs: Sequence[dict[str, Any]], seconds: float) -> pd.DataFrame:
    """List each model's ten largest costs at one profiled length, with their share of all its operations' time."""
    frame = pd.DataFrame(costs)
    frame = frame[frame["audio_seconds"] == seconds]
    frame = frame.assign(share=100 * frame["seconds"] / frame.groupby("model")["seconds"].transform("sum"))
    largest = frame.groupby("model", sort=False).head(TOP)
    table = largest[["model", "operation", "kind", "calls", "seconds", "share"]]
    return table.assign(operation=table["operation"].str.removeprefix("aten::")).rename(columns={"share": "share (%)"})


def kind_table(costs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Sum the profiled seconds by kind of work: a row per length and kind, a column per model."""
    table = pd.DataFrame(costs).pivot_table(
        index=["audio_seconds", "kind"], columns="model", values="seconds", aggfunc="sum", fill_value=0.0
    )
    table = table.reindex(columns=[name for name in MODELS if name in table])
    table.columns.name = None
    return table.reset_index().rename(columns={"audio_seconds": "audio (s)"})


def difference(costs: Sequence[dict[str, Any]]) -> str:
    """Say from the profile, for each length, which kind of work sets the two models furthest apart."""
    table = kind_table(costs)
    lines = []
    for span, group in table.groupby("audio (s)"):
        ours, theirs = (group.set_index("kind")[name] for name in MODELS)
        most = (theirs - ours).abs().idxmax()
        lines.append(
            f"At {span:g} s the operations of BSMamba2 take {ours.sum():.1f} s and those of BS-RoFormer "
            f"{theirs.sum():.1f} s; what sets them furthest apart is {most}: {ours[most]:.1f} s against "
            f"{theirs[most]:.1f} s."
        )
    return " ".join(lines)


def draw(axes: Sequence[Axes], speed: Sequence[dict[str, Any]]) -> None:
    """Draw time and memory against the length of the audio, both models, in two given axes."""
    frame = pd.DataFrame(speed).sort_values("audio_seconds")
    looks = zip(MODELS, ("o-", "s--"), ("blue", "vermilion"), strict=True)
    for name, look, colour in looks:
        own = frame[frame["model"] == name]
        memory = [_gib(peak) - _gib(base) for peak, base in zip(own["peak_bytes"], own["base_bytes"], strict=True)]
        for ax, values in zip(axes, (own["seconds"].map(min), memory), strict=True):
            ax.plot(own["audio_seconds"], values, look, color=COLOURS[colour], label=name)
    spans = sorted(frame["audio_seconds"].unique())
    for ax, title in zip(axes, ("best time (s)", "memory above libraries and weights (GiB)"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="length of the audio (s)", title=title)
        ax.set_xticks(spans, labels=[f"{span:g}" for span in spans])
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].legend()
