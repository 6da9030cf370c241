"""Mix training segments at random from the active parts of many songs, and cut fixed segments for validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from bsm import audio
from bsm.activity import active_windows
from bsm.data.tracks import VOCALS, Track
from bsm.errors import InputError

log = logging.getLogger(__name__)


class MixingDataset(Dataset):
    """Mix sources of different songs, as the author's code does.

    Each source has a window of its own, drawn from all windows of all songs in which that source is active. So a long
    song is drawn more often. The source is silenced with some probability, and scaled by a uniform gain. A segment
    shorter than the window lies anywhere in it, whether or not the source is active there.

    The author's code does not transpose. Here a source may be played faster or slower, which makes more of little data
    (Ko et al., 2015, *Audio augmentation for speech recognition*). Its speed changes in semitones, so that an
    instrument keeps the tuning that tells it from a voice.

    Item ``i`` depends only on ``(seed, i)``. So a resumed run sees the segments of an uninterrupted one. Processes that
    divide the indices among them never see the same segment.

    Args:
        tracks: songs of equal rate, channels and source names.
        segment: samples per segment, at the tracks' rate.
        seed: chooses the segments.
        length: number of items.
        gain: range of the gain.
        silence_probability: probability that a source, vocals included, is silenced.
        window_seconds: length of the windows, s; by default the segment's. Windows overlap by half.
        transpose: semitones by which a source is transposed at most, up or down; all steps are equally likely.

    Raises:
        InputError: there are no tracks, they differ in rate, channels or sources, a source is silent in all of them, or
            segment or length is below 1.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        *,
        segment: int,
        seed: int,
        length: int,
        gain: tuple[float, float] = (0.5, 1.5),
        silence_probability: float = 0.1,
        window_seconds: float | None = None,
        transpose: int = 0,
    ) -> None:
        _check_alike(tracks)
        if segment < 1 or length < 1:
            raise InputError(f"a training set needs at least one sample and one item, not {segment} and {length}")
        self._segment, self._seed, self._length = segment, seed, length
        self._gain, self._silence_probability, self._transpose = gain, silence_probability, transpose
        self._channels = tracks[0].channels
        window = window_seconds or segment / tracks[0].rate
        self._room = max(0, round(window * tracks[0].rate) - segment)
        # source -> (track, first sample) of each of its active windows
        self._active: dict[str, list[tuple[Track, int]]] = {name: [] for name in tracks[0].sources}
        for track in tqdm(tracks, desc="finding active windows", leave=False, disable=len(tracks) < 5):
            for source, found in self._active.items():
                starts = active_windows(track.read(source), track.rate, window=window, hop=window / 2)
                found.extend((track, start) for start in starts)
        for source, found in self._active.items():
            if not found:
                raise InputError(
                    f"{source} sounds in no window of {window:g} s for more than half of it; choose shorter windows "
                    "(window_seconds, or segment_seconds), or give songs in which it sounds"
                )
            log.info("%s: %d active windows in %d songs", source, len(found), len({track.name for track, _ in found}))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixture ``index``, the sum of its sources, and its vocals; float32 ``(channels, segment)`` each."""
        if not 0 <= index < self._length:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index])
        mixture = np.zeros((self._channels, self._segment), np.float32)
        vocals = np.zeros_like(mixture)
        for source, found in self._active.items():
            # Everything is drawn for a silenced source, too: the draws for the other sources do not depend on it.
            track, start = found[rng.integers(len(found))]
            if self._room:
                start = min(start + int(rng.integers(self._room + 1)), max(0, track.samples - self._segment))
            gain = np.float32(rng.uniform(*self._gain))
            speed = 2 ** (rng.integers(-self._transpose, self._transpose + 1) / 12) if self._transpose else 1.0
            if rng.random() < self._silence_probability:
                continue
            stop = min(start + round(self._segment * speed), track.samples)
            sound = track.read(source, start, stop)
            if speed != 1:
                sound = audio.resample(sound, track.rate * speed, track.rate)[:, : self._segment]
            sound = gain * _pad(sound, self._segment)
            mixture += sound
            if source == VOCALS:
                vocals = sound
        return torch.from_numpy(mixture), torch.from_numpy(vocals)


def validation_segments(
    tracks: Sequence[Track], segment: int, per_track: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut ``per_track`` segments of ``segment`` samples from each song, at equal distances.

    A song shorter than a segment is padded with zeros.

    Returns:
        ``(mixture, vocals)`` of each segment, float32 ``(channels, segment)``, song by song.

    Raises:
        InputError: there are no tracks, or they differ in rate, channels or sources.
    """
    _check_alike(tracks)
    made = []
    for track in tracks:
        room = max(0, track.samples - segment)
        for i in range(per_track):
            start = round(room * (i + 0.5) / per_track)
            stop = min(start + segment, track.samples)
            pair = (track.mixture(start, stop), track.read(VOCALS, start, stop))
            made.append(tuple(torch.from_numpy(_pad(sound, segment)) for sound in pair))
    return made


def _pad(sound: np.ndarray, segment: int) -> np.ndarray:
    missing = segment - sound.shape[1]
    return np.pad(sound, ((0, 0), (0, missing))) if missing else sound


def _check_alike(tracks: Sequence[Track]) -> None:
    if not tracks:
        raise InputError("no songs given; a data set needs at least one")
    first = tracks[0]
    for track in tracks:
        for what, mine, others in (
            ("rate", track.rate, first.rate),
            ("channels", track.channels, first.channels),
            ("sources", sorted(track.sources), sorted(first.sources)),
        ):
            if mine != others:
                raise InputError(
                    f"song {track.name!r} has {what} {mine}, song {first.name!r} has {others}; make them alike"
                )
