"""The profile of a training step, measured in one go, with its tables and figure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsm.config import ModelConfig
from bsm.scan import available
from bsm.stats import Interval, interval_text, interval_words, of_rounds, ratio
from bsm.study.figures import COLOURS, reach
from bsm.study.meta import parameter_count
from bsm.study.speed import memory, spectra, step, whole
from bsm.study.speed.parts import CONV, DATA, ELEMENTWISE, LOSS, OPTIMISER, PARTS, PRODUCTS, SCAN, STFT

log = logging.getLogger(__name__)

BACKENDS = {"cpu": ("chunked", "quadratic", "sequential"), "cuda": ("triton", "chunked", "quadratic")}
MEMORY_SECONDS = 0.2, 0.4
MANY = 10_000_000  # parameters, from which on one backend is enough
CLAIMED = {SCAN: (40, 5), CONV: (3, 1), LOSS: (15, 5), STFT: (3, 1.5), DATA: (2, 0.5)}
"""Seconds of a step before and after, as the documents list them; the optimisation report has no convolution."""
CLAIMED_TOTAL = "60, 61, 63", "12, 12.5, 13"
REST = {"not in the documents": (PRODUCTS, ELEMENTWISE, OPTIMISER)}
_COLOURS = dict(zip(PARTS, (*COLOURS.values(), "#999999"), strict=True))
_HATCHES = dict(zip(PARTS, ("", "//", "", "..", "", "\\\\", "", ""), strict=True))


def measure(
    *,
    preset: str,
    seconds: float,
    batch: int,
    repeats: int,
    sizes: Sequence[tuple[str, float, int]],
    backends: Sequence[str],
    memory_presets: Sequence[str],
    memory_seconds: Sequence[float],
    compile_step: bool,
    precision: str = "32-true",
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure everything about a step.

    Args:
        preset: size of the steps before and after (:data:`step.VARIANTS`).
        seconds: length of their segments, s.
        batch: their segments.
        repeats: rounds.
        sizes: (preset, s, segments) of the steps by scan backend.
        backends: names of scans; large models are measured with the first alone.
        memory_presets: sizes whose memory is measured, with and without checkpointing.
        memory_seconds: lengths of a segment there, s.
        compile_step: also time ``torch.compile``, whose compiling takes minutes.
        precision: ``32-true`` or ``bf16-mixed``.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``variants`` and ``backends`` (records of :func:`step.breakdown`), ``losses``, ``stft``, and ``memory``
        and ``compile``, None unless they were asked for.
    """
    options = {"repeats": repeats, "precision": precision, "device": device}
    by_backend = []
    for size, span, segments in sizes:
        some = backends if parameter_count(ModelConfig.preset(size)) < MANY else backends[:1]
        by_backend += step.breakdown(step.backends(some), size, seconds=span, batch=segments, **options)
    cases = [(size, precision, checkpointing) for size in memory_presets for checkpointing in (False, True)]
    return {
        "variants": step.breakdown(step.VARIANTS, preset, seconds=seconds, batch=batch, **options),
        "backends": by_backend,
        "losses": spectra.losses(seconds, batch=batch, repeats=repeats, device=device),
        # Milliseconds each: rounds enough that one slow spell does not count.
        "stft": spectra.transforms(seconds, batch=batch, repeats=10 * repeats, device=device),
        "memory": memory.step_memory(cases, memory_seconds, device=device) if cases else None,
        "compile": whole.compiled(preset, seconds=seconds, batch=batch, **options) if compile_step else None,
    }


def measure_preset(
    preset: str, *, seconds: Sequence[float], repeats: int, batch: int, precision: str, device: str, compile_step: bool
) -> dict[str, Any]:
    """Measure the steps of one size; see :func:`measure`.

    Args:
        preset: size of the network.
        seconds: lengths of a segment, s. The steps before and after have the first.
        repeats: rounds.
        batch: segments.
        precision: ``32-true`` or ``bf16-mixed``.
        device: ``cpu`` or ``cuda``. Scans that cannot run there are named and left out.
        compile_step: also time ``torch.compile``.
    """
    lacks = {name: available(device)[name] for name in BACKENDS[device] if available(device)[name]}
    for name, reason in lacks.items():
        log.warning("without the scan %s: it %s", name, reason)
    return measure(
        preset=preset,
        seconds=seconds[0],
        batch=batch,
        repeats=repeats,
        sizes=[(preset, span, batch) for span in seconds],
        backends=[name for name in BACKENDS[device] if name not in lacks],
        memory_presets=[preset],
        memory_seconds=MEMORY_SECONDS,
        compile_step=compile_step,
        precision=precision,
        device=device,
    )


