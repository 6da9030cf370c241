"""Errors by vocal occurrence: inside every region, beside it, after its onset, and by how much of a song is sung.

Where nobody sings the reference is silent and an SDR undefined. There the measure is leakage: the error's energy in dB
relative to the mixture's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bsm.activity import Region, vocal_regions, vocal_share
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.study.compare import ROWS, corrected, counted, paired, song_of, tables, words
from bsm.study.subjects import Subject

Records = Sequence[dict[str, Any]]
CAP = 100.0
"""dB: the largest ratio that counts, for example that of an estimate without any error."""
SDR, BEFORE, AFTER, LEAKAGE = "sdr", "leakage_before", "leakage_after", "leakage"
NAMES = {
    SDR: "SDR (dB)",
    BEFORE: "leakage before (dB)",
    AFTER: "leakage after (dB)",
    LEAKAGE: "leakage where nobody sings (dB)",
}
"""Measures with their unit, for tables and axes; all other measures are SDRs."""


def ratio_db(numerator: float, denominator: float) -> float:
    """Return a ratio of two energies in dB, between -:data:`CAP` and :data:`CAP`; NaN where both are 0."""
    if denominator <= 0:
        return CAP if numerator > 0 else np.nan
    return float(np.clip(10 * np.log10(max(numerator, 1e-300) / denominator), -CAP, CAP))


def first_ms(ms: float) -> str:
    """Name the SDR in the first milliseconds after an onset."""
    return f"first_{ms:g}ms"


def since_onset(start: float) -> str:
    """Name the SDR in the stretch that begins ``start`` seconds after an onset."""
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
        vocals: the true vocals.
        estimate: the estimated vocals.
        rate: Hz.
        regions: where somebody sings, in rising order.
        responses: lengths in ms of a region's beginning. Only regions that last as long are measured.
        edges: times after the onset in s, rising from 0, between which a region is cut into stretches. A stretch is
            measured where the region fills it: the short rest of a decaying voice would weigh as much as a whole
            stretch. The last stretch has no end. The region must fill as much of it as the stretch before is long.
        margin: s before and after a region in which leakage is measured, at most up to the neighbouring region.

    Returns:
        One record per region, and one record of the song. NaN stands for undefined values.

        Of a region: ``region`` (its number), ``start``, ``stop``, ``duration`` (s), ``cut`` (whether it touches the
        recording's beginning or end, so that it may have lasted longer), ``gap`` (s without vocals before it; of the
        first region, from the recording's beginning), ``sdr`` inside it, :func:`first_ms` and :func:`since_onset` (dB;
        undefined where the recording begins with the region), ``leakage_before`` and ``leakage_after`` (dB relative to
        the mixture).

        Of the song: ``share`` of its time that is sung, number of ``regions``, ``sdr`` over all regions, and
        ``leakage`` over the rest.

    Raises:
        InputError: edges do not rise from 0.
    """
    if list(edges[:1]) != [0] or any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
        raise InputError(f"edges of stretches after an onset must rise from 0; {list(edges)} do not")
    error = estimate.astype(np.float64) - vocals

    def energy(signal: np.ndarray, *spans: tuple[float, float]) -> float:
        parts = (signal[:, round(start * rate) : round(stop * rate)] for start, stop in spans)
        return float(sum(np.square(part, dtype=np.float64).sum() for part in parts))

    def sdr(*spans: tuple[float, float]) -> float:
        return ratio_db(energy(vocals, *spans), energy(error, *spans))

    def leakage(*spans: tuple[float, float]) -> float:
        reference = energy(mixture, *spans)
        return ratio_db(energy(error, *spans), reference) if reference > 0 else np.nan

    seconds = vocals.shape[1] / rate
    ends = [0.0, *(r.stop for r in regions)]
    onsets = [*(r.start for r in regions), seconds]
    records = []
    for number, region in enumerate(regions):
        start, stop, duration, onset = region.start, region.stop, region.duration, region.start > 0
        record = {"region": number, "start": start, "stop": stop, "duration": duration}
        record["cut"] = not onset or stop >= seconds
        record["gap"] = start - ends[number] if onset else np.nan
        record[SDR] = sdr((start, stop))
        for ms in responses:
            heard = onset and duration >= ms / 1000
            record[first_ms(ms)] = sdr((start, start + ms / 1000)) if heard else np.nan
        for before, begin, end in zip([0, *edges], edges, [*edges[1:], np.inf], strict=False):
            filled = duration >= (end if end < np.inf else begin + (begin - before)) and duration > begin
            stretch = (start + begin, min(start + end, stop))
            record[since_onset(begin)] = sdr(stretch) if onset and filled else np.nan
        record[BEFORE] = leakage((max(ends[number], start - margin), start))
        record[AFTER] = leakage((stop, min(onsets[number + 1], stop + margin)))
        records.append(record)
    song = {"share": vocal_share(regions, seconds), "regions": len(regions)}
    song |= {SDR: sdr(*((r.start, r.stop) for r in regions)), LEAKAGE: leakage(*zip(ends, onsets, strict=True))}
    return records, song


