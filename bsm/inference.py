"""Separate recordings of any length, sample rate and number of channels with a model that has fixed ones."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bsm import audio, fast
from bsm.errors import InputError, lacks_memory
from bsm.files import check_writable, real
from bsm.model import BSMamba2

log = logging.getLogger(__name__)

OUTPUTS = ("vocals", "accompaniment")
LEAST_WINDOW = 0.01  # s; one hop of the paper's STFT
MOST_OVERLAP = 100  # the most windows that a sample may lie in
PADDED = 32.0  # s; the longest window for a recording that is shorter than it


def separate(
    model: BSMamba2,
    mixture: Tensor,
    rate: int,
    *,
    window: float = 8.0,
    hop: float | None = None,
    whole: bool = False,
    batch_size: int = 1,
    progress: bool | str = False,
) -> Tensor:
    """Return the estimated vocals of one recording, in its shape and at its sample rate, on the CPU.

    Args:
        model: on any device; its sample rate and number of channels may differ from the recording's.
        mixture: ``(channels, samples)``.
        rate: sample rate of the mixture, Hz.
        window: length of the model's input, s; the last window is padded with zeros. It is limited to the length of the
            recording, or to :data:`PADDED` for a shorter recording.
        hop: time between the starts of windows, s; default: no overlap, as in the author's code. Overlapping windows
            are cross-faded.
        whole: process the recording in one pass. At paper size, this takes about 6.5 MB per second of stereo.
        batch_size: windows per forward pass; changes the result only by rounding.
        progress: show a progress bar; a string is its label.

    Raises:
        InputError: the mixture has no samples, values that are not finite, or channels that do not fit the model; the
            window or hop is out of range; the model has half precision; the memory is too small; or the estimate is not
            finite.
    """
    mixture = torch.as_tensor(mixture, dtype=torch.float32).detach().cpu()
    if mixture.ndim != 2 or 0 in mixture.shape:
        raise InputError(f"mixture must be (channels, samples), none of them 0, got {tuple(mixture.shape)}")
    if not mixture.isfinite().all():
        raise InputError("the mixture has NaN or infinite samples; export it again from its source")
    check_windows(window, hop, whole=whole)
    config, (channels, samples) = model.config, mixture.shape
    check_channels(channels, config.channels)
    dtype = next(model.parameters(), mixture).dtype
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"the model's weights are {dtype}, too low a precision to separate; give model.float()")
    wave = torch.from_numpy(audio.resample(mixture.numpy(), rate, config.sample_rate))
    if wave.shape[-1] == 0:  # less than half a sample at the model's rate
        wave = wave.new_zeros(channels, 1)
    wave = _to_model_channels(wave, config.channels)
    longest = max(wave.shape[-1], round(PADDED * config.sample_rate))
    size = wave.shape[-1] if whole else min(longest, round(window * config.sample_rate))
    step = size if hop is None or whole else min(size, max(1, round(hop * config.sample_rate)))
    try:
        estimate = _windowed(model, wave, size, step, batch_size, progress)
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise InputError(
            "the memory is too small; separate in windows (without --whole), choose a shorter window or a smaller "
            "batch, or use --device cpu"
        ) from error
    if not estimate.isfinite().all():
        raise InputError(
            "the model's estimate has NaN or infinite samples: its weights are damaged, or its precision is too low "
            "for this recording; load other weights, or run in float32"
        )
    estimate = _from_model_channels(estimate, channels)
    estimate = torch.from_numpy(audio.resample(estimate.numpy(), config.sample_rate, rate))
    # After resampling there and back, the length may differ by a sample.
    return torch.nn.functional.pad(estimate, (0, max(0, samples - estimate.shape[-1])))[:, :samples]


def check_windows(window: float, hop: float | None = None, *, whole: bool = False) -> None:
    """Check the window and hop of :func:`separate`, s. With ``whole``, the hop is not used and not checked.

    Raises:
        InputError: the window is below :data:`LEAST_WINDOW` or not finite, or the hop is not between a hundredth of the
            window and the window.
    """
    if not LEAST_WINDOW <= window < math.inf:
        raise InputError(f"window must be at least {LEAST_WINDOW:g} s and finite, got {window:g} s; the default is 8 s")
    least = window / MOST_OVERLAP
    if hop is not None and not whole and not least <= hop <= window:
        raise InputError(f"hop must be from {least:g} s to the window of {window:g} s, got {hop:g} s")


def check_channels(channels: int, wanted: int, name: str | Path = "the recording") -> None:
    """Raise an InputError unless model and recording have as many channels, or one of the two has one."""
    if channels not in (1, wanted) and wanted != 1:
        raise InputError(f"{name} has {channels} channels; the model takes {wanted}, or mono; mix it down first")


def _to_model_channels(wave: Tensor, wanted: int) -> Tensor:
    """Arrange ``(channels, samples)`` as ``(batch, wanted, samples)``. A mono model gets the channels as a batch."""
    if wave.shape[0] == wanted:
        return wave[None]
    return wave[:, None] if wanted == 1 else wave.expand(wanted, -1)[None]


def _from_model_channels(estimate: Tensor, channels: int) -> Tensor:
    """Invert :func:`_to_model_channels`. For a mono recording, average the channels of the estimate."""
    if estimate.shape[0] > 1:
        return estimate.squeeze(1)
    return estimate[0].mean(0, keepdim=True) if channels == 1 else estimate[0]


@torch.inference_mode()
def _windowed(model: BSMamba2, wave: Tensor, size: int, step: int, batch_size: int, progress: bool | str) -> Tensor:
    """Run the model on windows of ``size`` samples every ``step`` samples; ``(b, c, samples)`` in and out."""
    like = next(model.parameters(), wave)
    batch, channels, samples = wave.shape
    count = 1 + max(0, -(-(samples - size) // step))
    padded = torch.nn.functional.pad(wave, (0, (count - 1) * step + size - samples))
    total = torch.zeros_like(padded)
    # With overlap, windows are weighted by a triangle, and the sum is divided by the sum of weights.
    weight = torch.ones(size) if step == size else torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1))
    weights = torch.zeros(padded.shape[-1])
    starts = range(0, count * step, step)
    per_pass = max(1, batch_size // batch)
    label = progress if isinstance(progress, str) else "separate"
    form = "{l_bar}{bar}| {elapsed}<{remaining}"
    bar = tqdm(total=-(-count // per_pass), desc=label, bar_format=form, disable=not progress)
    inside = isinstance(model, BSMamba2)  # then the bar moves within a pass, too
    with bar, fast.progress(bar.update) if inside else contextlib.nullcontext():
        for first in range(0, count, per_pass):
            group = starts[first : first + per_pass]
            windows = torch.stack([padded[..., s : s + size] for s in group])  # (windows, b, c, size)
            estimate = model(windows.flatten(0, 1).to(like)).float().cpu().view(windows.shape)
            for start, part in zip(group, estimate, strict=True):
                total[..., start : start + size] += part * weight
                weights[start : start + size] += weight
            if not inside:
                bar.update()
    return (total / weights)[..., :samples]


# ---- files


def find_songs(places: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Find the songs among files and folders. A folder's songs are the audio files directly inside it.

    In folders, hidden files are skipped, and so are earlier outputs of a song in the same folder. A file in ``places``
    is always a song.

    Returns:
        The songs, each once; and the audio and video files in folders that cannot be read. The log names these files
        and the skipped outputs.

    Raises:
        InputError: a folder has no audio files that can be read.
    """
    songs, left_out = [], []
    for place in places:
        if not place.is_dir():
            songs.append(place)
            continue
        files = [p for p in sorted(place.iterdir()) if p.is_file() and not p.name.startswith(".")]
        inside = [p for p in files if audio.READABLE.search(p.name)]
        foreign = [p for p in files if audio.FOREIGN.search(p.name)]
        if not inside:
            fix = audio.convert(foreign[0]) if foreign else "give a song, or a folder of songs"
            raise InputError(f"{place}: is a folder without audio files that can be read; {fix}")
        left_out += foreign
        outputs = {path.name for song in inside for path in _outputs(song, None)}
        if skipped := [p for p in inside if p.name in outputs]:
            log.warning("skipped earlier outputs: %s", ", ".join(map(str, skipped)))
        songs += [p for p in inside if p.name not in outputs]
    if left_out := list(dict.fromkeys(left_out)):
        names = ", ".join(map(str, left_out))
        log.warning("left out %d file(s) that cannot be read: %s; %s", len(left_out), names, audio.convert(left_out[0]))
    return list(dict.fromkeys(songs)), left_out


