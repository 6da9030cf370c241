"""Rules on what follows from structure alone, from the comparison that :mod:`bsm.study.structure` writes.

The unofficial implementation was read in its source. What is counted, compared and run is a literal model of that
description.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bsm.stats import gain_words
from bsm.study.ablation import gain_of
from bsm.study.claims import COMPUTED, CONTRADICTED, PARTLY, READ, REPRODUCED, Finding, rule
from bsm.study.variants import BASE, VARIANTS


@rule(COMPUTED)
def params_48(parameters: int, *, millions: float) -> Finding:
    """Parameters of the model at the paper's sizes, rounded as the claim is."""
    return Finding(
        REPRODUCED if round(parameters / 1e6, 1) == millions else CONTRADICTED,
        f"{parameters:,} (n = 1, exact)",
        "counted in this implementation, whose weights have the names and shapes of the author's",
    )


@rule(READ)
def arch_100(
    properties: list[dict[str, Any]],
    deviations: Sequence[dict[str, Any]] | None = None,
    scores: Sequence[dict[str, Any]] | None = None,
    updates: int | None = None,
) -> Finding:
    """Structural properties of the described model beside the paper's: one that differs is not 100 %.

    What the deviations cost in uSDR, in small models trained alike for so many ``updates``, stands beside it; it does
    not change the status.
    """
    differ = [p["property"] for p in properties if p["paper"] != p["seed"]]
    measured = f"{len(differ)} of {len(properties)} properties differ (exact)"
    why = f"differ: {', '.join(differ)}; " * bool(differ) + "of a model built from the description of its source"
    trained = [r for r in deviations or () if VARIANTS[r["variant"]].model]  # the network's, not the loss's
    gains = {VARIANTS[r["variant"]].asks: gain_of(trained, r["variant"]) for r in trained}
    told = [gain for gain in gains.values() if not np.isnan(gain.low)]
    if told:
        costly, gainful = sum(gain.high < 0 for gain in told), sum(gain.low > 0 for gain in told)
        base = [r["usdr"] for r in scores or () if r["variant"] == BASE]
        measured += (
            "; in small models after "
            + (f"{updates} updates" if updates else "the profile's short trainings")
            + (f" (base {np.nanmean(np.array(base, dtype=float)):.2f} dB)" if base else "")
            + f", {costly} of {len(told)} deviations, one by one, cost uSDR and {gainful} gain it (95 % intervals)"
        )
    if gains:
        words = ", ".join(f"{asks} {gain_words(gain)}" for asks, gain in gains.items())
        seeds = min(r["seeds"] for r in trained)
        why += (
            "; so short a training cannot tell much of what a deviation costs; against the paper's design, trained "
            f"alike under {seeds} seed(s): {words}"
        )
    return Finding(CONTRADICTED if differ else REPRODUCED, measured, why)


@rule(READ)
def checkpoints_compat(mismatches: list[dict[str, Any]], tensors: int) -> Finding:
    """Weights of the mixer before the change, loaded into the mixer after it."""
    shown = "; ".join(f"{m['key']}: {m['before'] or 'absent'} to {m['after'] or 'absent'}" for m in mismatches)
    return Finding(
        CONTRADICTED if mismatches else REPRODUCED,
        f"{len(mismatches)} of {tensors} weights of a mixer missing, new or of another shape (exact)",
        f"loading is refused ({shown}); of the mixers before and after as described, the later one as in Mamba-1"
        if mismatches
        else "every weight of a mixer keeps name and shape",
    )


@rule(COMPUTED)
def loss_exact(losses: list[dict[str, Any]], *, tolerance: float) -> Finding:
    """Values of the three-window loss beside the paper's for the same estimates."""
    differ = [r for r in losses if abs(r["seed"] - r["paper"]) > tolerance * max(abs(r["paper"]), tolerance)]
    return Finding(
        CONTRADICTED if len(differ) == len(losses) else PARTLY if differ else REPRODUCED,
        "; ".join(f"{r['case']}: {r['seed']:.3g} against {r['paper']:.3g}" for r in losses) + f" (n = {len(losses)})",
        "three windows, magnitudes and a mean instead of five windows, complex values and a sum; random signals",
    )


@rule(COMPUTED)
def stft_15(stfts: dict[str, int], *, claimed: int) -> Finding:
    """Transforms counted in one evaluation of the loss."""
    return Finding(
        REPRODUCED if stfts["as described"] == claimed else CONTRADICTED,
        f"{stfts['as described']} as described, {stfts['three windows']} after the cut, {stfts['here']} here (exact)",
        "the kinds of loss share one transform of the estimate and one of the target for each window; here, one of "
        "their difference is enough",
    )


@rule(READ)
def bands_equal_mel(bands: dict[str, list[int]], trained: Sequence[dict[str, Any]] = ()) -> Finding:
    """Widths of the author's bands beside equal and Mel bands of the same number, and trained scores with those."""
    author = bands["author"]
    same = [name for name, widths in bands.items() if name != "author" and widths == author]
    shared = {
        name: sum(a == b for a, b in zip(author, widths, strict=True))
        for name, widths in bands.items()
        if name != "author"
    }
    counts = ", ".join(f"{count} of {len(author)} widths as with {name} bands" for name, count in shared.items())
    gains = {name: gain_of(trained, f"bands-{name}") for name in shared}
    scores = "".join(f"; {name} bands {gain_words(gain)}" for name, gain in gains.items() if gain)
    return Finding(
        REPRODUCED if same else CONTRADICTED,
        f"{counts} (exact){scores}",
        f"the author's code has a table of its own, widths {min(author)} to {max(author)} bins; scores against it, "
        "small models trained alike",
    )
