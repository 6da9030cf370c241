"""The long study's networks on songs, region by region: does a network do better where vocals come and go?

Every network separates whole songs, and windows of 8 s without overlap. Two counterfactuals at some regions
(:func:`sampled`) show how much the rest of a song helps:

- *no future*: the song ends with the region;
- *no past*: nothing is carried across the middle of the gap before the region (:func:`bsm.study.long.carriers.Cut`). A
  network without such a memory gets the song from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from bsm.activity import Region, vocal_regions, vocal_share
from bsm.data.tracks import VOCALS, Track
from bsm.evaluate import model_separator
from bsm.inference import separate
from bsm.metrics import usdr
from bsm.study import baselines, occurrence
from bsm.study.long import songs
from bsm.study.long.carriers import Cut, carriers, replaced
from bsm.study.long.songs import rounded
from bsm.study.occurrence import AFTER, BEFORE, SDR, first_ms
from bsm.study.records import checksum, mark, write_result
from bsm.weights.files import load_model

WINDOW = 8.0  # s; the paper trains on windows of this length, and the guide separates in them
SAMPLED = 2  # regions of a song with counterfactuals
TRIVIAL = (baselines.EQUALISER, f"{baselines.EQUALISER}, fitted on the song", "ideal ratio mask")
FIRST = first_ms(1000)
IN_WINDOW, NO_FUTURE, NO_PAST = "sdr_in_window", "sdr_no_future", "sdr_no_past"
FIRST_NO_PAST = f"{FIRST}_no_past"
_KEPT = ("region", "start", "duration", "cut", "gap", SDR, *map(first_ms, (100, 500, 1000)), BEFORE, AFTER)


def experiment(
    path: Path, *, folder: Path, arm: str, seed: int = 0, weights: str = "", changed: int | None = None
) -> None:
    """Measure a trained arm or the trivial separators on all regions of the test songs, and write the result.

    Args:
        path: of the result, a JSON file.
        folder: holds the songs (:func:`bsm.study.long.songs.corpus`).
        arm: see :func:`bsm.study.long.songs.experiment`.
        seed: of the training.
        weights: file of the trained weights; the trivial separators have none.
        changed: see :func:`of_network`.
    """
    started, tracks = mark(), songs.corpus(folder / songs.SONGS_FOLDER)
    settings: dict[str, Any] = {"arm": arm, "songs_sha256": checksum(folder / songs.SONGS_FOLDER)}
    settings |= {"window": WINDOW, "sampled": SAMPLED}
    if arm == songs.BASELINES:
        values = of_baselines(tracks["test"], tracks["train"])
    else:
        settings |= {"weights": Path(weights).name, "weights_sha256": checksum(weights), "changed": changed}
        values = of_network(load_model(weights), tracks["test"], changed)
    write_result(
        path,
        measured="songs: SDR inside each vocal region and leakage beside it, dB, also without future or past; uSDR, dB",
        parameters=settings,
        values=values,
        seed=seed,
        started=started,
        data=songs.DATA,
        inputs=[],
    )


def heard(tracks: Sequence[Track], **options: float) -> Iterator[tuple[Track, np.ndarray, np.ndarray, list[Region]]]:
    """Yield each song with its mixture, its true vocals, and the regions in which somebody sings.

    ``options`` are those of :func:`bsm.activity.vocal_regions`.
    """
    for track in tqdm(tracks, desc="regions", unit="song"):
        vocals = track.read(VOCALS)
        yield track, track.mixture(), vocals, vocal_regions(vocals, track.rate, **options)


def of_baselines(tracks: Sequence[Track], training: Sequence[Track]) -> dict[str, list[dict[str, Any]]]:
    """Measure :data:`TRIVIAL` separators: ``regions`` and ``scores``, each with its ``separator`` and no ``seed``."""
    found: dict[str, list[dict[str, Any]]] = {"regions": [], "scores": []}
    chosen = {name: separate for name, separate in baselines.separators(training).items() if name in TRIVIAL}
    for track, mixture, vocals, sung in heard(tracks):
        for name, separator in chosen.items():
            own = {"track": track.name, "separator": name, "seed": None}
            estimate = separator(track)
            records = regions_of(mixture, vocals, estimate, track.rate, sung)
            found["regions"] += [rounded(own | record) for record in records]
            found["scores"].append(rounded(own | _score(vocals, estimate)))
    return found


def of_network(
    model: nn.Module, tracks: Sequence[Track], changed: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Measure a network.

    Args:
        model: the network.
        tracks: the songs.
        changed: the number of songs, from the first on, that get the passes that take long: those without future or
            past, and windows that overlap. By default all songs get them.

    Returns:
        ``regions``: records of :func:`regions_of`, with SDRs in dB: ``sdr_in_window`` of windows of :data:`WINDOW` s,
        and at :func:`sampled` regions ``sdr_no_future``, ``sdr_no_past`` and ``first_1000ms_no_past``.
        ``scores``: uSDR by song, ``window`` and ``hop``. At most :data:`~bsm.study.long.songs.SCORED` songs have
        scores of windows that overlap by half.
    """
    found: dict[str, list[dict[str, Any]]] = {"regions": [], "scores": []}
    whole = model_separator(model, whole=True)
    plain, overlapped = (model_separator(model, window=WINDOW, hop=hop) for hop in (WINDOW, WINDOW / 2))
    changed = len(tracks) if changed is None else changed
    for number, (track, mixture, vocals, sung) in enumerate(heard(tracks)):
        estimate, windowed = whole(track), plain(track)
        records = regions_of(mixture, vocals, estimate, track.rate, sung)
        for record, region in zip(records, sung, strict=True):
            record[IN_WINDOW] = _sdr(vocals, windowed, track.rate, region.start, region.stop)
        scores = [_score(vocals, estimate), _score(vocals, windowed, window=WINDOW, hop=WINDOW)]
        if number < min(changed, songs.SCORED):
            scores.append(_score(vocals, overlapped(track), window=WINDOW, hop=WINDOW / 2))
        for index in sampled(sung) if number < changed else ():
            records[index] |= counterfactuals(model, mixture, vocals, track.rate, sung[index - 1], sung[index])
        found["regions"] += [rounded({"track": track.name} | record) for record in records]
        found["scores"] += [rounded({"track": track.name} | score) for score in scores]
    return found


