"""Tables in the report's own form: frames that are made from result files and are narrow enough for a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bsm.study import compare, input_length, occurrence
from bsm.study.compare import CORRECTED, corrected, counted, covers, paired, tables, tidy, words
from bsm.study.figures import LABELS
from bsm.study.long import probe_tables

METRICS = {name: compare.LABELS[name] for name in ("usdr", "csdr", "si_sdr")}
OURS = LABELS["bsmamba2"]
Frames = list[tuple[pd.DataFrame, str]]  # tables with their captions


def held_out(records: Sequence[Mapping[str, Any]]) -> Frames:
    """Compare separators on held-out songs: mean scores, and BSMamba2's gain over each other separator.

    Args:
        records: of :func:`bsm.evaluate.evaluate`.
    """
    found = {label: tables(records, metric) for metric, label in METRICS.items()}
    usdr = found[METRICS["usdr"]]
    others = [name for name in usdr if name != OURS]
    rows = [
        {"": name}
        | {label: words(paired(own[name])) for label, own in found.items()}
        | {"median cSDR": np.nanmedian(own) if (own := found[METRICS["csdr"]][name]).notna().any(axis=None) else np.nan}
        for name in usdr
    ]
    compared = {label: corrected([paired(own[OURS], own[name]) for name in others]) for label, own in found.items()}
    gains = pd.DataFrame({f"{OURS} minus": others} | {label: [*map(words, own)] for label, own in compared.items()})
    gains["uSDR verdict"] = [gain["verdict"] for gain in compared[METRICS["usdr"]]]
    some = counted(paired(usdr[OURS]))
    return [
        (pd.DataFrame(rows), f"Means over songs ({some}), one training of each network; in brackets 95 % intervals"),
        (gains, f"Mean differences, paired by song; {covers(1)}; {CORRECTED}"),
    ]


def headline(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the separators score on held-out songs, and how BSMamba2 differs from the other networks."""
    (means, _), (gains, _) = held_out(records)
    scores = "; ".join(f"{name} {score}" for name, score in zip(means[""], means["uSDR (dB)"], strict=True))
    lines = [f"uSDR on held-out songs, in dB: {scores}."]
    for name, gain, said in zip(gains.iloc[:, 0], gains["uSDR (dB)"], gains["uSDR verdict"], strict=True):
        if name in LABELS.values():
            lines.append(f"{OURS} minus {name}, paired by song: {gain} dB, {said}.")
    return lines


def windows(values: Mapping[str, Any]) -> Frames:
    """List scores by window, and the difference from the window that was trained on."""
    trained = values["trained"]
    rows = input_length.differences(values["scores"], values["against"])
    some = counted(rows[0]) if rows else "nothing to compare"
    note = (
        f"Means over songs ({some}) by window; differences from the training's window, or with overlap from the same "
        f"window without overlap; {CORRECTED}"
    )
    return [(input_length.score_table(values["scores"], rows, trained), note)]


def regions(values: Mapping[str, Any], duration_bins: Sequence[float]) -> Frames:
    """List SDR and leakage by the duration of vocal regions, and the first model's gain over the second."""
    found = tidy(values["regions"])
    groups = occurrence.grouped(found, "duration", duration_bins)
    measures = (occurrence.SDR, occurrence.BEFORE, occurrence.AFTER)
    compared = [row for name in measures for row in occurrence.compare(found, name, groups)]
    shown = occurrence.comparison_table(compared, "duration", models=2)  # a page holds no more columns
    note = (
        "SDR inside vocal regions by duration, and leakage before and after them (energy of the error relative to the "
        f"mixture; less is better); differences are paired by region; {CORRECTED}, measure by measure"
    )
    return [(shown, note)]


def published(values: Mapping[str, Any]) -> Frames:
    """List the published scores."""
    rows = [{"model": r["model"], "cSDR (dB)": r["csdr"], "uSDR (dB)": r["usdr"]} for r in values["published"]]
    status = {"blocked": "not compared: see what is missing"}.get(values["status"], "compared below")
    return [(pd.DataFrame(rows), f"Published scores, of the 50 test songs of MUSDB18-HQ; {status}")]


def probe(values: Sequence[Mapping[str, Any]]) -> Frames:
    """List what every network scores on the probe of memory: after each gap, and under each control."""
    frame = pd.DataFrame(values)
    arms = [arm for arm in probe_tables.ARMS if arm in set(frame["arm"])]
    frame = frame.assign(arm=pd.Categorical(frame["arm"], arms))
    by_arm = probe_tables.table(frame).drop(columns=["rate", "learned"]).rename(columns={"arm": "network"})
    by_control = (
        probe_tables.interventions(frame).set_index("arm").drop(["no time block", "convolution"], errors="ignore")
    )
    by_control = by_control.T.rename_axis(index="control", columns=None)
    order = sorted(by_control.index, key=lambda name: (name.split()[:-1], float(name.split()[-1])))
    score = "SDR in dB / right choices on the probe, means over the seeds that learned (over all, where none did)"
    note = (
        f"{score}, of the networks with a memory. Numbers are gaps or lengths in s. `lead`: background before the cue "
        "instead of a long gap; `deleted`: the gap is cut out of the example; `swapped`: the cue has the other timbre, "
        "so the other voice is the target; `cut`: the network carries nothing through the gap; `sharpened`: "
        "attention's logits are scaled for the length"
    )
    return [(by_arm, f"{score}, by the gap between cue and play"), (by_control.loc[order].reset_index(), note)]


class Own(NamedTuple):
    """How the report makes tables from one of a notebook's results.

    Attributes:
        result: name of the result file.
        frames: makes the tables from its values, and from those of its parameters that ``given`` names.
        instead: names of the notebook's tables that these replace.
        given: see ``frames``.
        measured: whether the tables hold what was measured here, on the data of the result.
    """

    result: str
    frames: Callable[..., Frames]
    instead: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    measured: bool = True


FRAMES: dict[str, list[Own]] = {
    "04_train": [Own("scores", held_out, ("scores", "differences"))],
    "05_input_length": [Own("input_length", windows, ("input_length",))],
    "06_vocal_occurrence": [Own("vocal_occurrence", regions, ("vocal_occurrence_answer",), ("duration_bins",))],
    "07_cue_and_gap": [Own("cue_gap", probe, ("cue_gap", "cue_gap_interventions"))],
    "10_published_model": [Own("published_model", published, measured=False)],
}
"""By notebook."""
