"""Sung voices for the probe: two singers who differ in timbre, and sing words in one range of pitch.

Singing costs more than a tone, so each split has some phrases that are sung once per process; an example takes a piece
of a phrase. The splits share neither words nor phrases.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from bsm import audio
from bsm.data.demo.voice import RATE as SUNG_RATE
from bsm.data.demo.voice import WORDS, SungNote, Voice, sing

SINGERS = (
    Voice("en-us+m3", pitch=45, formants=0.8, breath=0.0, vibrato=0.2, vibrato_rate=5.5, reach=0, pace=1.0),
    Voice("en-gb+f3", pitch=45, formants=1.3, breath=0.5, vibrato=0.2, vibrato_rate=5.5, reach=0, pace=1.0),
)
"""One singer per timbre. The songs' ranges, ``reach`` and ``pace``, have no effect here."""
PHRASES = (60, 6, 20)
"""Phrases of each singer in training, validation and test."""
SECONDS = 2.0  # of a phrase, at least
WORDS_EACH = 12  # of a split: analysing a word costs more than singing it


@cache
def phrases(split: int, timbre: int, rate: int, lowest: int, semitones: int) -> list[np.ndarray]:
    """Sing the phrases of a split.

    Args:
        split: number of training, validation or test.
        timbre: of :data:`SINGERS`.
        rate: samples per second.
        lowest: lowest note, MIDI.
        semitones: number of notes.

    Returns:
        Float64 ``(samples,)`` each, at least :data:`SECONDS` long.

    Raises:
        InputError: a package for demo songs is not installed.
    """
    rng = np.random.default_rng([split, timbre])
    words = WORDS[split * WORDS_EACH : (split + 1) * WORDS_EACH]
    sung = []
    for _ in range(PHRASES[split]):
        notes, end = [], 0.0
        while end < SECONDS:
            length = rng.uniform(0.2, 0.5)
            notes.append(SungNote(end, length, lowest + int(rng.integers(semitones)), str(rng.choice(words))))
            end += length
        sound = sing(notes, SINGERS[timbre], rng)[None]
        sung.append(audio.resample(sound, SUNG_RATE, rate)[0].astype(float))
    return sung