def _outputs(song: Path, folder: Path | None) -> list[Path]:
    return [(folder or song.parent) / f"{song.stem}.{name}.wav" for name in OUTPUTS]


def plan_outputs(
    songs: Sequence[Path], folder: Path | None, *, overwrite: bool = False, skip_existing: bool = False
) -> dict[Path, list[Path]]:
    """Return the output files of each song, after a check that songs can be read and outputs written.

    Args:
        songs: audio files, each once.
        folder: where to write ``<song>.vocals.wav`` and ``<song>.accompaniment.wav``; default: the song's folder.
        overwrite: replace existing files, but never one of the songs.
        skip_existing: skip songs whose outputs both exist, and log their number.

    Raises:
        InputError: a song cannot be read, two songs have the same outputs, or an output is one of the songs, cannot be
            written, or exists without ``overwrite``.
    """
    targets, song_of = {}, {}
    given = {real(song) for song in songs}
    for song in songs:
        audio.info(song)
        paths = _outputs(song, folder)
        if real(other := song_of.setdefault(real(paths[0]), song)) != real(song):
            raise InputError(f"{other} and {song} would both be written to {paths[0]}; separate them one by one")
        # Path.exists would raise OSError for a name that is too long.
        if skip_existing and all(os.path.exists(path) and real(path) not in given for path in paths):  # noqa: PTH110
            continue
        check_writable(*paths)
        for path in paths:
            if real(path) in given:
                raise InputError(
                    f"{path}: is one of the songs, and an output of {song}; leave out one of the two, or name another "
                    "folder with -o"
                )
            if path.exists() and not overwrite:
                unfinished = "it is the only one of the song's outputs, so the song is unfinished"
                way = unfinished if skip_existing else "skip finished songs with --skip-existing"
                raise InputError(
                    f"{path}: exists, and is an output of {song}; replace it with --overwrite, {way}, or name another "
                    "folder with -o"
                )
        targets[song] = paths
    if len(targets) < len(songs):
        log.warning("skipped %d of %d song(s): they are separated already", len(songs) - len(targets), len(songs))
    return targets


