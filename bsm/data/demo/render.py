"""Render one demo song: a General MIDI synthesiser plays the band, a synthetic voice sings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from bsm import audio
from bsm.data.demo import voice
from bsm.data.demo.score import Note, compose
from bsm.errors import InputError

RATE = voice.RATE
STEMS = ("vocals", "drums", "bass", "other")
SHORTEST_SONG = 2.0

_PAN = {3: 34, 4: 92}  # MIDI channel -> pan; 64, the middle, for other channels
_PEAK = 0.85  # of full scale


def render_song(seed: int, seconds: float, rate: int = 44100, channels: int = 2) -> dict[str, np.ndarray]:
    """Synthesise the song of a seed. The same package versions give the same samples, bit for bit.

    Args:
        seed: any non-negative number.
        seconds: length, at least 2.
        rate: samples per second; songs are rendered at 44.1 kHz and resampled.
        channels: 2, or 1 for the average of both.

    Returns:
        ``vocals``, ``drums``, ``bass``, ``other`` and ``mixture``, each int16 ``(channels, samples)``. The mixture is
        the exact sum of the four. No peak exceeds 0.85 of full scale.

    Raises:
        InputError: the seed is negative, the song is shorter than 2 s, or a package for demo songs is not installed.
    """
    if seed < 0 or seconds < SHORTEST_SONG:
        raise InputError(f"a demo song needs a seed >= 0 and at least {SHORTEST_SONG} s, not seed {seed}, {seconds} s")
    score = compose(seed, seconds)
    rng = np.random.default_rng([seed, 2])
    samples = round(seconds * RATE)
    band = {name: _play(notes, samples) for name, notes in score.parts.items()}
    band = {
        "drums": _at_level(_reverberate(band["drums"], 0.3, 0.05, rng), -24 + rng.normal(0, 2)),
        "bass": _at_level(band["bass"], -25 + rng.normal(0, 2)),
        "other": _at_level(_reverberate(band["other"], 1.2, 0.12, rng), -24 + rng.normal(0, 2)),
    }
    accompaniment = sum(band.values())
    # A lead instrument plays at -12 to -2 dB relative to the band, the voice at -6 to 4 dB.
    band["other"] += _sung(score.lead, score.lead_voice, accompaniment, (-12, -2), rng, wordless=True)
    stems = {"vocals": _sung(score.phrases, score.voice, accompaniment, (-6, 4), rng), **band}
    if channels == 1:
        stems = {name: stem.mean(0, keepdims=True) for name, stem in stems.items()}
    if rate != RATE:
        stems = {name: audio.resample(stem, RATE, rate) for name, stem in stems.items()}
    peak = max(np.abs(stem).max() for stem in (sum(stems.values()), *stems.values()))
    quantised = {name: np.round(stems[name] * (_PEAK / peak * 32767)).astype(np.int16) for name in STEMS}
    # Peaks are at most 0.85, so neither rounding nor the sum can exceed 16 bits.
    quantised["mixture"] = np.sum([quantised[name] for name in STEMS], axis=0, dtype=np.int16)
    return quantised


def _play(notes: list[Note], samples: int) -> np.ndarray:
    """Play a part with the sound font; float64 ``(2, samples)`` at 44.1 kHz."""
    synth = voice.optional("tinysoundfont").Synth(samplerate=RATE, gain=-8)
    font = synth.sfload(str(_sound_font()))
    for channel, program in sorted({(note.channel, note.program) for note in notes}):
        drums = channel == 0
        synth.program_select(channel, font, 128 if drums else 0, program, drums)
        synth.control_change(channel, 10, _PAN.get(channel, 64))
    # At equal times note-offs (0) go before note-ons (1): otherwise a repeated note would end as it begins.
    events = sorted(
        [(int(n.start * RATE), 1, n.channel, n.pitch, n.velocity) for n in notes]
        + [(int((n.start + n.duration) * RATE), 0, n.channel, n.pitch, 0) for n in notes]
    )
    blocks, position = [], 0
    for time, is_on, channel, pitch, velocity in events:
        if time >= samples:
            break
        if time > position:
            blocks.append(_generate(synth, time - position))
            position = time
        if is_on:
            synth.noteon(channel, pitch, velocity)
        else:
            synth.noteoff(channel, pitch)
    blocks.append(_generate(synth, samples - position))
    return np.concatenate(blocks).T.astype(np.float64)


def _generate(synth, samples: int) -> np.ndarray:
    # A copy, because the synthesiser may reuse its buffer.
    return np.frombuffer(bytes(synth.generate(samples)), np.float32).reshape(-1, 2)


def _sound_font() -> Path:
    """Find the sound font of pretty_midi, without importing that package: its requirements are not installed."""
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.origin).parent / "TimGM6mb.sf2" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError("demo songs need the sound font of the package pretty_midi; run `make env`")
    return path


def _sung(
    phrases: list[list[voice.SungNote]],
    singer: voice.Voice,
    band: np.ndarray,
    decibels: tuple[float, float],
    rng: np.random.Generator,
    *,
    wordless: bool = False,
) -> np.ndarray:
    """Sing phrases, then compress them and add reverberation; float64 ``(2, samples)``.

    ``decibels`` is the range of the singer's level relative to the band.
    """
    samples = band.shape[1]
    dry = np.zeros(samples)
    for phrase in phrases:
        sound, start = voice.sing(phrase, singer, rng, wordless=wordless), round(phrase[0].start * RATE)
        stop = min(start + len(sound), samples)
        dry[start:stop] += sound[: stop - start]
    window = round(0.05 * RATE)
    level = np.sqrt(fftconvolve(dry**2, np.ones(window) / window, "same").clip(0)) + 1e-6
    dry /= (level + 0.15 * level.max()) ** 0.4
    wet = _reverberate(np.stack([dry, dry]), rng.uniform(0.5, 1.0), rng.uniform(0.08, 0.2), rng)
    wet[0] *= rng.uniform(0.92, 1)
    sounding = level > 0.05 * level.max()
    balance = 10 ** (rng.uniform(*decibels) / 20)
    return wet * (balance * np.sqrt((band**2).mean() / (wet[:, sounding] ** 2).mean()))


def _reverberate(sound: np.ndarray, seconds: float, wet: float, rng: np.random.Generator) -> np.ndarray:
    """Add reverberation that falls by 60 dB in ``seconds``; ``wet`` is its level relative to the direct sound."""
    length = round(seconds * RATE)
    room = rng.normal(size=(len(sound), length)) * 10 ** (-3 * np.arange(length) / length)
    room /= np.sqrt((room**2).sum(axis=1, keepdims=True))
    return sound + wet * fftconvolve(sound, room, axes=1)[:, : sound.shape[1]]


def _at_level(sound: np.ndarray, decibels: float) -> np.ndarray:
    """Scale to an RMS in dB of full scale."""
    return sound * (10 ** (decibels / 20) / (np.sqrt((sound**2).mean()) + 1e-9))
