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
from bsm.study.compare import ROWS, corrected, counted, paired, song_of, table, tidy, words
from bsm.study.subjects import Subject

CAP = 100.0
"""dB: an estimate without any error counts as this good, and every ratio beyond it as this one."""
SDR, BEFORE, AFTER, LEAKAGE = "sdr", "leakage_before", "leakage_after", "leakage"
_LESS_IS_BETTER = (BEFORE, AFTER, LEAKAGE)


def ratio_db(numerator: float, denominator: float) -> float:
    """Return a ratio of two energies in dB, at most :data:`CAP` away from 0; NaN where both are 0."""
    if numerator <= 0 and denominator <= 0:
        return float("nan")
    if denominator <= 0:
        return CAP
    return float(np.clip(10 * np.log10(max(numerator, 1e-300) / denominator), -CAP, CAP))


def first_ms(ms: float) -> str:
    """Name of the SDR in the first milliseconds after an onset."""
    return f"first_{ms:g}ms"


def since_onset(start: float) -> str:
    """Name of the SDR in the stretch that begins so many seconds after the onset."""
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
        edges: s after the onset, rising from 0: stretches of a region, which count where the region fills them, so that
            no short rest of a decaying voice weighs as much as they. The last one is open: it counts where the region
            fills at least as much of it as the stretch before is long.
        margin: s before a region's onset and after its end in which leakage is measured, no further than to the next
            region. The gap between two regions may be after the one and before the other.

    Returns:
        A record for every region: ``region`` (its number), ``start``, ``stop``, ``duration`` (s), ``cut`` (whether it
        reaches the recording's beginning or end: it may have lasted longer), ``sdr`` inside it, :func:`first_ms` and
        :func:`since_onset` (dB), ``leakage_before`` and ``leakage_after`` (dB relative to the mixture); NaN for what is
        undefined, such as the leakage before a region at the very beginning, or the time since an onset not heard.
        And a record of the song: ``share`` of it that is sung, ``regions`` (their number), ``sdr`` of the energies in
        all of them, and ``leakage`` in all of the rest.

    Raises:
        InputError: edges that do not rise from 0.
    """
    if list(edges[:1]) != [0] or any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
        raise InputError(f"edges of stretches after an onset rise from 0, which {list(edges)} do not")
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
    """Separate every song with every model and :func:`measure` it.

    Args:
        found: the models.
        tracks: the songs.
        window: s that a model sees at a time, without overlap.
        threshold_db: see :func:`bsm.activity.vocal_regions`.
        options: of :func:`measure`.

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
        InputError: edges that do not rise.
    """
    if not inner or any(b <= a for a, b in zip(inner, inner[1:], strict=False)):
        raise InputError(f"duration_bins and share_bins need edges that rise, not {list(inner)}")
    middle = [f"{a:g} to {b:g} {unit}" for a, b in zip(inner, inner[1:], strict=False)]
    names = [f"under {inner[0]:g} {unit}", *middle, f"{inner[-1]:g} {unit} or more"]
    return names, lambda value: names[int(np.searchsorted(inner, value, side="right"))]


def compare(
    records: Sequence[dict[str, Any]], quantity: str, groups: Mapping[str, Sequence[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Compare the first model with every other, paired per region and seed, drawn by song and seed.

    Args:
        records: of regions or songs, of which the models' order is taken.
        quantity: a name in them.
        groups: records by the name of the group that they belong to.

    Returns:
        One record per group: ``quantity``, ``group``, ``regions`` (those in which every model has a value), ``songs``,
        ``seeds``, ``undefined`` (regions without), ``means`` (by model) and ``differences`` (by other model, the first
        minus that one) as intervals, and the ``verdicts`` on the first.
    """
    models = list(dict.fromkeys(r["model"] for r in records))
    more = quantity not in _LESS_IS_BETTER
    rows = []
    for group, members in groups.items():
        tables = by_model(members, quantity, models)
        whole = ~pd.concat(tables.values(), axis=1).isna().any(axis=1)
        tables = {model: own[whole] for model, own in tables.items()}
        means = {model: paired(own) for model, own in tables.items()}
        gains = {o: paired(tables[models[0]], tables[o], more_is_better=more) for o in models[1:]}
        rows.append(
            {
                "quantity": quantity,
                "group": group,
                "regions": means[models[0]]["tracks"],
                "songs": means[models[0]]["songs"],
                "seeds": means[models[0]]["seeds"],
                "undefined": int((~whole).sum()),
                "means": means,
                "differences": gains,
                "verdicts": {},
            }
        )
    for other in models[1:]:
        found = corrected([row["differences"][other] for row in rows], more_is_better=more)
        for row, gain in zip(rows, found, strict=True):
            row["differences"][other], row["verdicts"][other] = gain, gain["verdict"]
    return rows


def by_model(records: Sequence[dict[str, Any]], quantity: str, models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return for each model a table of :func:`bsm.study.compare.table`, of the same rows and columns for all.

    NaN where there is no value.
    """
    if not records:
        return {model: pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=ROWS), columns=[0]) for model in models}
    tables = {model: table(own, quantity) for model, own in tidy(records).groupby("system", sort=False)}
    rows = pd.concat(tables.values(), axis=1).sort_index().index
    columns = range(max(own.shape[1] for own in tables.values()))
    return {m: tables.get(m, pd.DataFrame(index=rows)).reindex(index=rows, columns=columns) for m in models}


def grouped(
    records: Sequence[dict[str, Any]], name: str, inner: Sequence[float], unit: str = "s"
) -> dict[str, list[dict[str, Any]]]:
    """Sort records into :func:`bins` of one of their values, and all of them once more under ``all``.

    A region that the recording's beginning or end cut short is in no bin of durations but the last, open one.
    """
    names, place = bins(inner, unit)
    groups: dict[str, list[dict[str, Any]]] = {bin_name: [] for bin_name in names}
    for record in records:
        found = place(record[name])
        if name != "duration" or not record.get("cut") or found == names[-1]:
            groups[found].append(record)
    return groups | {"all": list(records)}


def comparison_table(rows: Sequence[dict[str, Any]], title: str, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the records of :func:`compare` as a table.

    Args:
        rows: the records.
        title: heading of the column of groups.
        names: of the quantities, with their unit.
    """
    lines = []
    for row in rows:
        line = {
            title: row["group"],
            "measure": names[row["quantity"]],
            f"n ({next(iter(row['means'].values()))['unit']})": f"{row['regions']} ({row['songs']})",
        }
        line |= {model: mean["estimate"] for model, mean in row["means"].items()}
        for other, gain in row["differences"].items():
            line[f"minus {other}"] = words(gain)
            line[f"{next(iter(row['means']))} is"] = row["verdicts"][other]
        lines.append(line)
    return pd.DataFrame(lines)


def answer(rows: Sequence[dict[str, Any]], names: Mapping[str, str]) -> str:
    """Say in Markdown, a line per record of :func:`compare`, what is seen of the first model against the others.

    Args:
        rows: the records.
        names: of the quantities, with their unit.
    """
    if not rows[0]["differences"]:
        return f"Only {next(iter(rows[0]['means']))} was measured: there is nothing to compare.\n"
    lines = []
    for row in rows:
        if not row["regions"]:
            lines.append(f"- {names[row['quantity']]}, {row['group']}: measured nowhere.")
            continue
        first = next(iter(row["means"]))
        for other, gain in row["differences"].items():
            lines.append(
                f"- {names[row['quantity']]}, {row['group']}: {first} minus {other} {words(gain)}, {counted(gain)}: "
                f"{row['verdicts'][other]}."
            )
    return "\n".join(lines) + "\n"