def measure_all(
    found: Sequence[Subject], tracks: Sequence[Track], *, window: float, threshold_db: float = -40.0, **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Separate every song with every model, in windows of ``window`` s without overlap, and :func:`measure` it.

    Returns:
        The records of regions, and those of songs. Each has ``track``, its ``song``, ``model`` and ``seed``.
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


def bins(edges: Sequence[float], unit: str = "s") -> list[str]:
    """Name the bins between rising edges; the outer bins are open.

    Raises:
        InputError: edges do not rise.
    """
    if not edges or any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
        raise InputError(f"duration_bins, gap_bins and share_bins need edges that rise, not {list(edges)}")
    middle = [f"{a:g} to {b:g} {unit}" for a, b in zip(edges, edges[1:], strict=False)]
    return [f"under {edges[0]:g} {unit}", *middle, f"{edges[-1]:g} {unit} or more"]


def binned(values: Any, edges: Sequence[float], unit: str = "s") -> Any:
    """Return values as a categorical of the names of their :func:`bins`; an undefined value has none."""
    return pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=bins(edges, unit))


def known(frame: pd.DataFrame, name: str, least: float = np.inf) -> pd.Series:
    """Return a property of a frame's regions, NaN where it is unknown.

    The duration of a region that the recording cuts short is only a lower limit, so it counts from ``least`` s on.
    """
    values = frame[name].astype(float)
    return values.mask(frame["cut"] & (values < least)) if name == "duration" and "cut" in frame else values


def with_level(values: pd.DataFrame, frame: pd.DataFrame, name: str, least: float = np.inf) -> pd.DataFrame:
    """Add a property of the regions (:func:`known`) to the index of a table, as its last level.

    Rows whose property or value is unknown are dropped.
    """
    level = known(frame, name, least).groupby([frame[row] for row in ROWS]).first().reindex(values.index)
    return values.set_index(pd.Index(level, name=name), append=True)[level.notna().to_numpy()].dropna()


def grouped(frame: pd.DataFrame, name: str, edges: Sequence[float], unit: str = "s") -> dict[str, pd.DataFrame]:
    """Sort a frame's regions into :func:`bins` by a property (:func:`known`); ``all`` holds each once more.

    A region that the recording cuts short is in the last bin of durations or in none.
    """
    names = bins(edges, unit)
    found = binned(known(frame, name, edges[-1]), edges, unit)
    return {own: frame[found == own] for own in names} | {"all": frame}


def compare(
    frame: pd.DataFrame,
    quantity: str,
    groups: Mapping[str, pd.DataFrame],
    *,
    models: Sequence[str] = (),
    folds: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Compare the first model with every other model in each group, paired per region and seed.

    Intervals are over songs and seeds. A region in which one model has no value drops out for all models.

    Args:
        frame: of :func:`bsm.study.compare.tidy`, of regions or of songs (:func:`measure`).
        quantity: one of their measures.
        groups: parts of the frame, by name.
        models: systems that are compared, by default all; of another system there is only the mean.
        folds: of a cross-validation (:func:`bsm.study.compare.folds_of`).

    Returns:
        One record per group: ``quantity``, ``group``, ``means`` by system, and ``differences`` of the first model from
        each other model. Means and differences are records of :func:`bsm.study.compare.paired`.
    """
    found, rows = tables(frame, quantity), []
    first, *others = models or found
    whole = pd.concat([found[name] for name in (first, *others)], axis=1).sort_index().dropna().index
    for group, part in groups.items():
        inside = whole[whole.isin(pd.MultiIndex.from_frame(part[ROWS]))]
        own = {name: values.reindex(inside) for name, values in found.items()}
        means = {name: paired(values, folds=folds) for name, values in own.items()}
        gains = {other: paired(own[first], own[other], folds) for other in others}
        rows.append({"quantity": quantity, "group": group, "means": means, "differences": gains})
    return correct(rows)


def correct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correct the verdicts on ``differences`` for the number of rows of a ``quantity`` (Holm, 1979), and return them.

    The rows are changed in place. Less leakage is better; more of any other quantity is.
    """
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        differences = [row["differences"] for row in rows if row["quantity"] == quantity]
        for other in differences[0]:
            gains = corrected([own[other] for own in differences], more_is_better="leakage" not in quantity)
            for own, gain in zip(differences, gains, strict=True):
                own[other] = gain
    return rows


def after_onset(
    regions: pd.DataFrame, responses: Sequence[float], edges: Sequence[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare models in the first milliseconds after an onset, and in stretches further and further from it."""
    first = [row for ms in responses for row in compare(regions, first_ms(ms), {f"first {ms:g} ms": regions})]
    names = [f"{a:g} to {b:g} s" for a, b in zip(edges, edges[1:], strict=False)] + [f"{edges[-1]:g} s on"]
    stretches = dict(zip(edges, names, strict=True))
    return first, [row for a, name in stretches.items() for row in compare(regions, since_onset(a), {name: regions})]


def comparison_table(rows: Records, title: str, *, models: int | None = None) -> pd.DataFrame:
    """Return the records of :func:`compare` as a table; ``title`` is the heading of the column of groups.

    A column ``minus`` and a model's name holds the first model's difference from that model, and a column ``against``
    the verdict on it. By default the table has all ``models``, otherwise so many of them, from the first on.
    """
    lines = []
    for row in rows:
        some = next(iter(row["means"].values()))
        line = {title: row["group"], "measure": NAMES.get(row["quantity"], NAMES[SDR])}
        line[f"n ({some['unit']})"] = f"{some['tracks']} ({some['songs']})"
        shown = [*row["means"]][:models]
        line |= {model: row["means"][model]["estimate"] for model in shown}
        for other in shown[1:]:
            gain = row["differences"][other]
            line |= {f"minus {other}": words(gain), f"against {other}": gain["verdict"]}
        lines.append(line)
    return pd.DataFrame(lines)


def answer(rows: Records) -> str:
    """Say in Markdown how the first model differs from the others, a line per record of :func:`compare` and model."""
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
