"""Read and write audio files, and change sample rates. No other module reads or writes audio.

Audio in memory is float32 of shape ``(channels, samples)``; full scale is 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bsm.errors import InputError
from bsm.files import replacing

log = logging.getLogger(__name__)

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".aif": "AIFF", ".aiff": "AIFF", ".w64": "W64"}
_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 24, "FLOAT": 24, "DOUBLE": 24}  # as float32 holds them; others: 8
# Containers by their first four bytes: where the first chunk begins, the layout of a chunk's name and length, how many
# bytes of these the length counts, and the alignment of chunks.
_CHUNKS = {
    b"RIFF": (12, "<4sI", 0, 2),
    b"RF64": (12, "<4sI", 0, 2),
    b"RIFX": (12, ">4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2),  # AIFF
    b"riff": (40, "<16sQ", 24, 8),  # W64
    b"caff": (8, ">4sQ", 0, 1),
}
_SAMPLES = {b"data": 0, b"SSND": 8}  # chunks of samples, and the bytes before the first sample
_PIPED = 0x7FFFF000  # Programs that write to a pipe state a length of 32 bits from here on, or 0.
_UNSTATED = 2**63 - 1  # frames that libsndfile reports where a file does not state its length


@dataclass(frozen=True)
class AudioInfo:
    """Rate, channels and length of an audio file.

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
    """Read the header of an audio file. A file that does not state its length is decoded to its end.

    Raises:
        InputError: the file is missing, a folder, not audio, truncated, or has no samples; or its length is not stated
            and decoding it fails.
    """
    with _open(path) as file:
        samples = file.frames if file.frames != _UNSTATED else len(_decode(file, path))
        return AudioInfo(file.samplerate, file.channels, samples)


def bits(path: str | os.PathLike) -> int:
    """Return the resolution of a file's samples as float32 holds them: 16 or 24 bits; 8 for any other sample format.

    Raises:
        InputError: the file is missing, a folder, not audio, truncated, or has no samples.
    """
    with _open(path) as file:
        return _BITS.get(file.subtype, 8)


def read(
    path: str | os.PathLike, *, rate: int | None = None, start: int = 0, stop: int | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file, or only the part ``[start, stop)`` of it.

    Decodes the whole file if it does not state its length, as a piped FLAC file or an MP3 file without a Xing tag.

    Args:
        path: a file of any format that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, ...).
        rate: resample to this rate, Hz; default: the file's own.
        start: first sample, at the file's own rate.
        stop: one past the last sample, at the file's own rate; default and limit: the end of the file.

    Returns:
        The audio, float32 ``(channels, samples)``, and its rate in Hz.

    Raises:
        InputError: the file is missing, a folder, not audio, damaged or truncated; it has no samples, or NaN or
            infinite ones; or the part lies outside the file.
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
            raise _truncated(path, (start + len(audio)) / source_rate, samples / source_rate)
    if not np.isfinite(audio).all():
        raise InputError(f"{path}: has NaN or infinite samples; export it again from its source")
    audio = np.ascontiguousarray(audio.T)
    if rate is None or rate == source_rate:
        return audio, source_rate
    return resample(audio, source_rate, rate), rate


def write(path: str | os.PathLike, audio: np.ndarray, rate: int, *, subtype: str = "FLOAT") -> None:
    """Write an audio file, whole or not at all. Makes missing folders.

    Args:
        path: target; its suffix selects the format (.wav, .flac, .ogg, .aif, .aiff, .w64).
        audio: ``(channels, samples)``, floating point or int16. int16 written as PCM_16 is kept bit for bit.
        rate: samples per second.
        subtype: libsndfile's name of the sample format, such as ``FLOAT``, ``PCM_16`` or ``PCM_24``.

    Raises:
        InputError: the suffix is unknown, the format cannot hold the subtype, the audio is not two-dimensional or has
            no samples, or NaN or infinite ones; or the file cannot be written.
    """
    write_all({Path(path): audio}, rate, subtype=subtype)


def write_all(parts: Mapping[Path, np.ndarray], rate: int, *, subtype: str = "FLOAT") -> None:
    """Write several audio files, all of them or none; see :func:`write`."""
    formats = [_check_writing(path, np.asarray(audio), subtype) for path, audio in parts.items()]
    with contextlib.ExitStack() as files:
        for (path, audio), file_format in zip(parts.items(), formats, strict=True):
            temporary = files.enter_context(replacing(path))
            try:
                soundfile.write(os.fsencode(temporary), np.asarray(audio).T, rate, subtype=subtype, format=file_format)
            except soundfile.SoundFileError as error:
                raise OSError(None, _reason(error)) from error


def _check_writing(path: Path, audio: np.ndarray, subtype: str) -> str:
    """Check what :func:`write` is given, and return libsndfile's name of the format."""
    file_format = _FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise InputError(f"{path}: unknown audio suffix {path.suffix!r}; use one of {', '.join(_FORMATS)}")
    if not soundfile.check_format(file_format, subtype):
        fits = ", ".join(soundfile.available_subtypes(file_format))
        raise InputError(f"{path}: {file_format} cannot hold {subtype} samples; choose one of {fits}")
    if audio.ndim != 2 or audio.size == 0:
        raise InputError(f"{path}: audio to write has shape {audio.shape}; give (channels, samples), at least one each")
    if not np.isfinite(audio).all():
        raise InputError(f"{path}: audio to write has NaN or infinite samples; check how it was computed")
    if audio.dtype.kind == "f" and subtype.startswith("PCM") and np.abs(audio).max() > 1:
        log.warning("%s: peak %.2f is clipped to 1 by %s", path, np.abs(audio).max(), subtype)
    return file_format


