"""Errors by vocal occurrence: inside every region, beside it, after its onset, and by how much of a song is sung.

Where nobody sings the reference is silent and an SDR undefined. There the measure is leakage: the error's energy in dB
relative to the mixture's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bsm.activity import Region, vocal_regions, vocal_share
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.study.compare import ROWS, UNTRAINED, corrected, counted, paired, song_of, tables, words
from bsm.study.subjects import Subject

Records = Sequence[dict[str, Any]]
CAP = 100.0
"""dB: an estimate without any error counts as this good, and every ratio beyond it as this one."""
SDR, BEFORE, AFTER, LEAKAGE = "sdr", "leakage_before", "leakage_after", "leakage"
NAMES = {
    SDR: "SDR (dB)",
    BEFORE: "leakage before (dB)",
    AFTER: "leakage after (dB)",
    LEAKAGE: "leakage where nobody sings (dB)",
}
"""Measures with their unit, for tables and axes; all others are SDRs."""


def ratio_db(numerator: float, denominator: float) -> float:
    """Return a ratio of two energies in dB, at most :data:`CAP` away from 0; NaN where both are 0."""
    if numerator <= 0 and denominator <= 0:
        return float("nan")
    if denominator <= 0:
        return CAP
    return float(np.clip(10 * np.log10(max(numerator, 1e-300) / denominator), -CAP, CAP))


def first_ms(ms: float) -> str:
    """Name the SDR in the first milliseconds after an onset."""
    return f"first_{ms:g}ms"


def since_onset(start: float) -> str:
    """Name the SDR in the stretch that begins so many seconds after the onset."""
    return f"since_{start:g}s"


def measure(
    mixture: np.ndarray,
    vocals: np.ndarray,
    estimate: np.ndarray,
    rate: int,
    regions: Sequence[Region],
    *,
    responses: Sequence[float] = (100, 500, 1000),
    edges: Sequence[float] = (0, 0.5, 1, 2, 4),
    margin: float = 1.0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure one estimate of one song.

    Args:
        mixture: ``(channels, samples)``, like ``vocals`` and ``estimate``.
        vocals: the true ones.
        estimate: the estimated ones.
        rate: Hz.
        regions: where somebody sings, in rising order.
        responses: ms after an onset; of regions that last as long.
        edges: s after the onset, rising from 0. They bound stretches of a region. A stretch counts where the region
            fills it: the short rest of a decaying voice would weigh as much as a whole stretch. The last one is open.
            It counts where the region fills at least as much of it as the stretch before is long.
        margin: s before a region and after it in which leakage is measured, no further than to the next region.

    Returns:
        A record for every region: ``region`` (its number), ``start``, ``stop``, ``duration`` (s), ``cut`` (whether it
        reaches the recording's beginning or end: it may have lasted longer), ``gap`` (s without vocals before it, from
        the recording's beginning for the first), ``sdr`` inside it, :func:`first_ms` and :func:`since_onset` (dB),
        ``leakage_before`` and ``leakage_after`` (dB relative to the mixture). NaN stands for what is undefined, such as
        the time since an onset that is not heard. And a record of the song: ``share`` of it that is sung, ``regions``
        (their number), ``sdr`` in all of them, and ``leakage`` in all of the rest.

    Raises:
        InputError: edges do not rise from 0.
    """
    if list(edges[:1]) != [0] or any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
        raise InputError(f"edges of stretches after an onset must rise from 0; {list(edges)} do not")
    error = estimate.astype(np.float64) - vocals

    def energy(signal: np.ndarray, start: float, stop: float) -> float:
        return float(np.square(signal[:, round(start * rate) : round(stop * rate)], dtype=np.float64).sum())

    def sdr(start: float, stop: float) -> float:
        return ratio_db(energy(vocals, start, stop), energy(error, start, stop)) if stop > start else float("nan")

    def leakage(start: float, stop: float) -> float:
        reference = energy(mixture, start, stop) if stop > start else 0.0
        return ratio_db(energy(error, start, stop), reference) if reference > 0 else float("nan")

    seconds = vocals.shape[1] / rate
    ends = [0.0, *(r.stop for r in regions)]
    onsets = [*(r.start for r in regions), seconds]
    records = []
    for number, region in enumerate(regions):
        record = {"region": number, "start": region.start, "stop": region.stop, "duration": region.duration}
        onset = region.start > 0
        record["cut"] = not onset or region.stop >= seconds
        record["gap"] = region.start - ends[number] if onset else float("nan")
        record[SDR] = sdr(region.start, region.stop)
        for ms in responses:
            heard = onset and region.duration >= ms / 1000
            record[first_ms(ms)] = sdr(region.start, region.start + ms / 1000) if heard else float("nan")
        for before, begin, end in zip([0, *edges], edges, [*edges[1:], np.inf], strict=False):
            filled = region.duration >= (end if end < np.inf else begin + (begin - before)) and region.duration > begin
            stop = min(region.start + end, region.stop)
            record[since_onset(begin)] = sdr(region.start + begin, stop) if onset and filled else float("nan")
        record[BEFORE] = leakage(max(ends[number], region.start - margin), region.start)
        record[AFTER] = leakage(region.stop, min(onsets[number + 1], region.stop + margin))
        records.append(record)
    free = list(zip(ends, onsets, strict=True))
    sung, wrong = (sum(energy(x, r.start, r.stop) for r in regions) for x in (vocals, error))
    leaked, heard = (sum(energy(x, a, b) for a, b in free) for x in (error, mixture))
    song = {
        "share": vocal_share(regions, seconds),
        "regions": len(regions),
        SDR: ratio_db(sung, wrong) if regions else float("nan"),
        LEAKAGE: ratio_db(leaked, heard) if heard > 0 else float("nan"),
    }
    return records, song


