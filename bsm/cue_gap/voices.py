"""The probe's voices: tones or singing in two timbres, with notes from one range of pitch.

Singing takes longer than a tone. So each split has a few phrases that are sung once per process, and an example takes a
piece of a phrase. The splits share neither words nor phrases.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from bsm import audio
from bsm.data.demo.voice import RATE as SUNG_RATE
from bsm.data.demo.voice import WORDS, SungNote, Voice, sing

VOICES = ("tones", "sung")
"""Kinds of voices: :func:`tone` and :func:`sung`."""
RATE = 8000  # Hz
LOWEST, SEMITONES = 110.0, 25  # pitch of the lowest note in Hz, and number of notes
LEVEL = 0.1  # RMS of a voice
TIMBRES = (((600, 120), (1100, 200)), ((1700, 250), (2600, 300)))
"""Formants of the tones of each timbre: centre and width in Hz."""
SINGERS = (
    Voice("en-us+m3", pitch=45, formants=0.8, breath=0.0, vibrato=0.2, vibrato_rate=5.5, reach=0, pace=1.0),
    Voice("en-gb+f3", pitch=45, formants=1.3, breath=0.5, vibrato=0.2, vibrato_rate=5.5, reach=0, pace=1.0),
)
"""The singer of each timbre. ``reach`` and ``pace`` serve songs, and have no effect here."""
PHRASES = (60, 6, 20)  # phrases of each singer in training, validation and test
SECONDS = 2.0  # shortest phrase
WORDS_EACH = 12  # words of a split; few, because analysing a word takes longer than singing it


def tone(rng: np.random.Generator, samples: int, timbre: int) -> np.ndarray:
    """Return random notes with vibrato, ``(samples,)`` float64: harmonics weighted by a timbre's formants.

    Notes last 0.15 to 0.5 s. A fifth of them are rests, but never the first, so that no voice is silent throughout.
    """
    sound = np.zeros(samples)
    start = 0
    while start < samples:
        length = min(int(RATE * rng.uniform(0.15, 0.5)), samples - start)
        rest = start > 0 and rng.random() < 0.2
        pitch = LOWEST * 2 ** (rng.integers(SEMITONES) / 12)  # Hz
        vibrato, phases = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi, 40)
        if not rest:
            sound[start : start + length] = _note(pitch, vibrato, phases, length, timbre)
        start += length
    return LEVEL * sound / np.sqrt(np.square(sound).mean())


def _note(pitch: float, vibrato: float, phases: np.ndarray, length: int, timbre: int) -> np.ndarray:
    time = np.arange(length) / RATE
    turn = 2 * np.pi * np.cumsum(pitch * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time + vibrato))) / RATE
    harmonics = np.arange(1, int(0.45 * RATE / pitch) + 1)
    formants = (np.exp(-0.5 * ((harmonics * pitch - centre) / width) ** 2) for centre, width in TIMBRES[timbre])
    weights = (0.03 + sum(formants)) * np.exp(1j * phases[: len(harmonics)])
    step = np.exp(1j * turn)
    sound, power = np.zeros(length), step.copy()
    for weight in weights:  # powers of one phasor: several times faster than a sine for each harmonic
        sound += (weight * power).imag
        power *= step
    edge = np.minimum(np.arange(length), np.arange(length)[::-1])  # samples to the nearer end of the note
    return sound * np.minimum(1, edge / (0.02 * RATE))


def sung(rng: np.random.Generator, samples: int, timbre: int, split: int) -> np.ndarray:
    """Return a random piece of a random phrase of a singer, ``(samples,)`` float64.

    Raises:
        ValueError: the phrase is shorter than ``samples``.
        InputError: a package for demo songs is not installed.
    """
    own = phrases(split, timbre)
    phrase = own[rng.integers(len(own))]
    if len(phrase) < samples:
        raise ValueError(f"a sung phrase has {len(phrase)} samples, {samples} are wanted; shorten cue and play")
    start = rng.integers(len(phrase) - samples + 1)
    sound = phrase[start : start + samples]
    return LEVEL * sound / np.sqrt(np.square(sound).mean())


@cache
def phrases(split: int, timbre: int) -> list[np.ndarray]:
    """Sing the phrases of a split (0 training, 1 validation, 2 test) by the singer of a timbre.

    Returns:
        Float64 ``(samples,)`` each, at least :data:`SECONDS` long.

    Raises:
        InputError: a package for demo songs is not installed.
    """
    rng = np.random.default_rng([split, timbre])
    words = WORDS[split * WORDS_EACH : (split + 1) * WORDS_EACH]
    lowest = round(69 + 12 * np.log2(LOWEST / 440))  # MIDI
    sung = []
    for _ in range(PHRASES[split]):
        notes, end = [], 0.0
        while end < SECONDS:
            length = rng.uniform(0.2, 0.5)
            notes.append(SungNote(end, length, lowest + int(rng.integers(SEMITONES)), str(rng.choice(words))))
            end += length
        sound = sing(notes, SINGERS[timbre], rng)[None]
        sung.append(audio.resample(sound, SUNG_RATE, RATE)[0].astype(float))
    return sung