def resample(audio: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Change the sample rate (soxr, high quality).

    Args:
        audio: ``(channels, samples)``, any number of channels.
        source_rate: its rate, Hz.
        target_rate: the new rate, Hz.

    Returns:
        float32 ``(channels, round(samples * target_rate / source_rate))``.

    Raises:
        InputError: a rate is not positive.
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


# ---- opening


class _Stream(soundfile.SoundFile):
    """A file to be read from start to end. soundfile seeks after each read otherwise, which needs a stated length."""

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """Open a file for reading. Any failure, while opening or reading, becomes an InputError of one line.

    A file that does not state its length has :data:`_UNSTATED` frames; only :func:`_decode` can read it.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give an audio file")
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    name = os.fsencode(path)  # bytes, because names need not be UTF-8 and soundfile would encode text strictly
    try:
        file = soundfile.SoundFile(name)
        if file.format == "MP3" and (frames := _untagged(path)):
            file.close()
            file = _Stream(_piped(frames))
        elif file.frames == _UNSTATED:
            file.close()
            file = _Stream(name)
        excess = _stated_excess(path) if path.is_file() else 1.0  # a named pipe cannot be opened twice
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        # TypeError: soundfile opens a suffix such as .raw only with a format given.
        raise InputError(
            f"{path}: not an audio file, or a damaged one ({_reason(error)}); give WAV, FLAC, OGG or MP3"
        ) from error
    with file:
        if file.frames == 0:
            raise InputError(f"{path}: audio file without samples; give one with sound")
        if file.frames * (excess - 1) > 0.5:  # more than rounding
            seconds = file.frames / file.samplerate
            raise _truncated(path, seconds, seconds * excess)
        try:
            yield file
        except soundfile.SoundFileError as error:
            raise InputError(f"{path}: damaged audio file ({_reason(error)}); copy or make it again") from error


def _stated_excess(path: Path) -> float:
    """Return the bytes of samples that the header states, as a multiple of those that the file holds; at least 1.

    libsndfile reads a truncated file of these containers as a shorter one, without an error. The value is 1 for whole
    files, for other formats, and for headers without a usable length.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        begin, stated, limit = size, 0, _PIPED
        if head[:4] == b".snd":
            begin, stated = struct.unpack(">II", head[4:])
        elif head[:4] in _CHUNKS:
            first, layout, counted, alignment = _CHUNKS[head[:4]]
            file.seek(first)
            long = None
            while len(chunk := file.read(struct.calcsize(layout))) == struct.calcsize(layout):
                name, length = struct.unpack(layout, chunk)
                length, at = max(0, length - counted), file.tell()
                if name == b"ds64":  # RF64: the length of the data chunk, which has no room for it
                    long = int.from_bytes(file.read(16)[8:], "little")
                elif name[:4] in _SAMPLES:
                    begin = at + _SAMPLES[name[:4]]
                    stated = (length if long is None else long) - _SAMPLES[name[:4]]
                    limit = _PIPED if long is None and layout.endswith("I") else 2**62
                    break
                if at + length > size:
                    break
                file.seek(at + length + -length % alignment)
    held = size - begin
    return stated / held if 0 < held < stated < limit else 1.0


def _truncated(path: str | os.PathLike, there: float, stated: float) -> InputError:
    return InputError(f"{path}: damaged audio file: ends after {there:.6g} of {stated:.6g} s; copy or make it again")


def _decode(file: soundfile.SoundFile, path: str | os.PathLike) -> np.ndarray:
    """Read a file that does not state its length to its end, ``(samples, channels)``."""
    blocks = []
    while len(block := file.read(1 << 16, dtype="float32", always_2d=True)):
        blocks.append(block)
    if not blocks:
        raise InputError(f"{path}: audio file without samples; give one with sound")
    return np.concatenate(blocks)


def _untagged(path: Path) -> bytes | None:
    """Return an MPEG file from its first frame on; None if a Xing tag in that frame states the number of frames.

    Without the tag, libsndfile guesses the length from the first frame's bit rate and the file's size, and stops there.
    """
    with path.open("rb") as file:
        begin = 0
        while (head := file.read(10)).startswith(b"ID3"):  # libsndfile does not skip ID3 tags in a pipe
            begin += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(begin)
        file.seek(begin)
        head = file.read(1 << 16).lstrip(b"\0")
        tag = re.search(rb"(?:Xing|Info)(.{4})(.{4})", head[:200], re.DOTALL)
        if tag and tag[1][3] & 1 and any(tag[2]):
            return None
        if tag:  # It lacks the count. Blank its name: the frame becomes silence, and the decoder seeks nothing.
            head = head[: tag.start()] + bytes(4) + head[tag.start() + 4 :]
        return head + file.read()


def _piped(content: bytes) -> int:
    """Return the reading end of a pipe that a thread fills. The thread ends when the reader closes the pipe."""
    end, entry = os.pipe()

    def fill() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(entry, "wb") as pipe:
            pipe.write(content)

    threading.Thread(target=fill, daemon=True).start()
    return end


def _reason(error: Exception) -> str:
    """Return what went wrong, without the file's name, because the message starts with it."""
    return str(getattr(error, "error_string", error))
