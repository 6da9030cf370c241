"""Read and write audio files, and change sample rates. No other module reads or writes audio.

Audio in memory is float32 of shape ``(channels, samples)``; full scale is 1. Reading raises an InputError if the file
is missing, is no audio file, is damaged or truncated, or has no samples.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bsm.errors import InputError
from bsm.files import replacing

log = logging.getLogger(__name__)

_READABLE = (
    "wave?|bwf|rf64|w64|flac|og[ga]|opus|mp[23]|aif[fc]?|caf|au|snd|voc|8?svx|nist|sph|ircam|sf|paf|pvf|avr|wve|sds"
)
_FOREIGN = (
    "m4[abv]|aac|mp4|mov|wm[av]|asf|mk[av]|webm|avi|flv|mpe?g|3gp|e?ac3|dts|ape|wv|tta|mpc|amr|r[am]|dsf|dff|alac"
)
READABLE = re.compile(rf"\.({_READABLE})$", re.IGNORECASE)
"""Suffixes of audio files that libsndfile reads. A file that the user names may have any suffix."""
FOREIGN = re.compile(rf"\.({_FOREIGN})$", re.IGNORECASE)
"""Suffixes of audio and video files that libsndfile does not read."""
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".aif": "AIFF", ".aiff": "AIFF", ".w64": "W64"}
_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 24, "FLOAT": 24, "DOUBLE": 24}  # as float32 holds them; others: 8
_LARGEST = 2**32 - 2**20  # bytes of samples that a 32-bit length can state, less room for the header
# First four bytes of a container -> offset of its first chunk; struct format of a chunk's name and length; bytes of
# that name and length which the length includes; alignment of chunks, in bytes.
_CHUNKS = {
    b"RIFF": (12, "<4sI", 0, 2),
    b"RIFX": (12, ">4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2),  # AIFF
    b"riff": (40, "<16sQ", 24, 8),  # W64
    b"caff": (8, ">4sQ", 0, 1),
}
_SAMPLES = {b"data": 0, b"SSND": 8, b"BODY": 0}  # chunks that hold samples -> bytes before the first sample
# The stated length: in libsndfile's log for RF64, AVR, MPC2K, MATLAB 5 and WVE; in the header of a NIST file.
_FRAMES = re.compile(r"(?:\bFrames +: |\bCols : |Data length |sample_count -i )(\d+)")


@dataclass(frozen=True)
class AudioInfo:
    """Rate, channels and length of an audio file."""

    rate: int  # samples per second
    channels: int
    samples: int  # per channel

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate


def info(path: str | os.PathLike) -> AudioInfo:
    """Read the header of an audio file. A file that does not state its length is decoded to its end."""
    with _open(path) as (file, decoded):
        return AudioInfo(file.samplerate, file.channels, file.frames if decoded is None else len(decoded))


def bits(path: str | os.PathLike) -> int:
    """Return the resolution of a file's samples as float32 holds them: 16 or 24 bits; 8 for any other format."""
    with _open(path) as (file, _):
        return _BITS.get(file.subtype, 8)