def regions_of(
    mixture: np.ndarray, vocals: np.ndarray, estimate: np.ndarray, rate: int, sung: Sequence[Region]
) -> list[dict[str, Any]]:
    """Measure each region of an estimate by :func:`bsm.study.occurrence.measure`, and add its :func:`surroundings`."""
    records, _ = occurrence.measure(mixture, vocals, estimate, rate, sung)
    around = surroundings(sung, vocals.shape[1] / rate)
    return [{name: own[name] for name in _KEPT} | more for own, more in zip(records, around, strict=True)]


def surroundings(sung: Sequence[Region], seconds: float, window: float = WINDOW) -> list[dict[str, float]]:
    """Return how much vocals there are around each vocal region of a song, in s; NaN where that is undefined.

    Returns:
        ``nearest``: distance to the nearest other region, before or after. ``elsewhere``: vocals in the rest of the
        song. ``elsewhere_in_window``: vocals in the rest of the window of ``window`` s that holds the whole region, if
        one does. ``share``: share of the song that is sung, 0 to 1.
    """
    total, share = sum(region.duration for region in sung), vocal_share(sung, seconds)
    found = []
    for number, region in enumerate(sung):
        before = region.start - sung[number - 1].stop if number else np.inf
        after = sung[number + 1].start - region.stop if number + 1 < len(sung) else np.inf
        first = region.start // window * window
        inside = sum(max(0.0, min(r.stop, first + window) - max(r.start, first)) for r in sung)
        found.append(
            {
                "nearest": min(before, after) if len(sung) > 1 else np.nan,
                "elsewhere": total - region.duration,
                "elsewhere_in_window": inside - region.duration if region.stop <= first + window else np.nan,
                "share": share,
            }
        )
    return found


def sampled(sung: Sequence[Region], most: int = SAMPLED) -> list[int]:
    """Choose the regions of a song that get counterfactuals: at most ``most``, evenly spaced by rank of the gap before.

    They include the shortest and the longest gap. The first region has no vocals before it and the last region none
    after it, so both are left out.
    """
    inner = sorted(range(1, len(sung) - 1), key=lambda i: sung[i].start - sung[i - 1].stop)
    ranks = np.linspace(0, len(inner) - 1, min(most, len(inner))).round().astype(int)
    return [inner[rank] for rank in ranks]


def counterfactuals(
    model: nn.Module, mixture: np.ndarray, vocals: np.ndarray, rate: int, before: Region, region: Region
) -> dict[str, float]:
    """Return a region's SDR, dB, where the song ends with it, and where nothing is carried across the gap before it.

    ``mixture`` and the true ``vocals`` are ``(channels, samples)`` at the model's ``rate``, Hz. ``before`` is the
    region in front of the gap.
    """
    end = round(region.stop * rate)
    shortened = separate(model, torch.from_numpy(mixture[:, :end]), rate, whole=True).numpy()
    forgot = without_past(model, mixture, rate, before.stop, (before.stop + region.start) / 2)
    heard = region.duration >= 1
    return {
        NO_FUTURE: _sdr(vocals[:, :end], shortened, rate, region.start, region.stop),
        NO_PAST: _sdr(vocals, forgot, rate, region.start, region.stop),
        FIRST_NO_PAST: _sdr(vocals, forgot, rate, region.start, region.start + 1) if heard else np.nan,
    }


def without_past(model: nn.Module, mixture: np.ndarray, rate: int, begin: float, at: float) -> np.ndarray:
    """Separate a mixture ``(channels, samples)`` with nothing carried from before ``at`` to after it, s.

    The estimate is silent before ``begin``, an earlier time: what lies there cannot reach the times after ``at``, so it
    is not computed. The frames lie where those of the whole song lie, because other frames would change the score of
    any network, even of one without a time block.
    """
    hop = model.config.stft.hop_length
    first, frame = int(begin * rate // hop), round(at * rate / hop)
    remembers = any(True for _ in carriers(model))
    if not remembers:
        first = frame
    with replaced(model, lambda part: Cut(part, frame - first)) if remembers else nullcontext():
        estimate = separate(model, torch.from_numpy(mixture[:, first * hop :]), rate, whole=True).numpy()
    return np.pad(estimate, ((0, 0), (first * hop, 0)))


def _sdr(vocals: np.ndarray, estimate: np.ndarray, rate: int, start: float, stop: float) -> float:
    part = slice(round(start * rate), round(stop * rate))
    target = vocals[:, part].astype(np.float64)
    return occurrence.ratio_db(np.square(target).sum(), np.square(target - estimate[:, part]).sum())


def _score(
    vocals: np.ndarray, estimate: np.ndarray, window: float | None = None, hop: float | None = None
) -> dict[str, Any]:
    return {"window": window, "hop": hop, "usdr": usdr(vocals, estimate)}
