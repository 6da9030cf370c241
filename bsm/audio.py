"""Audio files and sample rates: the only place that reads or writes audio.

Audio in memory is float32 of shape ``(channels, samples)``, full scale at 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bsm.errors import InputError
from bsm.files import TEMPORARY

log = logging.getLogger(__name__)

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".aif": "AIFF", ".aiff": "AIFF", ".w64": "W64"}
_UNSTATED = 2**63 - 1  # libsndfile's number of samples where a file does not say


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says, or its samples do where the header lacks the length.

    Attributes:
        rate: samples per second.
        channels: number of channels.
        samples: samples per channel.
    """

    rate: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate


def info(path: str | os.PathLike) -> AudioInfo:
    """Read the header of an audio file; one that does not state its length is decoded to its end.

    Raises:
        InputError: no such file, a folder, not audio, without samples, or damaged where it had to be decoded.
    """
    with _open(path) as file:
        samples = file.frames if file.frames != _UNSTATED else len(_decode(file, path))
        return AudioInfo(file.samplerate, file.channels, samples)


def read(
    path: str | os.PathLike, *, rate: int | None = None, start: int = 0, stop: int | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file, or the part ``[start, stop)`` of it, without touching the rest.

    A file that does not state its length (a FLAC file that was piped, an MP3 without a Xing tag) is decoded as a whole.

    Args:
        path: a file of any format that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, ...).
        rate: resample to this rate, Hz; by default the file's own.
        start: first sample, counted at the file's own rate.
        stop: one past the last sample, at the file's own rate; by default, and at most, the end of the file.

    Returns:
        The audio, float32 ``(channels, samples)``, and its rate in Hz.

    Raises:
        InputError: no such file, a folder, not audio or damaged, without samples, with NaN or infinite samples, or a
            part that lies outside the file.
    """
    with _open(path) as file:
        whole = _decode(file, path) if file.frames == _UNSTATED else None
        samples = file.frames if whole is None else len(whole)
        stop = samples if stop is None else min(stop, samples)
        if not 0 <= start < stop:
            raise InputError(f"{path}: has samples 0 to {samples}, asked for {start} to {stop}; choose a part of it")
        source_rate = file.samplerate
        if whole is None:
            file.seek(start)
            audio = file.read(stop - start, dtype="float32", always_2d=True)
        else:
            audio = whole[start:stop]
    if len(audio) < stop - start:
        raise InputError(
            f"{path}: damaged audio file, ends after {start + len(audio)} of {stop} samples; fetch or make it again"
        )
    if not np.isfinite(audio).all():
        raise InputError(f"{path}: has NaN or infinite samples; export it again from its source")
    audio = np.ascontiguousarray(audio.T)
    if rate is None or rate == source_rate:
        return audio, source_rate
    return resample(audio, source_rate, rate), rate


def write(path: str | os.PathLike, audio: np.ndarray, rate: int, *, subtype: str = "FLOAT") -> None:
    """Write an audio file, whole or not at all: to a temporary file beside it, which then takes its place.

    Args:
        path: target; its suffix says the format (.wav, .flac, .ogg, .aif, .aiff, .w64).
        audio: ``(channels, samples)``, floating point or int16. int16 written as PCM_16 is kept bit for bit.
        rate: samples per second.
        subtype: libsndfile's name of the sample format, such as ``FLOAT``, ``PCM_16`` or ``PCM_24``.

    Raises:
        InputError: an unknown suffix, a subtype that the format cannot hold, audio that is not two-dimensional, has no
            samples, or has NaN or infinite ones, or a folder that is not there or cannot be written.
    """
    path = Path(path)
    file_format = _FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise InputError(f"{path}: unknown audio suffix {path.suffix!r}; use one of {', '.join(_FORMATS)}")
    if not soundfile.check_format(file_format, subtype):
        fits = ", ".join(soundfile.available_subtypes(file_format))
        raise InputError(f"{path}: {file_format} cannot hold {subtype} samples; choose one of {fits}")
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.size == 0:
        raise InputError(f"{path}: audio to write has shape {audio.shape}; give (channels, samples), at least one each")
    if not np.isfinite(audio).all():
        raise InputError(f"{path}: audio to write has NaN or infinite samples")
    if audio.dtype.kind == "f" and subtype.startswith("PCM") and np.abs(audio).max() > 1:
        log.warning("%s: peak %.2f is clipped to 1 by %s", path, np.abs(audio).max(), subtype)
    # No longer than most names, so that a name that is long but allowed can be written.
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}.tmp")
    try:
        soundfile.write(os.fsencode(temporary), audio.T, rate, subtype=subtype, format=file_format)
        temporary.replace(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(
            f"{path}: cannot be written ({_reason(error)}); check that its folder exists and has room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def resample(audio: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Change the sample rate (soxr, high quality).

    Args:
        audio: ``(channels, samples)``, any number of channels.
        source_rate: its rate, Hz.
        target_rate: the wanted rate, Hz.

    Returns:
        float32 ``(channels, round(samples * target_rate / source_rate))``.

    Raises:
        InputError: a rate that is not positive.
    """
    if source_rate <= 0 or target_rate <= 0:
        raise InputError(f"sample rates must be positive, not {source_rate} and {target_rate}")
    audio = np.asarray(audio, dtype=np.float32)
    if source_rate == target_rate:
        return audio.copy()
    length = round(audio.shape[1] * target_rate / source_rate)
    made = soxr.resample(audio.T, source_rate, target_rate, quality="HQ").T
    # soxr may return a sample more or less than the exact ratio.
    out = np.zeros((audio.shape[0], length), np.float32)
    kept = min(length, made.shape[1])
    out[:, :kept] = made[:, :kept]
    return out


