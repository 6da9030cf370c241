"""Compose the score of a demo song from a seed: tempo, key, the band's parts and the sung phrases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bsm.data.demo.voice import WORDS, SungNote, Voice

PHRASES, GAPS = (0.4, 9.0), (0.5, 20.0)
"""Shortest and longest sung phrase, and gap between phrases, s; drawn independently."""
SUNG = (0.05, 0.9)
"""Least and greatest sung share of a song. Phrases and gaps decide it; a song outside this range is composed again."""
SPLITS = 3
WORDS_PER_SONG = 16
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
    """The score of a song."""

    parts: dict[str, list[Note]]  # of drums, bass and other
    phrases: list[list[SungNote]]  # the target: sung phrases in order of time, with rests between them
    voice: Voice
    # A lead instrument, made with the same vocoder as the voice. Only the singer has words and is the target; the lead
    # instrument has none and belongs to the accompaniment.
    lead: list[list[SungNote]]
    lead_voice: Voice


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
    """Compose the song of a seed, any non-negative number.

    Seeds 1000 to 1999, 2000 to 2999 and 3000 to 3999 share neither words nor instruments with each other.
    """
    split = seed // 1000 % SPLITS
    rng = np.random.default_rng([seed, 0])
    beat = 60 / int(rng.integers(76, 132))
    scale = (0, 2, 3, 5, 7, 8, 10) if rng.random() < 0.5 else (0, 2, 4, 5, 7, 9, 11)
    progressions = ((0, 5, 2, 6), (0, 3, 4, 0), (0, 4, 5, 3), (0, 6, 5, 4), (0, 5, 3, 4))
    harmony = _Harmony(int(rng.integers(12)), scale, progressions[rng.integers(len(progressions))])
    bars = int(np.ceil(seconds / (4 * beat))) + 1
    parts = {
        "drums": _drums(bars, beat, rng),
        "bass": _bass(bars, beat, harmony, split, rng),
        "other": _chords(bars, beat, harmony, split, rng),
    }
    # Each melody has a random stream of its own, so a change to one melody changes neither the other nor the band.
    melodies = []
    for stream in (1, 3):  # rendering uses stream 2
        rng = np.random.default_rng([seed, stream])
        voice = Voice.draw(rng)
        words = rng.choice(WORDS[split::SPLITS], WORDS_PER_SONG, replace=False)
        spans = phrase_spans(rng, seconds, beat / 2)
        melodies.append(([_phrase(*span, beat, harmony, voice, words, rng) for span in spans], voice))
    (phrases, voice), (lead, lead_voice) = melodies
    return Score(parts, phrases, voice, lead, lead_voice)


def phrase_spans(rng: np.random.Generator, seconds: float, unit: float) -> list[tuple[float, float]]:
    """Draw the times at which a voice sings: phrases and gaps in turn, of lengths in :data:`PHRASES` and :data:`GAPS`.

    Each song draws a typical phrase length and a typical gap length, log-uniform in these ranges. The logarithm of each
    length is the weighted mean of the typical length's logarithm, weight 1/3, and of another log-uniform draw, weight
    2/3. So songs differ in their sung share. Phrases and gaps last at most half the song; unless the song's end cuts
    them, they are multiples of ``unit`` seconds.

    Returns:
        ``(start, stop)`` of each phrase in seconds, in order. The song's end may cut the last phrase.
    """

    def anything(least: float, most: float) -> float:
        return float(np.exp(rng.uniform(np.log(least), np.log(min(most, seconds / 2)))))

    def length(kind: tuple[float, float], centre: float) -> float:
        return float(max(np.round(np.cbrt(centre * anything(*kind) ** 2) / unit), np.ceil(kind[0] / unit)) * unit)

    while True:
        phrase, gap = anything(*PHRASES), anything(*GAPS)
        position = 0.0 if rng.random() < 0.3 else length(GAPS, gap)
        spans = []
        while position < seconds - PHRASES[0]:
            stop = position + length(PHRASES, phrase)
            spans.append((position, min(stop, seconds)))
            position = stop + length(GAPS, gap)
        if spans and SUNG[0] <= sum(stop - start for start, stop in spans) / seconds <= SUNG[1]:
            return spans


def _phrase(
    start: float,
    stop: float,
    beat: float,
    harmony: _Harmony,
    voice: Voice,
    words: np.ndarray,
    rng: np.random.Generator,
) -> list[SungNote]:
    """Fill a phrase with notes of half a beat to two beats, in steps and leaps around the chords."""
    base = voice.pitch + 12 - (12 if harmony.key > 6 else 0)
    degree, position, notes = int(rng.integers(0, 5)), start, []
    while stop - position > 0.02:
        length = float(rng.choice([0.5, 1, 1, 1.5, 2])) * beat * voice.pace
        # A rest too short for a word is added to this note.
        if stop - position - length < PHRASES[0] / 2:
            length = stop - position
        if rng.random() < 0.7:
            degree = int(np.clip(degree + rng.choice([-2, -1, -1, 0, 1, 1, 2]), -1, voice.reach))
        else:
            degree = harmony.chords[int(position / (4 * beat)) % 4] + int(rng.choice([0, 2, 4]))
        pitch = harmony.pitch(min(degree, voice.reach), base)
        notes.append(SungNote(position, 0.97 * length, pitch, str(rng.choice(words))))
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


def _bass(bars: int, beat: float, harmony: _Harmony, split: int, rng: np.random.Generator) -> list[Note]:
    program = int(rng.choice([32, 33, 34, 35, 36, 37, 38, 39, 43][split::SPLITS]))
    notes = []
    for bar in range(bars):
        root = harmony.pitch(harmony.chords[bar % 4], 28)
        for at in np.arange(0, 4, rng.choice([0.5, 1])):
            start = _humanised((4 * bar + at) * beat, rng)
            pitch, velocity = root + int(rng.choice([0, 0, 0, 12, 7])), int(rng.integers(85, 110))
            notes.append(Note(start, 0.45 * beat, pitch, velocity, program, _CHANNELS["bass"]))
    return notes


def _chords(bars: int, beat: float, harmony: _Harmony, split: int, rng: np.random.Generator) -> list[Note]:
    """Compose ``other``: a pad, a picked guitar, and keys on off-beats."""
    pad = int(rng.choice([16, 19, 48, 49, 50, 51, 88, 89, 92, 94, 95, 20][split::SPLITS]))
    guitar = int(rng.choice([24, 25, 26, 27, 28, 29, 30, 46, 105][split::SPLITS]))
    keys = int(rng.choice([0, 1, 2, 4, 5, 6, 7, 11, 12][split::SPLITS]))
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
