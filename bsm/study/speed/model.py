"""Compare BSMamba2 and BS-RoFormer: time and memory of one pass by length of audio, and its costs by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
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
MEMORY = {"peak_bytes": "memory in all (GiB)", "above_bytes": "above libraries and weights (GiB)"}
KINDS = {
    "attention": r"attention",
    "Fourier transforms": r"fft",
    "matrix products": r"^(?:mm|addmm|bmm|baddbmm|_linear_pointwise)$",  # the last is oneDNN's, see bsm.fast
    "copies": r"^(?:copy_|cat|stack|fill_|index_select|gather|_reorder_linear_weight)$",
}
"""Kinds of work, and the operations that belong to them; all others are :data:`ELEMENTWISE`."""
ELEMENTWISE = "elementwise and sums"


def separation(
    seconds: Sequence[float],
    *,
    preset: str = "paper",
    repeats: int = 3,
    threads: int = THREADS,
    profile_seconds: Sequence[float],
    models: Sequence[str] = tuple(MODELS),
) -> dict[str, Any]:
    """Measure one forward pass of both models, random weights, stereo, without gradients.

    Every measurement has a process of its own, and the models take turns, so that a slow spell of the machine affects
    both.

    Args:
        seconds: lengths of the audio, s.
        preset: size of BSMamba2; BS-RoFormer takes the same width, depth, bands and transform, with 8 heads of 48.
        repeats: rounds.
        threads: CPU threads.
        profile_seconds: lengths that are profiled; those runs are slower and not among the times.
        models: names among :data:`MODELS`; choose one where the other runs out of memory.

    Returns:
        ``speed``: one record per length and model: ``audio_seconds``, the times, and for every round ``peak_bytes``,
        the largest resident memory of the process, and ``base_bytes``, its memory before the pass (libraries and
        weights). Both are None where the system does not report them (outside Linux).
        ``costs``: one record per profiled length, model and operation, see :func:`_profile`.
    """
    speed = []
    for span in tqdm(seconds, desc="passes of whole networks", unit="length"):
        measures = {name: partial(fresh, _measure, name, preset, span, threads) for name in models}
        times = turns(measures, repeats)
        for name in models:
            base, peak = map(list, zip(*times.found[name], strict=True))
            sizes = {"peak_bytes": peak, "base_bytes": base}
            speed.append({"audio_seconds": span, "model": name} | times.of(name) | sizes)
    pairs = [(name, preset, span, threads) for span in profile_seconds for name in models]
    return {"speed": speed, "costs": [cost for pair in pairs for cost in fresh(_profile, *pair)]}


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


def _measure(name: str, preset: str, seconds: float, threads: int) -> tuple[float, float, int | None, int | None]:
    """Return the times of one pass (:func:`timed`), and memory before it and at its peak (:func:`resident`) or None."""
    times, before, peak = resident(partial(timed, _prepared(name, preset, seconds, threads)))
    return *times, before, peak


def _profile(name: str, preset: str, seconds: float, threads: int) -> list[dict[str, Any]]:
    """Profile one pass.

    Returns:
        One record per operation: ``model``, ``audio_seconds``, ``operation``, ``calls``, ``seconds`` of its own (those
        of operations inside it apart).
    """
    run = _prepared(name, preset, seconds, threads)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    case = {"model": name, "audio_seconds": seconds}
    events = sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)
    times = [(event.key, event.count, event.self_cpu_time_total / 1e6) for event in events]
    return [case | {"operation": key, "calls": count, "seconds": spent} for key, count, spent in times if spent]


def speed_table(speed: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Set the models side by side: best time and memory of each length."""
    frame = _best(speed)
    span, best = frame["audio_seconds"], frame["seconds"]
    theirs = span.map(frame[frame["model"] == "BS-RoFormer"].set_index("audio_seconds")["seconds"])
    return pd.DataFrame(
        {
            "audio (s)": span.map("{:g}".format),
            "model": frame["model"],
            "best (s)": best,
            "seconds per second of audio": best / span,
            "BS-RoFormer takes, times": theirs / best,
            **{title: frame[name] for name, title in MEMORY.items()},
            "rounds": [len(record["seconds"]) for record in speed],
        }
    )


def _best(speed: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per record: the best of its ``seconds``, and the largest of its bytes in GiB, NaN where unknown."""
    frame = pd.DataFrame(speed)
    peak, base = (
        frame[f"{name}_bytes"].map(lambda r: float("nan") if None in r else max(r)) for name in ("peak", "base")
    )
    return frame.assign(seconds=frame["seconds"].map(min), peak_bytes=peak / 2**30, above_bytes=(peak - base) / 2**30)


def cost_table(costs: Sequence[dict[str, Any]], seconds: float) -> pd.DataFrame:
    """List each model's ten largest costs at one profiled length, with their share of all its operations' time."""
    frame = pd.DataFrame(costs)
    frame = frame[frame["audio_seconds"] == seconds]
    share = 100 * frame["seconds"] / frame.groupby("model")["seconds"].transform("sum")
    frame = frame.assign(operation=_names(frame), **{"share (%)": share})
    return frame.groupby("model", sort=False).head(TOP)[["model", "operation", "calls", "seconds", "share (%)"]]


def _names(costs: pd.DataFrame) -> pd.Series:
    return costs["operation"].str.replace(r"^(aten|mkldnn)::", "", regex=True)


def kind_table(costs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Sum the profiled seconds by kind of work (:data:`KINDS`): a row per length and kind, a column per model."""
    frame = pd.DataFrame(costs)
    masks = [_names(frame).str.contains(pattern) for pattern in KINDS.values()]
    frame = frame.assign(kind=np.select(masks, list(KINDS), ELEMENTWISE))
    table = frame.pivot_table(
        index=["audio_seconds", "kind"], columns="model", values="seconds", aggfunc="sum", fill_value=0.0, sort=False
    )
    return table.rename_axis(columns=None).reset_index().rename(columns={"audio_seconds": "audio (s)"})


def draw(axes: Sequence[Axes], speed: Sequence[dict[str, Any]]) -> None:
    """Draw time and memory against the length of the audio, both models, in two given axes."""
    frame = _best(speed).sort_values("audio_seconds")
    spans = sorted(frame["audio_seconds"].unique())
    titles = {"seconds": "best time (s)", "above_bytes": "memory above libraries and weights (GiB)"}
    for ax, (value, title) in zip(axes, titles.items(), strict=True):
        for name, look, colour in zip(MODELS, ("o-", "s--"), ("blue", "vermilion"), strict=True):
            own = frame[frame["model"] == name]
            ax.plot(own["audio_seconds"], own[value], look, color=COLOURS[colour], label=name)
        ax.set(xscale="log", yscale="log", xlabel="length of the audio (s)", title=title)
        ax.set_xticks(spans, labels=[f"{span:g}" for span in spans])
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].legend()
