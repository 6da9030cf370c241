"""Sing without recordings: espeak-ng speaks a word, and WORLD stretches its vowel to a note.

WORLD (Morise, Yokomori & Ozawa, IEICE Trans. 2016) analyses a spoken word into pitch, spectral envelope and
aperiodicity. The vowel is stretched until the word fills the note. The melody's pitch, with glide, vibrato and drift,
replaces the spoken pitch. Then WORLD synthesises the sound.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType
from typing import Self

import numpy as np
from scipy.signal import resample_poly

from bsm.errors import InputError

RATE = 44100
_FRAME_MS = 5.0
_SPOKEN_RATE = 22050
_WORDS_PER_MINUTE = 120


@dataclass(frozen=True)
class Voice:
    """A singer: a point in a continuous space, so that no two songs share one."""

    name: str  # espeak-ng's voice and variant that speaks the words
    pitch: int  # lowest comfortable note, MIDI
    formants: float  # factor on formant frequencies; a factor above 1 sounds brighter
    breath: float  # from 0, as spoken, to 1, whispered
    vibrato: float  # depth in semitones
    vibrato_rate: float  # Hz
    reach: int  # highest degree of the scale above the tonic
    pace: float  # factor on the length of notes

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw a singer."""
        name = str(rng.choice(SPEAKERS))
        low, high = (52, 63) if "+f" in name else (40, 53)
        return cls(
            name,
            pitch=int(rng.integers(low, high)),
            formants=float(np.exp(rng.uniform(np.log(0.88), np.log(1.14)))),
            breath=float(rng.uniform(0, 0.5)),
            vibrato=float(rng.uniform(0.05, 0.6)),
            vibrato_rate=float(rng.uniform(4.5, 7)),
            reach=int(rng.integers(5, 11)),
            pace=float(np.exp(rng.uniform(np.log(0.7), np.log(1.5)))),
        )


@dataclass(frozen=True)
class SungNote:
    """One word on one note; times in seconds, pitch as a MIDI note."""

    start: float
    duration: float
    pitch: int
    word: str


_VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f5")
SPEAKERS = tuple(f"{accent}+{variant}" for accent in ("en-us", "en-gb") for variant in _VARIANTS)
_LYRICS = (
    "night love fire rain stay fall sun gone light home way day heart sea sky blue time wind stone dream hold run burn "
    "shine high low show me you we are all through so free slow far star moon wave soul say know road grow "
    "arm ball bear bell bird bloom bone boy brave bridge call calm car child clean cloud cold cool dark deep dew door "
    "down drum ear earth east eye face fair farm feel field find flame flow foam fool game gate girl give glow gold "
    "green ground hair hall hand hill hope hour house ice join joy june key king lake land lane lawn lead leaf leave "
    "life line long loud mail main mile mind mine morn mouth name near new noon north now oar old own page pain pearl "
    "place plain play rage rise river roam room rose round sail sand scene seed seem shade ship shore side sign sleep "
    "smile snow song sound south spring steam storm stream strong sweet tale tear thing three thumb tide tone town "
    "train tree true voice wall warm wave wear wide wild will wine wing wood word world yard year young zone"
)
WORDS = tuple(dict.fromkeys(_LYRICS.split()))


def optional(package: str) -> ModuleType:
    """Import a package that only demo songs need; it is an InputError if it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(f"demo songs need the package {package} ({error}); run `make env`") from error


def sing(notes: list[SungNote], voice: Voice, rng: np.random.Generator, *, wordless: bool = False) -> np.ndarray:
    """Sing one phrase; float64 ``(samples,)`` at 44.1 kHz, from the start of the first note.

    Args:
        notes: the phrase's notes in order of time, without overlaps.
        voice: the singer.
        rng: draws drift and the vibrato's phase.
        wordless: sing only the middle of each word's vowel, so that no word is heard.

    Raises:
        InputError: pyworld or espeakng-loader is not installed.
    """
    pyworld = optional("pyworld")
    envelopes, aperiodicities, pitches = [], [], []
    frames_done, previous = 0, None
    for note in notes:
        word = _analyse(note.word, voice.name)
        end = round((note.start + note.duration - notes[0].start) * 1000 / _FRAME_MS)
        position, vowel = _stretch(word, max(8, end - frames_done))
        frames_done += len(position)
        if wordless:
            position, vowel = np.full(len(position), (word.first + word.last) / 2), np.ones(len(position), bool)
        low = position.astype(int)
        high, mix = np.minimum(low + 1, len(word.voiced) - 1), (position - low)[:, None]
        # Envelopes are interpolated in decibels, because linear interpolation would blur a consonant's onset.
        envelopes.append(word.log_envelope[low] * (1 - mix) + word.log_envelope[high] * mix)
        aperiodicities.append(word.aperiodicity[low] * (1 - mix) + word.aperiodicity[high] * mix)
        contour = _pitch_contour(note.pitch, previous, len(position), voice, rng)
        pitches.append(np.where(word.voiced[low] | vowel, contour, 0.0))
        previous = note.pitch
    envelope = np.exp(np.concatenate(envelopes))
    aperiodicity = np.concatenate(aperiodicities) ** (1 - voice.breath)
    bins = np.arange(envelope.shape[1])
    shifted = np.clip(bins / voice.formants, 0, len(bins) - 1).astype(int)
    sound = pyworld.synthesize(
        np.concatenate(pitches),
        np.ascontiguousarray(envelope[:, shifted]),
        np.ascontiguousarray(aperiodicity[:, shifted]),
        RATE,
        _FRAME_MS,
    )
    fade = np.linspace(0, 1, min(round(0.02 * RATE), len(sound) // 2))
    sound[: len(fade)] *= fade
    sound[-len(fade) :] *= fade[::-1]
    return sound


@dataclass(frozen=True, eq=False)
class _Word:
    """A spoken word, analysed by WORLD: one row per 5 ms frame; the vowel spans frames ``first`` to ``last``."""

    log_envelope: np.ndarray  # (frames, bins)
    aperiodicity: np.ndarray  # (frames, bins)
    voiced: np.ndarray  # (frames,)
    first: int
    last: int


def _stretch(word: _Word, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Map each frame of a note to a position in the spoken word; return positions, and which frames are the vowel.

    Consonants keep their spoken length, but together take at most 45 % of the note.
    """
    before, after = word.first, len(word.voiced) - 1 - word.last
    squeeze = min(1.0, 0.45 * frames / max(1, before + after))
    onset, coda = int(before * squeeze), int(after * squeeze)
    position = np.concatenate(
        [
            np.linspace(0, word.first, onset, endpoint=False),
            np.linspace(word.first, word.last, frames - onset - coda),
            np.linspace(word.last + 1, len(word.voiced) - 1, coda),
        ]
    )
    index = np.arange(frames)
    return np.clip(position, 0, len(word.voiced) - 1), (index >= onset) & (index < frames - coda)