def separate_file(
    model: BSMamba2, song: Path, paths: Sequence[Path], *, subtype: str = "FLOAT", **options: Any
) -> float:
    """Write the estimated vocals of a song and the rest of the mixture; return the gain of both, dB, 0 or below.

    Either both files are written or neither. Rate, channels and length are the song's. If ``subtype`` is PCM and a peak
    exceeds 1, both outputs are turned down by one gain, so that their sum is the song at that gain. A warning states
    the gain.

    Args:
        model: the network.
        song: audio file.
        paths: of the vocals and the accompaniment; missing folders are made.
        subtype: sample format, such as ``FLOAT``, ``PCM_16`` or ``PCM_24``.
        options: options of :func:`separate`.

    Raises:
        InputError: the song cannot be read or separated, or an output cannot be written.
    """
    mixture, rate = audio.read(song)
    try:
        vocals = separate(model, torch.from_numpy(mixture), rate, **options).numpy()
    except InputError as error:
        raise InputError(f"{song}: {error}") from error
    parts = [vocals, mixture - vocals]
    gain = 0.0
    peak = max(float(np.abs(part).max()) for part in parts)
    if subtype.startswith("PCM") and peak > 1:
        gain = -math.ceil(2000 * math.log10(peak) + 1e-6) / 100  # dB; rounded, so that the stated gain is exact
        log.warning(
            "%s: peak %.2f would clip in %s; both outputs are turned down by %.2f dB", song, peak, subtype, -gain
        )
        parts = [part * np.float32(10 ** (gain / 20)) for part in parts]
    audio.write_all(dict(zip(paths, parts, strict=True)), rate, subtype=subtype)
    return gain
