"""MUSDB18: for now the one excerpt that the package stempeg carries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from bsm import audio
from bsm.data.tracks import Track
from bsm.errors import InputError

_SONG = "The Easton Ellises - Falcon 69"
# Streams of a MUSDB18 stem file, in order; stream 0 is the mixture as AAC made it, which is not the sum of its stems.
_STREAMS = (("drums", 1), ("bass", 2), ("other", 3), ("vocals", 4))


def example_track(cache: Path) -> Track:
    """Return a real 6 s excerpt of a MUSDB18 test song, decoded once.

    The mixture is the sum of the stems: the file's own mixture stream was coded apart and differs from it (15.4 dB).

    Args:
        cache: folder that keeps the decoded files, as ``<cache>/falcon69/*.wav``, float.

    Returns:
        "The Easton Ellises - Falcon 69", 44.1 kHz stereo, split ``test``.

    Raises:
        InputError: ffmpeg or stempeg is missing, or the excerpt cannot be decoded.
    """
    folder = Path(cache) / "falcon69"
    if not folder.is_dir():
        _decode(folder)
    sources = {name: folder / f"{name}.wav" for name, _ in sorted(_STREAMS)}
    rate = audio.info(sources["vocals"]).rate
    return Track(_SONG, "test", rate, sources, folder / "mixture.wav")


def _decode(folder: Path) -> None:
    """Decode into a temporary folder beside ``folder``, which then takes its place."""
    missing = [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"decoding MUSDB18 needs {' and '.join(missing)} on PATH; run `apt-get install ffmpeg`")
    try:
        import stempeg  # late: it runs ffmpeg when imported
    except ImportError as error:
        raise InputError(f"the real excerpt needs the package stempeg ({error}); run `make env`") from error
    source = stempeg.example_stem_path()
    try:
        stems, rate = stempeg.read_stems(source, dtype=np.float32)  # (streams, samples, channels)
    except Exception as error:  # ffmpeg's failures come as several types
        raise InputError(f"{source}: cannot be decoded ({error}); install stempeg and ffmpeg anew") from error
    sounds = {name: np.ascontiguousarray(stems[stream].T, dtype=np.float32) for name, stream in _STREAMS}
    sounds["mixture"] = np.sum(list(sounds.values()), axis=0, dtype=np.float32)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, sound in sounds.items():
            audio.write(temporary / f"{name}.wav", sound, int(rate))
        temporary.replace(folder)
    except OSError:
        # Another process may have been first: its files are the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
