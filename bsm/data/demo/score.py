"""Compose the score of a demo song from a seed: tempo, key, the band's parts and the sung phrases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bsm.data.demo.voice import VOICES, WORDS, SungNote, Voice

# Range of phrases and of the gaps between them, s; roughly log-uniform.
SHORTEST, LONGEST = 0.4, 9.0
# Range of the sung share of a song. The fractional parts of multiples of the golden ratio fill a range evenly, so even
# a few songs with neighbouring seeds include sparse and dense vocals.
LEAST_SUNG, MOST_SUNG = 0.15, 0.75
_GOLDEN = (1 + 5**0.5) / 2
# The voice's reverberation fills the start of a gap, so a shorter rest would not be heard.
_SHORTEST_GAP = 0.6
_CHANNELS = {"drums": 0, "bass": 1, "pad": 2, "guitar": 3, "keys": 4}
# General MIDI drum keys.
_KICK, _SNARE, _CRASH = 36, 38, 49


@dataclass(frozen=True)
class Note:
    """One note of an instrument; times in seconds, all else as in General MIDI."""

    start: float
    duration: float
    pitch: int
    velocity: int
    program: int
    channel: int


@dataclass(frozen=True)
class Score:
    """The score of a song.

    Attributes:
        seconds: length.
        parts: notes of ``drums``, ``bass`` and ``other``.
        phrases: sung phrases in order of time, with rests between them.
        voice: the singer.
    """

    seconds: float
    parts: dict[str, list[Note]]
    phrases: list[list[SungNote]]
    voice: Voice


@dataclass(frozen=True)
class _Harmony:
    """Key, scale and a progression of four chords, one per bar."""

    key: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]

    def pitch(self, degree: int, base: int) -> int:
        """Return the MIDI note of a scale degree (0 is the tonic; may be negative) above ``base``."""
        return base + self.key + 12 * (degree // 7) + self.scale[degree % 7]


def compose(seed: int, seconds: float) -> Score:
    """Compose the song of a seed.

    Args:
        seed: any non-negative number. Equal seeds and lengths give equal scores.
        seconds: length of the song.
    """
    rng = np.random.default_rng([seed, 0])
    beat = 60 / int(rng.integers(76, 132))
    scale = (0, 2, 3, 5, 7, 8, 10) if rng.random() < 0.5 else (0, 2, 4, 5, 7, 9, 11)
    progressions = ((0, 5, 2, 6), (0, 3, 4, 0), (0, 4, 5, 3), (0, 6, 5, 4), (0, 5, 3, 4))
    harmony = _Harmony(int(rng.integers(12)), scale, progressions[rng.integers(len(progressions))])
    bars = int(np.ceil(seconds / (4 * beat))) + 1
    parts = {
        "drums": _drums(bars, beat, rng),
        "bass": _bass(bars, beat, harmony, rng),
        "other": _chords(bars, beat, harmony, rng),
    }
    # The melody has its own random stream, so a change to the band does not change it.
    rng = np.random.default_rng([seed, 1])
    voice = VOICES[rng.integers(len(VOICES))]
    sung = LEAST_SUNG + (MOST_SUNG - LEAST_SUNG) * (seed * _GOLDEN % 1)
    spans = phrase_spans(rng, seconds, beat / 2, sung)
    phrases = [_phrase(start, stop, beat, harmony, voice, rng) for start, stop in spans]
    return Score(seconds, parts, phrases, voice)


def phrase_spans(rng: np.random.Generator, seconds: float, unit: float, share: float) -> list[tuple[float, float]]:
    """Draw the times at which the voice sings: phrases and gaps of many lengths.

    Lengths are log-uniform from 0.4 s to 9 s, or to half the song. They are stratified: one phrase comes from each of
    as many equally likely classes as there are phrases, so every song has short and long ones. The lengths are then
    scaled to their shares of the song and rounded to the beat grid.

    Args:
        rng: draws everything.
        seconds: length of the song.
        unit: the grid's step, s.
        share: sung part of the song; rounding and the song's end change it a little.

    Returns:
        ``(start, stop)`` of each phrase in seconds, in order, on the grid. The song's end may cut the last.
    """
    longest = max(2 * SHORTEST, min(LONGEST, seconds / 2))
    mean = (longest - SHORTEST) / np.log(longest / SHORTEST)
    pairs = max(1, round(seconds / (2 * mean)))
    durations = [_lengths(rng, pairs, longest, part * seconds) for part in (share, 1 - share)]
    steps = [
        np.maximum(np.round(lengths / unit), np.ceil(least / unit))
        for lengths, least in zip(durations, (SHORTEST, _SHORTEST_GAP), strict=True)
    ]
    sings = bool(rng.random() < 0.3)
    spans, position = [], 0.0
    for phrase, gap in zip(*steps, strict=True):
        start = position if sings else position + gap * unit
        position += (phrase + gap) * unit
        stop = min(start + phrase * unit, seconds)
        if stop - start >= SHORTEST:
            spans.append((float(start), float(stop)))
    return spans


def _lengths(rng: np.random.Generator, count: int, longest: float, total: float) -> np.ndarray:
    quantiles = (np.arange(count) + rng.random(count)) / count
    lengths = SHORTEST * (longest / SHORTEST) ** quantiles
    return rng.permutation(lengths * (total / lengths.sum()))


def _phrase(
    start: float, stop: float, beat: float, harmony: _Harmony, voice: Voice, rng: np.random.Generator
) -> list[SungNote]:
    """Fill a phrase with notes of half a beat to two beats, in steps and leaps around the chords."""
    base = voice.pitch + 12 - (12 if harmony.key > 6 else 0)
    degree, position, notes = int(rng.integers(0, 5)), start, []
    while stop - position > 0.02:
        length = float(rng.choice([0.5, 1, 1, 1.5, 2])) * beat
        # A rest too short for a word is added to this note.
        if stop - position - length < SHORTEST / 2:
            length = stop - position
        if rng.random() < 0.7:
            degree = int(np.clip(degree + rng.choice([-2, -1, -1, 0, 1, 1, 2]), -1, 8))
        else:
            degree = harmony.chords[int(position / (4 * beat)) % 4] + int(rng.choice([0, 2, 4]))
        pitch = harmony.pitch(min(degree, 8), base)
        notes.append(SungNote(position, 0.97 * length, pitch, str(rng.choice(WORDS))))
        position += length
    return notes


def _humanised(time: float, rng: np.random.Generator) -> float:
    return max(0.0, time + rng.normal(0, 0.004))


def _drums(bars: int, beat: float, rng: np.random.Generator) -> list[Note]:
    kicks = ((0, 2), (0, 1.5, 2), (0, 2.5), (0, 1, 2, 3))[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])]
    cymbal = int(rng.choice([42, 46, 51], p=[0.7, 0.1, 0.2]))
    per_bar = int(rng.choice([8, 16]))
    notes: list[Note] = []

    def hit(time: float, key: int, softest: int, loudest: int) -> None:
        notes.append(Note(_humanised(time, rng), 0.1, key, int(rng.integers(softest, loudest)), 0, _CHANNELS["drums"]))

    for bar in range(bars):
        start = 4 * beat * bar
        for i in range(per_bar):
            hit(start + 4 * beat * i / per_bar, cymbal, 45, 85)
        for at in kicks:
            hit(start + at * beat, _KICK, 95, 120)
        for at in (1, 3):
            hit(start + at * beat, _SNARE, 90, 118)
        if bar % 4 == 0:
            hit(start, _CRASH, 90, 100)
        if bar % 4 == 3:  # a fill leads to the next four bars
            for at in np.arange(3, 4, 0.25):
                hit(start + at * beat, int(rng.choice([41, 45, 48, _SNARE])), 80, 110)
    return notes


def _bass(bars: int, beat: float, harmony: _Harmony, rng: np.random.Generator) -> list[Note]:
    program = int(rng.choice([32, 33, 34, 36, 38]))
    notes = []
    for bar in range(bars):
        root = harmony.pitch(harmony.chords[bar % 4], 28)
        for at in np.arange(0, 4, rng.choice([0.5, 1])):
            start = _humanised((4 * bar + at) * beat, rng)
            pitch, velocity = root + int(rng.choice([0, 0, 0, 12, 7])), int(rng.integers(85, 110))
            notes.append(Note(start, 0.45 * beat, pitch, velocity, program, _CHANNELS["bass"]))
    return notes


def _chords(bars: int, beat: float, harmony: _Harmony, rng: np.random.Generator) -> list[Note]:
    """Compose ``other``: a pad, a picked guitar, and keys on off-beats."""
    pad = int(rng.choice([48, 50, 89, 16, 19]))
    guitar = int(rng.choice([24, 25, 27, 28, 29]))
    keys = int(rng.choice([0, 4, 5, 11, 88]))
    notes = []
    for bar in range(bars):
        start, root = 4 * beat * bar, harmony.chords[bar % 4]
        triad = [harmony.pitch(root + third, 48) for third in (0, 2, 4)]
        chord = [*triad, harmony.pitch(root, 60)]
        for pitch in chord:
            notes.append(Note(start, 3.92 * beat, pitch, int(rng.integers(50, 70)), pad, _CHANNELS["pad"]))
        for at in np.arange(0, 4, 0.5):
            if rng.random() < 0.8:
                pitch, velocity = int(rng.choice(chord)) + 12, int(rng.integers(60, 95))
                time = _humanised(start + at * beat, rng)
                notes.append(Note(time, 0.4 * beat, pitch, velocity, guitar, _CHANNELS["guitar"]))
        for at in (0, 1.5, 2.5):
            if rng.random() < 0.7:
                time = _humanised(start + at * beat, rng)
                for pitch in triad:
                    velocity = int(rng.integers(55, 85))
                    notes.append(Note(time, 0.7 * beat, pitch + 12, velocity, keys, _CHANNELS["keys"]))
    return notes