def read(path: str | os.PathLike, *, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
    """Read an audio file of any format that libsndfile reads, or only the samples ``[start, stop)`` of it.

    By default, and at most, ``stop`` is the file's end. The whole file is decoded if it does not state its length, as
    FLAC from a pipe and MP3 without a Xing tag.

    Returns:
        The audio, float32 ``(channels, samples)``, and its rate in Hz.

    Raises:
        InputError: the file cannot be read, has samples that are not finite, or does not hold the part.
    """
    with _open(path) as (file, decoded):
        samples = file.frames if decoded is None else len(decoded)
        stop = samples if stop is None else min(stop, samples)
        if not 0 <= start < stop:
            raise InputError(f"{path}: has samples 0 to {samples}, asked for {start} to {stop}; choose a part of it")
        rate = file.samplerate
        if decoded is None:
            if start:  # some formats cannot seek
                file.seek(start)
            audio = file.read(stop - start, dtype="float32", always_2d=True)
        else:
            audio = decoded[start:stop]
        if len(audio) < stop - start:
            raise _truncated(path, (start + len(audio)) / rate, samples / rate)
    if not np.isfinite(audio).all():
        raise InputError(f"{path}: has NaN or infinite samples; export it again from its source")
    return np.ascontiguousarray(audio.T), rate


def write(path: str | os.PathLike, audio: np.ndarray, rate: int, *, subtype: str = "FLOAT") -> None:
    """Write an audio file, whole or not at all. Makes missing folders.

    Args:
        path: target; its suffix selects the format (.wav, .flac, .ogg, .aif, .aiff, .w64). Above 4 GiB, a .wav file
            is written as RF64, the form of WAV with 64-bit lengths.
        audio: ``(channels, samples)``, floating point or int16. int16 written as PCM_16 is kept bit for bit.
        rate: samples per second.
        subtype: libsndfile's name of the sample format, such as ``FLOAT``, ``PCM_16`` or ``PCM_24``.

    Raises:
        InputError: the format is unknown, or cannot hold the subtype or so many samples; the audio has another shape,
            no samples, or NaN or infinite values; or the file cannot be written.
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
            with temporary.open("r+b") as written:  # a full disk shows before any file has its name
                os.fsync(written)


def _check_writing(path: Path, audio: np.ndarray, subtype: str) -> str:
    """Check what :func:`write` is given, and return libsndfile's name of the format that holds it."""
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
    width = {"PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}.get(subtype, 4)  # bytes
    if audio.size * width > _LARGEST and file_format == "AIFF":
        raise InputError(f"{path}: more than the 4 GiB that AIFF holds; choose .wav, .w64 or .flac")
    return "RF64" if audio.size * width > _LARGEST and file_format == "WAV" else file_format


def resample(audio: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Resample ``(channels, samples)`` with soxr at high quality. Rates are in Hz; one of 0 or less is an InputError.

    Returns:
        The audio, float32, with ``round(samples * target_rate / source_rate)`` samples.
    """
    if source_rate <= 0 or target_rate <= 0:
        raise InputError(f"sample rates must be positive, not {source_rate} and {target_rate}")
    audio = np.asarray(audio, dtype=np.float32)
    if source_rate == target_rate:
        return audio.copy()
    length = round(audio.shape[1] * target_rate / source_rate)
    made = soxr.resample(audio.T, source_rate, target_rate, quality="HQ").T[:, :length]
    # soxr may return a sample more or less than the exact ratio.
    return np.ascontiguousarray(np.pad(made, ((0, 0), (0, length - made.shape[1]))))


def convert(path: Path) -> str:
    """Tell the user how to convert a file whose format libsndfile does not read."""
    return f"convert it first, as with: ffmpeg -i '{path.name}' '{path.stem}.wav'"


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple[soundfile.SoundFile, np.ndarray | None]]:
    """Open a file for reading. Any failure, while opening or reading, becomes an InputError of one line.

    Yields the file; and all of its samples ``(samples, channels)`` if it does not state its length, otherwise None.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; give an audio file")
    if not stat.S_ISREG(mode):  # reading needs several passes
        raise InputError(f"{path}: a pipe or device cannot be read; save the sound to a file, and give that")
    try:
        # Bytes, because names need not be UTF-8 and soundfile would encode text strictly.
        file = soundfile.SoundFile(os.fsencode(path))
        # libsndfile reports 0 or 2**63 - 1 frames if a file does not state its length.
        unstated = file.frames in (0, 2**63 - 1) or (file.format == "MP3" and _untagged(path))
        excess = _stated_excess(path, file)
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        # TypeError: soundfile opens a suffix such as .raw only with a format given.
        fix = convert(path) if FOREIGN.search(path.name) else "give WAV, FLAC, OGG or MP3"
        raise InputError(f"{path}: not an audio file, or a damaged one ({_reason(error)}); {fix}") from error
    with file:
        decoded = _decode(path, file) if unstated else None
        if decoded is None and file.frames * (excess - 1) > 0.5:  # more than rounding
            seconds = file.frames / file.samplerate
            raise _truncated(path, seconds, seconds * excess)
        try:
            yield file, decoded
        except soundfile.SoundFileError as error:
            raise InputError(f"{path}: damaged audio file ({_reason(error)}); copy or make it again") from error


def _stated_excess(path: Path, opened: soundfile.SoundFile) -> float:
    """Return the ratio of the length that the header states to the length of the file; at least 1.

    libsndfile reads many truncated files as shorter ones, without an error. The ratio is 1 for whole files, for formats
    whose header is not read here, and for headers without a usable length.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head, begin, stated = file.read(1024), size, 0
        if head[:4] == b"OggS":  # the last page of a whole stream is marked as its end
            file.seek(max(0, size - (1 << 16)))
            tail = file.read()
            page = tail[tail.rfind(b"OggS") :]
            whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
            return 1.0 if whole and page[5] & 4 else math.inf
        if head[:4] == b".snd":
            begin, stated = struct.unpack(">II", head[4:12])
        elif head[:4] in _CHUNKS:
            first, layout, counted, alignment = _CHUNKS[head[:4]]
            file.seek(first)
            while len(chunk := file.read(struct.calcsize(layout))) == struct.calcsize(layout):
                name, length = struct.unpack(layout, chunk)
                length, at = max(0, length - counted), file.tell()
                if name[:4] in _SAMPLES:
                    begin, stated = at + _SAMPLES[name[:4]], length - _SAMPLES[name[:4]]
                    break
                if at + length > size:
                    break
                file.seek(at + length + -length % alignment)
        else:  # other containers: what libsndfile logged of the header
            noted = _FRAMES.findall(opened.extra_info + head.decode("latin-1"))
            if noted or "truncated" in opened.extra_info:
                return max(int(noted[-1]) if noted else math.inf, opened.frames) / opened.frames
    held = size - begin
    # Programs that write to a pipe state 0, or nearly the largest number of 31, 32, 63 or 64 bits.
    piped = (stated + 4096) % 2**31 < 8192
    return stated / held if 0 < held < stated and not piped else 1.0


def _truncated(path: str | os.PathLike, seconds: float, stated: float) -> InputError:
    of = f" of {stated:.6g}" if math.isfinite(stated) else ""
    return InputError(f"{path}: damaged audio file: ends after {seconds:.6g}{of} s; copy or make it again")


def _untagged(path: Path) -> bool:
    """Return whether an MPEG file lacks a Xing tag with the number of frames; libsndfile then guesses its length."""
    with path.open("rb") as file:
        begin = 0
        while (head := file.read(10)).startswith(b"ID3"):
            begin += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(begin)
        tag = re.search(rb"(?:Xing|Info)(.{4})(.{4})", file.read(1 << 12).lstrip(b"\0")[:200], re.DOTALL)
    return not (tag and tag[1][3] & 1 and any(tag[2]))


def _decode(path: Path, header: soundfile.SoundFile) -> np.ndarray:
    """Decode a file of no stated length with ffmpeg; float32 ``(samples, channels)``.

    Such files are MP3 without a Xing tag, FLAC from a pipe, and WAV whose header was never completed.
    """
    if shutil.which("ffmpeg") is None:
        raise InputError(f"{path}: has no samples, or does not state its length; install ffmpeg to decode it")
    strict = ["-xerror", "-err_detect", "explode"] if header.format == "FLAC" else []  # its frames have checksums
    shape = ["-ac", str(header.channels), "-ar", str(header.samplerate)]
    command = ["ffmpeg", "-nostdin", "-v", "error", *strict, "-i", f"file:{path}", "-map", "0:a:0", *shape]
    done = subprocess.run([*command, "-f", "f32le", "-"], capture_output=True)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{path}: damaged audio file ({why}); copy or make it again")
    if not done.stdout:
        raise InputError(f"{path}: audio file without samples; give one with sound")
    return np.frombuffer(done.stdout, np.float32).reshape(-1, header.channels)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error))  # of libsndfile: without the name of the file
