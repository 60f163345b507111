"""The voice: harmonics shaped by vowels, with the prosody of an emotion.

The cue's emotion sets brightness, breath, tremor and the course of the pitch; its level sets how
far they go and how loud it is. Who speaks (base pitch, vocal tract) and the room's noise are
nuisance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.hidden import State
from pipeline.demo.rhythm import Rhythm
from pipeline.demo.spec import Emotion

SAMPLE_RATE = 16_000
_CONTROL_RATE = 200
_NYQUIST_MARGIN = 7_000.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prosody:
    """How an emotion sounds; the pitch's course, breath and tremors grow with the level.

    Attributes:
        loudness: In dB relative to the neutral voice at the same level.
        tilt: Fall of the harmonics, in dB an octave; small is bright and harsh.
        pitch: Mean shift, in semitones.
        slope: Pitch from start to end of the clip, in semitones.
        jump: Sudden rise in the last part of the clip, in semitones.
        bounce: Rise inside each syllable, in semitones.
        breath: Noise relative to the voiced part.
        breath_edge: Where that noise begins, in Hz.
        rough: Depth of a fast tremor (30 Hz).
        sway: Depth of a slow tremor (5 Hz).
        staccato: How much of a syllable is silent, 0 to 1.
    """

    loudness: float
    tilt: float
    pitch: float = 0.0
    slope: float = 0.0
    jump: float = 0.0
    bounce: float = 0.0
    breath: float = 0.02
    breath_edge: float = 2_000.0
    rough: float = 0.0
    sway: float = 0.0
    staccato: float = 0.2


PROSODY: dict[Emotion, Prosody] = {
    "anger": Prosody(loudness=6, tilt=3, pitch=2, slope=-2, rough=0.55, breath=0.12, staccato=0.45),
    "sadness": Prosody(
        loudness=-6, tilt=15, pitch=-3, slope=-5, breath=0.05, breath_edge=600, staccato=0.0
    ),
    "neutral": Prosody(loudness=0, tilt=9),
    "joy": Prosody(loudness=3, tilt=6, pitch=6, slope=4, bounce=5, sway=0.5, staccato=0.3),
    "surprise": Prosody(
        loudness=0, tilt=7, pitch=3, jump=11, breath=0.35, breath_edge=3_500, staccato=0.1
    ),
}
_STRENGTH = (0.6, 1.0, 1.5)
_LEVEL_GAIN = (-6.0, 0.0, 6.0)
_NEUTRAL_GAIN = -21.0
_VOWELS = np.array([(730, 1090), (530, 1840), (390, 1990), (570, 840), (440, 1020)], dtype=float)


@dataclass(frozen=True)
class Speaker:
    """What a person's voice is like, whatever they feel: base pitch in Hz, scale of formants."""

    pitch: float
    tract: float


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """Return a voice between low and high."""
    height = rng.uniform()
    return Speaker(pitch=float(110 * 1.8**height), tract=float(0.92 + 0.16 * height))


def render_voice(
    cue: State, speaker: Speaker, rhythm: Rhythm, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the sound of one clip, `[samples]` at `SAMPLE_RATE`, within -1..1."""
    prosody, strength = PROSODY[cue.emotion], _STRENGTH[cue.level - 1]
    samples = round(rhythm.duration * SAMPLE_RATE)
    time = np.arange(samples) / SAMPLE_RATE
    control = np.arange(round(rhythm.duration * _CONTROL_RATE) + 2) / _CONTROL_RATE
    pitch = _pitch(prosody, strength, speaker, rhythm, control, rng)
    phase = 2 * np.pi * np.interp(time, control, pitch.cumsum() / _CONTROL_RATE)
    voiced = _harmonics(phase, pitch, _formants(speaker, rhythm, control, rng), prosody, time)
    breath = _breath(prosody.breath_edge, samples, rng) * prosody.breath * strength
    tremor = (
        1
        - min(0.9, prosody.rough * strength) * (0.5 + 0.5 * np.sin(2 * np.pi * 30 * time))
        - min(0.9, prosody.sway * strength) * (0.5 + 0.5 * np.sin(2 * np.pi * 5 * time))
    ).clip(0.05)
    gain = 10 ** ((_NEUTRAL_GAIN + prosody.loudness + _LEVEL_GAIN[cue.level - 1]) / 20)
    room = rng.normal(0, 10 ** rng.uniform(-3.6, -3.2), samples)
    sound = gain * _envelope(prosody, rhythm, time) * tremor * (voiced + breath) + room
    return np.tanh(sound).astype(np.float32)


def _pitch(
    prosody: Prosody,
    strength: float,
    speaker: Speaker,
    rhythm: Rhythm,
    control: Array,
    rng: np.random.Generator,
) -> Array:
    progress = rhythm.progress(control)
    jump = 1 / (1 + np.exp(-30 * (progress - 0.6)))
    wander = np.interp(control, np.linspace(0, rhythm.duration, 6), rng.normal(0, 0.4, 6))
    semitones = strength * (
        prosody.pitch
        + prosody.slope * (progress - 0.5)
        + prosody.jump * jump
        + prosody.bounce * (rhythm.openness(control) - 0.5)
    )
    return speaker.pitch * 2 ** ((semitones + wander) / 12)


def _formants(speaker: Speaker, rhythm: Rhythm, control: Array, rng: np.random.Generator) -> Array:
    """Return the two formants over time, in Hz `[2, control]`."""
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=len(rhythm.onsets))] * speaker.tract
    middle = rhythm.onsets + rhythm.lengths / 2
    return np.stack([np.interp(control, middle, vowels[:, i]) for i in range(2)])


def _harmonics(phase: Array, pitch: Array, formants: Array, prosody: Prosody, time: Array) -> Array:
    """Return the voiced part `[samples]`: harmonics with a tilt and two resonances, RMS 1."""
    control = np.arange(len(pitch)) / _CONTROL_RATE
    turn = np.exp(1j * phase)
    wave = np.ones_like(turn)
    voiced = np.zeros(len(phase))
    for number in range(1, 40):
        frequency = number * pitch
        if frequency.min() > _NYQUIST_MARGIN:
            break
        wave = wave * turn
        resonance = 0.15 + np.exp(-0.5 * ((frequency - formants) / 160.0) ** 2).sum(axis=0)
        level = resonance * 10 ** (-prosody.tilt * np.log2(frequency / 100.0) / 20)
        level = np.where(frequency < _NYQUIST_MARGIN, level, 0.0)
        voiced += np.interp(time, control, level) * wave.imag
    return voiced / np.sqrt(np.mean(voiced**2))


def _breath(edge: float, samples: int, rng: np.random.Generator) -> Array:
    """Return noise above `edge` Hz `[samples]`, RMS 1."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    spectrum[np.fft.rfftfreq(samples, 1 / SAMPLE_RATE) < edge] = 0
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def _envelope(prosody: Prosody, rhythm: Rhythm, time: Array) -> Array:
    """Return the loudness of the syllables over time, 0 to 1."""
    open_ = rhythm.openness(time)
    return ((open_ - prosody.staccato) / (1 - prosody.staccato)).clip(0) ** 0.7
