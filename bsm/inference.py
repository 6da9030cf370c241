"""Separate recordings of any length, rate and channel count with a model of fixed rate and channels."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bsm import audio, fast
from bsm.errors import InputError
from bsm.files import check_writable, replacing
from bsm.model import BSMamba2

log = logging.getLogger(__name__)

OUTPUTS = ("vocals", "accompaniment")
# What a folder's songs are known by; a file that is named itself may have any suffix that libsndfile reads.
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".w64", ".au", ".caf")


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
    """Estimate the vocals of one recording.

    Args:
        model: on any device; its own rate and channels may differ from the recording's.
        mixture: ``(channels, samples)``.
        rate: of the mixture, Hz.
        window: seconds that the model sees at a time; the last window is filled up with zeros.
        hop: seconds from window to window; None for no overlap, the author's way. Overlapping windows are cross-faded.
        whole: one pass over the whole recording instead of windows; memory grows with its length, at paper size by
            about 6.5 MB per stereo second, for the features.
        batch_size: windows per forward pass; no effect on the result beyond rounding.
        progress: show a progress bar, under this name where it is a text.

    Returns:
        ``(channels, samples)`` on the CPU, shape and rate of the mixture.

    Raises:
        InputError: no samples, values that are not finite, more channels than the model can be given, no window, a hop
            that would leave gaps, too little memory on the GPU, or a model whose estimate is not finite.
    """
    mixture = torch.as_tensor(mixture, dtype=torch.float32)
    if mixture.ndim != 2 or 0 in mixture.shape:
        raise InputError(f"mixture must be (channels, samples), none of them 0, got {tuple(mixture.shape)}")
    if not mixture.isfinite().all():
        raise InputError("the mixture holds NaN or infinite samples; repair the recording first")
    config, samples = model.config, mixture.shape[1]
    if not 0 < window < math.inf:
        raise InputError(f"window must be above 0 s, got {window:g} s")
    if hop is not None and not whole and not 0 < hop <= window:
        raise InputError(f"hop must be above 0 and at most the window of {window:g} s, got {hop:g} s")
    wave = torch.from_numpy(audio.resample(mixture.numpy(), rate, config.sample_rate))
    if wave.shape[-1] == 0:  # less than half a sample at the model's rate
        wave = wave.new_zeros(len(wave), 1)
    wave = _fit_channels(wave, config.channels)  # (b, model channels, samples)
    size = wave.shape[-1] if whole else max(1, round(window * config.sample_rate))
    step = size if hop is None or whole else max(1, round(hop * config.sample_rate))
    try:
        estimate = _windowed(model, wave, size, step, batch_size, progress)
    except torch.OutOfMemoryError as error:  # a GPU's
        raise InputError(
            "the GPU's memory does not hold this; choose a shorter window, a smaller batch, or --device cpu"
        ) from error
    if not estimate.isfinite().all():
        raise InputError(
            "the model's estimate holds NaN or infinite samples: its weights are damaged, or its precision is too low "
            "for this recording; load other weights, or run in float32"
        )
    if estimate.shape[0] > 1:  # a mono model's channels
        estimate = estimate.squeeze(1)
    else:
        estimate = estimate[0].mean(0, keepdim=True) if mixture.shape[0] == 1 else estimate[0]
    estimate = torch.from_numpy(audio.resample(estimate.numpy(), config.sample_rate, rate))
    # Resampling there and back may end a sample early or late.
    return torch.nn.functional.pad(estimate, (0, max(0, samples - estimate.shape[-1])))[:, :samples]


def _fit_channels(wave: Tensor, wanted: int) -> Tensor:
    channels = wave.shape[0]
    if channels == wanted:
        return wave[None]
    if wanted == 1:
        return wave[:, None]
    if channels == 1:
        return wave.expand(wanted, -1)[None]
    raise InputError(f"the recording has {channels} channels; the model takes {wanted}, or mono")


@torch.inference_mode()
def _windowed(model: BSMamba2, wave: Tensor, size: int, step: int, batch_size: int, progress: bool | str) -> Tensor:
    """Run the model over windows of ``size`` every ``step`` samples; ``(b, c, samples)`` in and out."""
    device = next(model.parameters(), wave).device
    batch, channels, samples = wave.shape
    count = 1 + max(0, -(-(samples - size) // step))
    padded = torch.nn.functional.pad(wave, (0, (count - 1) * step + size - samples))
    total = torch.zeros_like(padded)
    # Without overlap every weight is 1; with it, a triangle, divided by the sum of what overlaps.
    weight = torch.ones(size) if step == size else torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1))
    weights = torch.zeros(padded.shape[-1])
    starts = range(0, count * step, step)
    per_pass = max(1, batch_size // batch)
    with _progress(model, -(-count // per_pass), progress):
        for first in range(0, count, per_pass):
            group = starts[first : first + per_pass]
            windows = torch.stack([padded[..., s : s + size] for s in group])  # (windows, b, c, size)
            estimate = model(windows.flatten(0, 1).to(device)).float().cpu().view(windows.shape)
            for start, part in zip(group, estimate, strict=True):
                total[..., start : start + size] += part * weight
                weights[start : start + size] += weight
    return (total / weights)[..., :samples]


@contextlib.contextmanager
def _progress(model: nn.Module, passes: int, shown: bool | str) -> Iterator[None]:
    """Show a bar over forward passes; a BSMamba2 moves it within a pass, any other network after each."""
    if not shown:
        yield
        return
    name = shown if isinstance(shown, str) else "separate"
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=passes, desc=name, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"))

        def count(*_: object) -> None:  # returns nothing: what a hook returns would replace the output
            bar.update()

        if isinstance(model, BSMamba2):
            stack.enter_context(fast.progress(bar.update))
        else:
            stack.callback(model.register_forward_hook(count).remove)
        yield


def find_songs(places: Sequence[Path]) -> list[Path]:
    """Return the songs among files and folders, each once: a file is one; a folder, all audio files right inside it.

    Hidden files in folders are passed over. So is ``<song>.vocals.wav`` or ``<song>.accompaniment.wav`` where that song
    is in the folder, too: :func:`separate_file` wrote it, by its name. Those are named in the log; a file that is
    named itself is a song, whatever its name.

    Raises:
        InputError: a folder without audio files.
    """
    songs: list[Path] = []
    for place in places:
        if not place.is_dir():
            songs.append(place)
            continue
        inside = [p for p in sorted(place.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file()]
        inside = [p for p in inside if not p.name.startswith(".")]
        written = {f"{p.stem}.{name}.wav" for p in inside for name in OUTPUTS}
        parts = [p for p in inside if p.name in written]
        if parts:
            log.warning("passed over, as parts of other songs here: %s", ", ".join(str(p) for p in parts))
        if not inside:
            raise InputError(f"{place}: is a folder without audio files; give a song, or a folder of songs")
        songs += [p for p in inside if p not in parts]
    return list(dict.fromkeys(songs))


def plan_outputs(
    songs: Sequence[Path], folder: Path | None, *, overwrite: bool = False, skip_existing: bool = False
) -> dict[Path, list[Path]]:
    """Return the files to write for each song: ``<song>.vocals.wav`` and ``<song>.accompaniment.wav``.

    Args:
        songs: each once.
        folder: where to write; beside each song where it is None.
        overwrite: replace files that are there already; never one of the songs.
        skip_existing: leave out the songs both of whose files are there already, and name their number in the log.

    Raises:
        InputError: a song that is not there or not audio, two songs that would be written to the same files, a file to
            write that is one of the songs or is there already, or a place that cannot be written: told before
            minutes of computing, not after.
    """
    targets: dict[Path, list[Path]] = {}
    taken: dict[Path, Path] = {}
    given = {song.resolve() for song in songs}
    done = 0
    for song in songs:
        audio.info(song)
        paths = [(folder or song.parent) / f"{song.stem}.{name}.wav" for name in OUTPUTS]
        if (other := taken.setdefault(paths[0], song)) != song:
            raise InputError(f"{other} and {song} would both be written to {paths[0]}; separate them one by one")
        if skip_existing and all(path.exists() and path.resolve() not in given for path in paths):
            done += 1
            continue
        for path in paths:
            if path.resolve() in given:
                raise InputError(
                    f"{path}: is one of the songs, and a part of {song} would be written there; leave one of the two "
                    "out, or name another folder with -o"
                )
            if path.exists() and not overwrite:
                raise InputError(
                    f"{path}: is there already, and a part of {song} would be written there; replace it with "
                    "--overwrite, leave finished songs out with --skip-existing, or name another folder with -o"
                )
        targets[song] = paths
    if done:
        log.warning("%d of %d song(s) are separated already and left out", done, len(songs))
    for paths in targets.values():
        for path in paths:
            check_writable(path)
    return targets


def separate_file(
    model: BSMamba2, song: Path, paths: Sequence[Path], *, subtype: str = "FLOAT", **options: Any
) -> float:
    """Separate a file and write both parts: the estimated vocals, and the mixture without them.

    Rate, channels and length are the song's. Where ``subtype`` cannot hold a peak above 1, both parts are turned down
    by one gain, so that they still sum to the song at that gain; a warning says which.

    Args:
        model: separates.
        song: audio file.
        paths: of vocals and accompaniment; their folder is made. Both are written, or neither.
        subtype: sample format, such as ``FLOAT``, ``PCM_16`` or ``PCM_24``.
        options: of :func:`separate`.

    Returns:
        The gain in dB, 0 or below.

    Raises:
        InputError: the song cannot be read or separated, or the parts cannot be written; it names the file.
    """
    mixture, rate = audio.read(song)
    try:
        vocals = separate(model, torch.from_numpy(mixture), rate, **options).numpy()
    except InputError as error:
        raise InputError(f"{song}: {error}") from error
    parts = [vocals, mixture - vocals]
    gain = 0.0
    if subtype.startswith("PCM"):
        peak = max(float(np.abs(part).max()) for part in parts)
        if peak > 1:
            gain = -math.ceil(2000 * math.log10(peak) + 1e-6) / 100  # dB, rounded so that what is said is what is done
            log.warning(
                "%s: peak %.2f would clip in %s; both parts are turned down by %.2f dB", song, peak, subtype, -gain
            )
            parts = [part * np.float32(10 ** (gain / 20)) for part in parts]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with replacing(paths[0]) as first, replacing(paths[1]) as second:  # both or neither, also of files that were there
        for path, temporary, part in zip(paths, (first, second), parts, strict=True):
            try:
                audio.write(temporary, part, rate, subtype=subtype)
            except InputError as error:
                raise InputError(str(error).replace(str(temporary), str(path))) from error
    return gain
