"""Made-up sounds, archives, and results whose answers are known: scores that differ by so much, the file of a run."""

import io
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from bsm import audio
from bsm.study.records import mark, write_result


def noise(seed, samples=8000, channels=2):
    return np.random.default_rng(seed).uniform(-0.4, 0.4, (channels, samples)).astype(np.float32)


def write_sung_and_played(root, rate):
    """Write two songs of 3 s over noise, ``sung`` with a voice that pauses from 1 to 1.5 s, ``played`` with none."""
    time = np.arange(3 * rate) / rate
    voice = 0.3 * np.sin(2 * np.pi * (200 + 80 * time) * time) * ((time < 1) | (time > 1.5))
    for seed, name in enumerate(["sung", "played"]):
        rest = 0.1 * np.random.default_rng(seed).standard_normal((2, len(time)))
        audio.write(root / name / "vocals.wav", (name == "sung") * np.stack([voice, 0.8 * voice]), rate)
        audio.write(root / name / "other.wav", rest, rate)
    return root


def zipped(members):
    """The bytes of a zip file of a data set, as long as its members are: name -> content, below ``Set/``."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.mkdir("Set")
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


def scored(
    means, *, songs=6, seeds=range(3), field="separator", metrics=("usdr",), apart=1.0, luck=0.0, spread=0.0, noise=0.0,
    **fields,
):  # fmt: skip
    """Return a record per song, separator and seed: in every metric, what the separator reaches in dB, give or take.

    Args:
        means: by separator, one number for all ``seeds``, or one for each seed of its own.
        field: what names the separator in a record.
        apart: dB from each song to the next; their mean is 0, and paired differences do not see it.
        luck: dB from each seed to the next; paired differences do not see it, either.
        spread: dB from each song to the next in a separator's difference from the one before; their mean is 0.
        noise: standard deviation in dB of what is left, drawn anew for other ``means`` or ``fields``.
        fields: what else a record says.
    """
    rng, made = np.random.default_rng(zlib.crc32(repr((means, fields)).encode())), []
    for song in range(songs):
        place = song - (songs - 1) / 2
        for index, (name, mean) in enumerate(means.items()):
            for seed, own in (mean if isinstance(mean, Mapping) else dict.fromkeys(seeds, mean)).items():
                level = own + place * (apart + index * spread) + luck * (seed or 0)
                values = {metric: level + noise * rng.normal() for metric in metrics}
                made.append({"track": f"song {song}", field: name, "seed": seed} | fields | values)
    return made


def write_run(path, arm, values, seed=0, **parameters):
    """Write the result of an arm's run; return the file's path."""
    about = {"measured": "", "data": "", "inputs": [], "parameters": {"arm": arm} | parameters}
    return write_result(path, values=values, seed=seed, started=mark(), **about)
