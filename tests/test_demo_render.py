"""What each modality shows: its own cue, readable, and nothing of the others."""

import itertools
import re

import numpy as np
import pytest

from pipeline.demo.dialogues import random_stream
from pipeline.demo.face import FRAME_RATE, SIZE, draw_person, render_face
from pipeline.demo.hidden import STATES, State
from pipeline.demo.rhythm import draw_rhythm
from pipeline.demo.spec import EMOTIONS, LANGUAGES
from pipeline.demo.voice import SAMPLE_RATE, draw_speaker, render_voice
from pipeline.demo.words import LEXICONS, all_texts, count_syllables, speak


def rng(*names):
    return random_stream(7, *map(str, names))


def voice_of(cue, name=0):
    rhythm = draw_rhythm(9, rng("rhythm", name))
    return render_voice(cue, draw_speaker(rng("who", name)), rhythm, rng("voice", name))


def face_of(cue, name=0):
    rhythm = draw_rhythm(9, rng("rhythm", name))
    return render_face(cue, draw_person(rng("who", name)), rhythm, rng("face", name))


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_show_the_cue_and_only_there(language):
    lexicon = LEXICONS[language]
    emotion_of = {word: emotion for emotion, words in lexicon.feelings.items() for word in words}
    level_of = {
        word: level for level, words in enumerate(lexicon.degrees, start=1) for word in words
    }
    assert len(emotion_of) == sum(map(len, lexicon.feelings.values()))
    for cue, name in itertools.product(STATES, range(20)):
        sentence = speak(cue, language, name, rng("words", name))
        pairs = [
            (emotion_of[feeling], level_of[degree])
            for degree, feeling in itertools.product(level_of, emotion_of)
            if f"{degree} {feeling}" in sentence.text or f"{degree}{feeling}" in sentence.text
        ]
        assert pairs == [(cue.emotion, cue.level)]
        assert "{" not in sentence.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_rhythm_does_not_know_the_words_cue(language):
    for name in range(20):
        sentences = [speak(cue, language, name, rng("words", name)) for cue in STATES]
        assert len({sentence.syllables for sentence in sentences}) == 1
        assert len({sentence.text for sentence in sentences}) == len(STATES)


@pytest.mark.parametrize(
    ("text", "language", "syllables"),
    [("You know, we came late", "en", 5), ("the angry crowd", "en", 4), ("嗯，今天好。", "zh", 4)],
)
def test_syllables(text, language, syllables):
    assert count_syllables(text, language) == syllables


def test_tokenizer_texts_hold_every_word():
    texts = "\n".join(all_texts())
    for lexicon in LEXICONS.values():
        parts = itertools.chain(
            (opening.strip() for opening in lexicon.openings),
            *lexicon.scenes,
            *lexicon.feelings.values(),
            *lexicon.degrees,
        )
        assert [part for part in parts if part not in texts] == []


def test_tokenizer_texts_keep_chinese_words_apart():
    lexicon = LEXICONS["zh"]
    degrees, feelings = sum(lexicon.degrees, ()), sum(lexicon.feelings.values(), ())
    runs = set(re.findall(r"[\u4e00-\u9fff]+", "".join(all_texts())))
    assert set(degrees) | set(feelings) <= runs
    glued = {degree + feeling for degree, feeling in itertools.product(degrees, feelings)}
    assert not [run for run in runs if any(pair in run for pair in glued)]


def test_rhythm_lasts_one_to_three_seconds():
    durations = []
    for syllables in (1, 5, 9, 13, 40):
        rhythm = draw_rhythm(syllables, rng("length", syllables))
        durations.append(rhythm.duration)
        assert len(rhythm.onsets) == syllables
        assert rhythm.onsets[-1] + rhythm.lengths[-1] <= rhythm.duration
        assert rhythm.openness(np.array([0.0, rhythm.duration])) == pytest.approx([0, 0])
        middle = rhythm.onsets + rhythm.lengths / 2
        assert rhythm.openness(middle) == pytest.approx(np.ones(syllables))
    assert durations[0] == 1.0
    assert durations == sorted(durations)
    assert durations[-1] == 3.0


def test_streams_have_one_shape_whatever_the_cue():
    duration = draw_rhythm(9, rng("rhythm", 0)).duration
    assert {voice_of(cue).shape for cue in STATES} == {(round(duration * SAMPLE_RATE),)}
    assert {face_of(cue).shape for cue in STATES} == {(round(duration * FRAME_RATE), SIZE, SIZE, 3)}


def test_voice_and_face_repeat():
    cue = State("joy", 2)
    assert np.array_equal(voice_of(cue), voice_of(cue))
    assert np.array_equal(face_of(cue), face_of(cue))
    assert not np.array_equal(voice_of(cue)[:8000], voice_of(cue, 1)[:8000])
    assert not np.array_equal(face_of(cue)[0], face_of(cue, 1)[0])


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_voice_grows_with_the_level(emotion):
    sounds = [voice_of(State(emotion, level)) for level in (1, 2, 3)]
    loudness = [20 * np.log10(np.sqrt((sound**2).mean())) for sound in sounds]
    assert loudness[1] - loudness[0] > 3
    assert loudness[2] - loudness[1] > 3
    assert max(np.abs(sound).max() for sound in sounds) < 1


def test_anger_is_bright_and_sadness_dark():
    def share_above_one_kilohertz(emotion):
        power = np.abs(np.fft.rfft(voice_of(State(emotion, 2)))) ** 2
        frequency = np.fft.rfftfreq(len(voice_of(State(emotion, 2))), 1 / SAMPLE_RATE)
        return power[frequency > 1000].sum() / power.sum()

    shares = [share_above_one_kilohertz(emotion) for emotion in ("anger", "neutral", "sadness")]
    assert shares[0] > 2 * shares[1] > 4 * shares[2]


def test_faces_differ_more_by_cue_than_by_noise():
    cues = [face_of(cue).mean(axis=0) for cue in STATES]
    noise = np.abs(face_of(STATES[0])[0].astype(float) - face_of(STATES[0])[-1]).mean()
    for one, other in itertools.combinations(cues, 2):
        assert np.abs(one - other).mean() > 1.5 * noise


def test_mouth_moves_with_the_syllables():
    rhythm = draw_rhythm(9, rng("rhythm", 0))
    frames = face_of(State("neutral", 2)).astype(float)
    openness = rhythm.openness(np.arange(len(frames)) / FRAME_RATE)
    mouth = frames[:, int(0.68 * SIZE) : int(0.78 * SIZE), int(0.44 * SIZE) : int(0.56 * SIZE)]
    darkness = -mouth.mean(axis=(1, 2, 3))
    assert np.corrcoef(openness, darkness)[0, 1] > 0.5
