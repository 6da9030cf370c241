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
from bsm.stats import Interval, interval_words, of_rounds, ratio
from bsm.study.claims import exact
from bsm.study.counts import GIB, parameter_count, step_memory
from bsm.study.figures import COLOURS, reach
from bsm.study.speed import spectra, step
from bsm.study.speed.parts import ELEMENTWISE, LOSS, OPTIMISER, PARTS, PRODUCTS, SCAN

log = logging.getLogger(__name__)

BACKENDS = {"cuda": ("triton", "chunked", "quadratic"), "cpu": ("chunked", "quadratic", "sequential")}
LOADS = (1.0, 2), (4.0, 1), (8.0, 1), (8.0, 5)  # (s, number) of the segments that memory is counted for
MANY = 10_000_000  # parameters; networks with more are measured with one backend
_COLOURS = dict(zip(PARTS, (*(c for name, c in COLOURS.items() if name != "black"), "#999999"), strict=True))
_HATCHES = dict(zip(PARTS, ("", "//", "", "..", "", "\\\\", "", ""), strict=True))


def measure(
    *,
    preset: str,
    seconds: float,
    batch: int,
    repeats: int,
    sizes: Sequence[tuple[str, float, int]],
    precision: str = "32-true",
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure everything about a step.

    Args:
        preset: size of the steps before and after (:data:`step.VARIANTS`).
        seconds: length of their segments.
        batch: number of their segments.
        repeats: rounds.
        sizes: (preset, s, segments) of the steps by scan backend. Backends that cannot run are named and left out;
            large models are measured with the first alone.
        precision: ``32-true`` or ``bf16-mixed``.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``variants`` and ``backends`` (records of :func:`step.breakdown`), ``losses`` and ``stft``.
    """
    options = {"repeats": repeats, "precision": precision, "device": device}
    lacks, backends = available(device), BACKENDS[device] if sizes else ()
    for name in backends:
        if lacks[name]:
            log.warning("without the scan %s: it %s", name, lacks[name])
    can_run = [step.Variant(name, name) for name in backends if not lacks[name]]
    by_backend = []
    for size, span, segments in sizes:
        some = can_run if parameter_count(ModelConfig.preset(size)) < MANY else can_run[:1]
        by_backend += step.breakdown(some, size, seconds=span, batch=segments, **options)
    return {
        "variants": step.breakdown(step.VARIANTS, preset, seconds=seconds, batch=batch, **options),
        "backends": by_backend,
        # A part of a second each, or milliseconds: more rounds, so that one slow spell does not count.
        "losses": spectra.losses(seconds, batch=batch, repeats=3 * repeats, device=device),
        "stft": spectra.transforms(seconds, batch=batch, repeats=10 * repeats, device=device),
    }


def claims_table(variants: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List by part the documents' seconds, the measured ones (means with intervals), and the measured ratios."""
    claimed: dict[str, tuple[Sequence[str], Any, Any]] = {part: ((part,), *own) for part, own in exact.PARTS.items()}
    claimed["not in the documents"] = (PRODUCTS, ELEMENTWISE, OPTIMISER), "–", "–"
    totals = (", ".join(f"{pair[i]:g}" for pair in exact.STEP_SECONDS.values()) for i in (0, 1))
    claimed["whole step"] = PARTS, *totals
    rows = []
    for name, (parts, before, after) in claimed.items():
        row = {"part": name, "claimed before (s)": str(before), "claimed after (s)": str(after)}
        times = {v.name: step.part_seconds(step.named(variants, v.name), *parts) for v in step.VARIANTS}
        row |= {f"{variant} (s)": _mean(seconds) for variant, seconds in times.items()}
        first, *others = times.values()
        gains = [interval_words(ratio(first, other), "x") for other in others]
        rows.append(row | dict(zip(("first / second", "first / third"), gains, strict=True)))
    return pd.DataFrame(rows)


def _mean(times: Sequence[float]) -> str:
    return interval_words(of_rounds(times), digits=3)


def shares(record: dict[str, Any], *parts: str) -> Interval:
    """Return the share of some parts in a step, in percent, over its rounds."""
    return of_rounds(100 * step.part_seconds(record, *parts) / np.asarray(record["seconds"]))


def breakdown_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """List each step's seconds and its parts' shares in percent, forward and backward of each part together."""
    rows = []
    for record in records:
        row = {"preset": record["preset"], "step": record["variant"], "segments": step.size(record)}
        row |= {"seconds": _mean(record["seconds"])}
        row |= {f"{part} (%)": shares(record, part).estimate for part in PARTS}
        backward = np.sum([p["seconds"] for p in record["parts"] if p["direction"] == "backward"], axis=0)
        rows.append(row | {"of it backward (%)": 100 * float(np.mean(backward / np.asarray(record["seconds"])))})
    return pd.DataFrame(rows)


def facts_table(results: dict[str, Any]) -> pd.DataFrame:
    """List the ratios and shares that are no part of another table."""
    times = results["stft"]["seconds"]
    pairs = {
        "time of a stereo over a mono transform, averaging included": ("stereo", "mono"),
        "the same, one channel after the other": (spectra.EACH, spectra.AVERAGED),
        "the same, with a new window for each": (spectra.ANEW, spectra.AVERAGED),
    }
    facts = {name: interval_words(ratio(times[a], times[b]), "x") for name, (a, b) in pairs.items()}
    for record in results["backends"]:
        where = f"{record['preset']}, {record['variant']}, {step.size(record)}"
        facts[f"share of the loss in a step of {where}"] = interval_words(shares(record, LOSS), " %", 1)
    return pd.DataFrame(facts.items(), columns=["", "value"])


def memory_table(presets: Sequence[str]) -> pd.DataFrame:
    """List the memory of training steps of some sizes in GiB (:func:`bsm.study.counts.step_memory`)."""
    loads = [(seconds, batch, recompute) for seconds, batch in LOADS for recompute in (False, True)]
    found = pd.DataFrame([step_memory(preset, *load) for preset in presets for load in loads])
    names = {"preset": "preset", "audio_seconds": "segment (s)", "batch": "batch", "checkpointing": "checkpointing"}
    shown = found[[*names]].rename(columns=names).replace({"checkpointing": {True: "on", False: "off"}})
    return shown.assign(**{"between steps (GiB)": found["kept_bytes"] / GIB, "at the peak (GiB)": found["bytes"] / GIB})


def draw(ax: Axes, records: Sequence[dict[str, Any]], *, percent: bool = False) -> None:
    """Draw one bar a step, its parts stacked.

    By default they are in seconds, and the whole step has its interval at the end. With ``percent`` they are in percent
    of the step, and the share of the scan has its interval.
    """
    labels = [f"{r['variant']}\n{r['preset']}, {step.size(r)}" for r in records]
    left = np.zeros(len(records))
    for part in PARTS:
        widths = np.array([np.mean(step.part_seconds(r, part)) for r in records])
        widths *= [100 / np.mean(r["seconds"]) if percent else 1.0 for r in records]
        look = {"color": _COLOURS[part], "hatch": _HATCHES[part], "edgecolor": "white", "linewidth": 0.5}
        ax.barh(labels, widths, left=left, label=part, **look)
        left += widths
    for y, record in enumerate(records):
        interval = shares(record, SCAN) if percent else of_rounds(record["seconds"])
        ax.errorbar(interval.estimate, y, xerr=reach([interval]), color="black", capsize=3, linewidth=1)
    ax.invert_yaxis()
    ax.locator_params(axis="x", nbins=6)
    if percent:
        ax.set(xlabel="percent of a training step; interval of the scan", xlim=(0, 100))
    else:
        ax.set(xlabel="seconds of a training step: mean and interval")