def _pitch_contour(pitch: int, previous: int | None, frames: int, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Return the sung pitch in Hz, with a glide from the previous note, a late vibrato and a slow drift."""
    time = np.arange(frames) * _FRAME_MS / 1000
    glide = (previous - pitch if previous is not None else -1.5) * np.exp(-time / 0.045)
    phase = rng.uniform(0, 2 * np.pi)
    vibrato = voice.vibrato * np.sin(2 * np.pi * voice.vibrato_rate * time + phase) * np.clip((time - 0.25) / 0.3, 0, 1)
    drift = np.cumsum(rng.normal(0, 0.012, frames))
    drift -= np.linspace(0, drift[-1], frames)
    return 440 * 2 ** ((pitch - 69 + glide + vibrato + drift) / 12)


@lru_cache(maxsize=64)  # the words of two singers, 2 MB each
def _analyse(text: str, voice: str) -> _Word:
    """Cut and analyse a spoken word."""
    pyworld = optional("pyworld")
    sound = resample_poly(_spoken_words()[voice, text], RATE // _SPOKEN_RATE, 1)
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    sound = np.ascontiguousarray(sound[max(0, loud[0] - 400) : loud[-1] + 800])
    pitch, times = pyworld.dio(sound, RATE, f0_floor=65, f0_ceil=420, frame_period=_FRAME_MS)
    pitch = pyworld.stonemask(sound, pitch, times, RATE)
    envelope = pyworld.cheaptrick(sound, pitch, times, RATE)
    aperiodicity = pyworld.d4c(sound, pitch, times, RATE)
    # espeak-ng speaks at 22.05 kHz. Above 9.5 kHz, the envelope continues as breath that falls by 4 dB per kHz.
    frequency = np.linspace(0, RATE / 2, envelope.shape[1])
    low, high = np.searchsorted(frequency, [7500, 9500])
    fall = 10 ** (-(frequency[high:] - 9500) / 1000 * 0.4)
    envelope[:, high:] = envelope[:, low:high].mean(axis=1, keepdims=True) * fall
    aperiodicity[:, high:] = np.maximum(aperiodicity[:, high:], 0.9)
    voiced, energy = pitch > 0, envelope.sum(axis=1)
    vowel = np.flatnonzero(voiced & (energy > 0.1 * energy.max()))
    first, last = (int(vowel[0]), int(vowel[-1])) if len(vowel) > 3 else (0, len(pitch) - 1)
    return _Word(np.log(envelope + 1e-12), aperiodicity, voiced, first, last)


@cache
def _spoken_words() -> dict[tuple[str, str], np.ndarray]:
    """Speak every word as every speaker; return float64 ``(samples,)`` at 22.05 kHz by speaker and word.

    espeak-ng keeps state (flutter, noise) from word to word; neither its seed nor a restart resets it. So all words are
    spoken at once in a fixed order. A word then sounds the same whatever the process sang before.
    """
    loader = optional("espeakng_loader")
    library = ctypes.CDLL(loader.get_library_path())
    synchronous = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come by callback before espeak_Synth returns
    rate = library.espeak_Initialize(synchronous, 0, loader.get_data_path().encode(), 0)
    if rate != _SPOKEN_RATE:
        raise InputError(f"espeak-ng could not be started (it returned {rate}); run `make env`")
    blocks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, _events):
        if count > 0 and samples:
            blocks.append(np.ctypeslib.as_array(samples, shape=(count,)) / 32768.0)
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # otherwise the clock seeds its noise and flutter
    speed, utf8 = 1, 1
    spoken = {}
    for speaker in SPEAKERS:
        library.espeak_SetVoiceByName(speaker.encode())
        library.espeak_SetParameter(speed, _WORDS_PER_MINUTE, 0)
        for word in WORDS:
            blocks.clear()
            text = word.encode()
            library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, utf8, None, None)
            spoken[speaker, word] = np.concatenate(blocks)
    library.espeak_Terminate()  # before the callback is deleted
    return spoken