def claims_table(variants: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Set the documents' seconds by part beside the measured ones, means with intervals, and their ratios."""
    rows = []
    names = {part: (part,) for part in CLAIMED} | REST | {"whole step": PARTS}
    for name, parts in names.items():
        claimed = CLAIMED.get(name, CLAIMED_TOTAL if parts == PARTS else ("–", "–"))
        row = {"part": name, "claimed before (s)": str(claimed[0]), "claimed after (s)": str(claimed[1])}
        times = {v.name: step.part_seconds(step.named(variants, v.name), *parts) for v in step.VARIANTS}
        row |= {f"{variant} (s)": _mean(seconds) for variant, seconds in times.items()}
        first, *others = times.values()
        gains = [interval_words(ratio(first, other), "x") for other in others]
        rows.append(row | dict(zip(("first / second", "first / third"), gains, strict=True)))
    return pd.DataFrame(rows)


def _mean(times: np.ndarray) -> str:
    interval = of_rounds(times)
    return f"{interval.estimate:.3f} ({interval_text(interval.low, interval.high, 3)})"


def shares(record: dict[str, Any], *parts: str) -> Interval:
    """Return the share of some parts in a step, in percent, over its rounds."""
    return of_rounds(100 * step.part_seconds(record, *parts) / np.asarray(record["seconds"]))


def breakdown_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List each step's seconds and its parts' shares in percent, forward and backward of each part together."""
    rows = []
    for record in records:
        row = {
            "preset": record["preset"],
            "step": record["variant"],
            "segments": f"{record['batch']} x {record['audio_seconds']:g} s",
            "seconds": _mean(np.asarray(record["seconds"])),
        }
        row |= {f"{part} (%)": shares(record, part).estimate for part in PARTS}
        backward = sum(np.asarray(p["seconds"]) for p in record["parts"] if p["direction"] == "backward")
        rows.append(row | {"of it backward (%)": 100 * float(np.mean(backward / np.asarray(record["seconds"])))})
    return pd.DataFrame(rows)


def loss_table(losses: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List the losses' best times, their transforms, and how much slower the first is."""
    first = losses[0]["seconds"]
    return pd.DataFrame(
        [
            {
                "loss": r["loss"],
                "best (ms)": 1e3 * min(r["seconds"]),
                "transforms": r["transforms"],
                "times the speed of the first": interval_words(ratio(first, r["seconds"]), "x"),
            }
            for r in losses
        ]
    )


def facts_table(results: dict[str, Any]) -> pd.DataFrame:
    """List the ratios and shares that are no part of another table, and whether compiling pays."""
    times = results["stft"]["seconds"]
    pairs = {
        "time of a stereo over a mono transform, averaging included": ("stereo", "mono"),
        "the same, one channel after the other": (spectra.EACH, spectra.AVERAGED),
        "the same, with a new window for each": (spectra.ANEW, spectra.AVERAGED),
    }
    facts = {name: interval_words(ratio(times[a], times[b]), "x") for name, (a, b) in pairs.items()}
    for record in results["backends"]:
        where = f"{record['preset']}, {record['variant']}, {record['batch']} x {record['audio_seconds']:g} s"
        facts[f"share of the loss in a step of {where}"] = interval_words(shares(record, LOSS), " %", 1)
    if compiled := results["compile"]:
        gain = ratio(compiled["seconds"]["plain"], compiled["seconds"]["compiled"])
        facts |= {
            f"speed of a step with torch.compile of its blocks, {compiled['preset']}": interval_words(gain, "x"),
            "seconds of compiling": f"{compiled['compile_seconds']:.0f}",
            "torch.compile": "on: it gains" if gain.low > 1 else "off: no gain is seen",
        }
    return pd.DataFrame(facts.items(), columns=["", "value"])


def draw(ax: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Draw one bar a step, its parts stacked in seconds; the whole step with its interval at the end."""
    _bars(ax, records, [1.0] * len(records), [of_rounds(record["seconds"]) for record in records])
    ax.set(xlabel="seconds of a training step: mean and interval")


def draw_shares(ax: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Draw one bar a step, its parts stacked in percent of it; the share of the scan with its interval."""
    _bars(ax, records, [100 / np.mean(r["seconds"]) for r in records], [shares(record, SCAN) for record in records])
    ax.set(xlabel="percent of a training step; interval of the scan", xlim=(0, 100))


def _bars(ax: Axes, records: Sequence[dict[str, Any]], scales: Sequence[float], intervals: Sequence[Interval]) -> None:
    labels = [f"{r['variant']}\n{r['preset']}, {r['batch']} x {r['audio_seconds']:g} s" for r in records]
    left = np.zeros(len(records))
    for part in PARTS:
        widths = np.multiply([float(np.mean(step.part_seconds(r, part))) for r in records], scales)
        look = {"color": _COLOURS[part], "hatch": _HATCHES[part], "edgecolor": "white", "linewidth": 0.5}
        ax.barh(labels, widths, left=left, label=part, **look)
        left += widths
    for y, interval in enumerate(intervals):
        ax.errorbar(interval.estimate, y, xerr=reach([interval]), color="black", capsize=3, linewidth=1)
    ax.invert_yaxis()
    ax.locator_params(axis="x", nbins=6)