def measure_all(
    found: Sequence[Subject], tracks: Sequence[Track], *, window: float, threshold_db: float = -40.0, **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Separate every song with every model, in windows of some seconds without overlap, and :func:`measure` it.

    Returns:
        The records of regions and those of songs, each with ``track``, ``song`` (that it is of), ``model``, ``seed``.
    """
    regions, songs = [], []
    separators = [(subject, subject.separator(window=window)) for subject in found]
    with tqdm(total=len(found) * len(tracks), desc="separate", unit="song") as bar:
        for track in tracks:
            mixture, vocals = track.mixture(), track.read("vocals")
            occurrences = vocal_regions(vocals, track.rate, threshold_db=threshold_db)
            for subject, separator in separators:
                own = {"track": track.name, "song": song_of(track.name), "model": subject.name, "seed": subject.seed}
                each, song = measure(mixture, vocals, separator(track), track.rate, occurrences, **options)
                regions += [own | record for record in each]
                songs.append(own | song)
                bar.update()
    return regions, songs


def bins(inner: Sequence[float], unit: str = "s") -> tuple[list[str], Callable[[float], str]]:
    """Return the names of the bins between rising edges, the outer ones open, and a function from value to name.

    Raises:
        InputError: edges do not rise.
    """
    if not inner or any(b <= a for a, b in zip(inner, inner[1:], strict=False)):
        raise InputError(f"duration_bins, gap_bins and share_bins need edges that rise, not {list(inner)}")
    middle = [f"{a:g} to {b:g} {unit}" for a, b in zip(inner, inner[1:], strict=False)]
    names = [f"under {inner[0]:g} {unit}", *middle, f"{inner[-1]:g} {unit} or more"]
    return names, lambda value: names[int(np.searchsorted(inner, value, side="right"))]


def grouped(records: Records, name: str, inner: Sequence[float], unit: str = "s") -> dict[str, list[dict[str, Any]]]:
    """Sort records into :func:`bins` of one of their values, and all of them once more under ``all``.

    A region that the recording's beginning or end cut short is in no bin of durations but the last, open one. An
    undefined value is in no bin.
    """
    names, place = bins(inner, unit)
    groups: dict[str, list[dict[str, Any]]] = {bin_name: [] for bin_name in names}
    for record in records:
        if np.isnan(record[name]):
            continue
        found = place(record[name])
        if name != "duration" or not record.get("cut") or found == names[-1]:
            groups[found].append(record)
    return groups | {"all": list(records)}


def compare(records: Records, quantity: str, groups: Mapping[str, Records]) -> list[dict[str, Any]]:
    """Compare the first model with every other in each group, paired per region and seed, drawn by song and seed.

    Regions in which a model has no value drop out for all models.

    Returns:
        One record per group: ``quantity``, ``group``, ``means`` by model, and ``differences`` by other model, the first
        minus that one. Both are records of :func:`bsm.study.compare.paired`.
    """
    models = list(dict.fromkeys(r["model"] for r in records))
    rows = []
    for group, members in groups.items():
        found = by_model(members, quantity, models)
        whole = ~pd.concat(found.values(), axis=1).isna().any(axis=1)
        found = {model: own[whole] for model, own in found.items()}
        rows.append({"quantity": quantity, "group": group, "means": {m: paired(own) for m, own in found.items()}})
        rows[-1]["differences"] = {other: paired(found[models[0]], found[other]) for other in models[1:]}
    for other in models[1:]:
        gains = [row["differences"][other] for row in rows]
        for row, gain in zip(rows, corrected(gains, more_is_better="leakage" not in quantity), strict=True):
            row["differences"][other] = gain
    return rows


def after_onset(
    regions: Records, responses: Sequence[float], edges: Sequence[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare models in the first milliseconds after an onset, and in stretches further and further from it."""
    everyone = {"all": regions}
    first = [
        row | {"group": f"first {ms:g} ms"} for ms in responses for row in compare(regions, first_ms(ms), everyone)
    ]
    names = [f"{a:g} to {b:g} s" for a, b in zip(edges, edges[1:], strict=False)] + [f"{edges[-1]:g} s on"]
    distant = [
        row | {"group": name}
        for start, name in zip(edges, names, strict=True)
        for row in compare(regions, since_onset(start), everyone)
    ]
    return first, distant


def by_model(records: Records, quantity: str, models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return for each model a table of :func:`bsm.study.compare.table`, of the same rows for all."""
    found = tables(records, quantity) if records else {}
    empty = pd.MultiIndex.from_tuples([], names=ROWS)
    rows = pd.concat(found.values(), axis=1).sort_index().index if found else empty
    nothing = pd.DataFrame(index=rows, columns=[UNTRAINED], dtype=float)
    return {model: found[model].reindex(rows) if model in found else nothing for model in models}


def comparison_table(rows: Records, title: str) -> pd.DataFrame:
    """Return the records of :func:`compare` as a table; ``title`` is the heading of the column of groups.

    ``minus`` another model stands for the first model's difference from it, and ``against`` it for the verdict.
    """
    lines = []
    for row in rows:
        some = next(iter(row["means"].values()))
        line = {title: row["group"], "measure": NAMES.get(row["quantity"], NAMES[SDR])}
        line[f"n ({some['unit']})"] = f"{some['tracks']} ({some['songs']})"
        line |= {model: mean["estimate"] for model, mean in row["means"].items()}
        for other, gain in row["differences"].items():
            line |= {f"minus {other}": words(gain), f"against {other}": gain["verdict"]}
        lines.append(line)
    return pd.DataFrame(lines)


def answer(rows: Records) -> str:
    """Say in Markdown, a line per record of :func:`compare`, what is seen of the first model against the others."""
    first = next(iter(rows[0]["means"]))
    if not rows[0]["differences"]:
        return f"Only {first} was measured: there is nothing to compare.\n"
    lines = []
    for row in rows:
        place = f"- {NAMES.get(row['quantity'], NAMES[SDR])}, {row['group']}"
        for other, gain in row["differences"].items():
            said = f"{first} minus {other} {words(gain)}, {counted(gain)}: {gain['verdict']}"
            lines.append(f"{place}: {said if gain['tracks'] else 'measured nowhere'}.")
    return "\n".join(lines) + "\n"