class _Stream(soundfile.SoundFile):
    """A file to be read from start to end: without the seek after each read, which needs a stated length."""

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """Open for reading, turning every failure, also one while reading, into an InputError of one line.

    A file that does not state its length has :data:`_UNSTATED` frames: only :func:`_decode` reads it.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give an audio file")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    name = os.fsencode(path)  # bytes: soundfile would encode a name strictly, and names need not be UTF-8
    try:
        file = soundfile.SoundFile(name)
        if file.format == "MP3" and (frames := _untagged(path)):
            file.close()
            file = _Stream(_piped(frames))
        elif file.frames == _UNSTATED:
            file.close()
            file = _Stream(name)
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        # TypeError: a suffix such as .raw, which soundfile would only open with a format given.
        raise InputError(
            f"{path}: not an audio file, or a damaged one ({_reason(error)}); give WAV, FLAC, OGG or MP3"
        ) from error
    with file:
        if file.frames == 0:
            raise InputError(f"{path}: audio file without samples; give one with sound")
        try:
            yield file
        except soundfile.SoundFileError as error:
            raise InputError(f"{path}: damaged audio file ({_reason(error)}); fetch or make it again") from error


def _decode(file: soundfile.SoundFile, path: str | os.PathLike) -> np.ndarray:
    """Read a file of unstated length to its end, ``(samples, channels)``."""
    blocks = []
    while len(block := file.read(1 << 16, dtype="float32", always_2d=True)):
        blocks.append(block)
    if not blocks:
        raise InputError(f"{path}: audio file without samples; give one with sound")
    return np.concatenate(blocks)


def _untagged(path: Path) -> bytes | None:
    """Return an MPEG file from its first frame on; None where that frame's Xing tag states the number of frames.

    Without the tag, libsndfile takes the length from the first frame's bit rate and the file's size, and reads no more.
    """
    with path.open("rb") as file:
        begin = 0
        while (head := file.read(10)).startswith(b"ID3"):  # a pipe is not searched behind it
            begin += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(begin)
        file.seek(begin)
        head = file.read(1 << 16).lstrip(b"\0")
        tag = re.search(rb"(?:Xing|Info)(.{4})(.{4})", head[:200], re.DOTALL)
        if tag and tag[1][3] & 1 and any(tag[2]):
            return None
        if tag:  # without a count: made a frame of silence, since a pipe cannot be searched for what it names
            head = head[: tag.start()] + bytes(4) + head[tag.start() + 4 :]
        return head + file.read()


def _piped(content: bytes) -> int:
    """Return the end to read from of a pipe that a thread fills; whoever closes it ends the thread."""
    end, entry = os.pipe()

    def fill() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(entry, "wb") as pipe:
            pipe.write(content)

    threading.Thread(target=fill, daemon=True).start()
    return end


def _reason(error: Exception) -> str:
    """Return what went wrong, without the file's name, which the message gives already."""
    return str(getattr(error, "error_string", error))
