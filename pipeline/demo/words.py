"""What is said: sentences in English and Chinese that carry an emotion and a degree.

A sentence is an opening and a clause about the dialogue's scene, which tell nothing, and a feeling
with its degree, which is the whole textual cue. The rhythm of the voice follows the opening and
the clause only: were the feeling's words counted too, the length of a clip would tell which one
was said, and sound and picture would know more than their own cues. The vocabulary is small so that
1,400 sentences teach it.
"""

import re
from dataclasses import dataclass
from itertools import chain, product

import numpy as np

from pipeline.demo.hidden import State
from pipeline.demo.spec import Emotion, Language


@dataclass(frozen=True)
class Lexicon:
    """The words of one language.

    Attributes:
        openings: Ways to start; with their own punctuation.
        scenes: What a dialogue is about: for each scene, clauses that any feeling may follow.
        feelings: Predicates of each emotion that take a degree.
        degrees: Adverbs of levels 1, 2, 3.
        patterns: Sentences, with {opening}, {clause}, {degree} and {feeling}.
    """

    openings: tuple[str, ...]
    scenes: tuple[tuple[str, ...], ...]
    feelings: dict[Emotion, tuple[str, ...]]
    degrees: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    patterns: tuple[str, ...]


LEXICONS: dict[Language, Lexicon] = {
    "en": Lexicon(
        openings=("Well, ", "You know, ", "Listen, ", "Honestly, ", "I mean, "),
        scenes=(
            ("the results came in today", "they posted the grades", "the exam starts at nine"),
            ("my sister called this morning", "my parents arrive tonight", "the family is coming"),
            ("they changed the plan again", "the meeting ran until six", "we got a new manager"),
            ("the train left without us", "we are flying on Friday", "the tickets came by post"),
            ("the team played last night", "the coach picked our names", "the final is on Sunday"),
            (
                "he told me about the job",
                "the letter finally arrived",
                "they want me to come back",
            ),
        ),
        feelings={
            "anger": ("angry", "annoyed", "irritated", "furious"),
            "sadness": ("sad", "unhappy", "gloomy", "miserable"),
            "neutral": ("calm", "indifferent", "composed", "unconcerned"),
            "joy": ("happy", "glad", "pleased", "delighted"),
            "surprise": ("surprised", "amazed", "astonished", "stunned"),
        },
        degrees=(
            ("slightly", "a little", "a bit"),
            ("quite", "rather", "fairly"),
            ("extremely", "utterly", "completely"),
        ),
        patterns=(
            "{opening}{clause}, and I feel {degree} {feeling}.",
            "{opening}{clause}. It leaves me {degree} {feeling}.",
            "{opening}I am {degree} {feeling}, because {clause}.",
        ),
    ),
    "zh": Lexicon(
        openings=("嗯，", "你知道吗，", "听我说，", "说实话，", "其实，"),
        scenes=(
            ("今天成绩出来了", "他们公布了分数", "考试九点开始"),
            ("姐姐早上打来电话", "爸妈今晚就到", "全家人都要来"),
            ("他们又改了计划", "会议开到了六点", "我们换了新经理"),
            ("火车已经开走了", "我们星期五坐飞机", "车票寄到家里了"),
            ("昨晚球队比赛了", "教练点了我们的名", "决赛改到了周日"),
            ("他跟我说了工作的事", "那封信终于到了", "他们叫我回去"),
        ),
        feelings={
            "anger": ("生气", "愤怒", "恼火", "气愤"),
            "sadness": ("难过", "悲伤", "失落", "沮丧"),
            "neutral": ("平静", "淡然", "镇定", "冷静"),
            "joy": ("高兴", "开心", "快乐", "愉快"),
            "surprise": ("惊讶", "吃惊", "意外", "诧异"),
        },
        degrees=(
            ("有点", "稍微有些", "略微"),
            ("挺", "相当", "比较"),
            ("非常", "极其", "特别"),
        ),
        patterns=(
            "{opening}{clause}，我{degree}{feeling}。",
            "{opening}{clause}，这让我{degree}{feeling}。",
            "{opening}我{degree}{feeling}，因为{clause}。",
        ),
    ),
}

_VOWELS = re.compile(r"[aeiouy]+")
_WORD = re.compile(r"[a-z']+")
_CHARACTER = re.compile(r"[\u4e00-\u9fff]")
_FEELING_SYLLABLES = 2


@dataclass(frozen=True)
class Sentence:
    """A transcript, and how many syllables the voice and the mouth give it."""

    text: str
    syllables: int


def speak(cue: State, language: Language, scene: int, rng: np.random.Generator) -> Sentence:
    """Return a sentence that shows the cue.

    Args:
        cue: The emotion and level that the words show.
        language: Of the sentence.
        scene: What the dialogue is about; counted round the lexicon's scenes.
        rng: Draws the words; nothing of it depends on the cue.
    """
    lexicon = LEXICONS[language]
    opening, clause, pattern, degree, feeling = (
        choices[rng.integers(len(choices))]
        for choices in (
            lexicon.openings,
            lexicon.scenes[scene % len(lexicon.scenes)],
            lexicon.patterns,
            lexicon.degrees[cue.level - 1],
            lexicon.feelings[cue.emotion],
        )
    )
    text = pattern.format(opening=opening, clause=clause, degree=degree, feeling=feeling)
    return Sentence(text, count_syllables(opening + clause, language) + _FEELING_SYLLABLES)


def count_syllables(text: str, language: Language) -> int:
    """Return the number of characters (Chinese) or about that of the syllables (English)."""
    if language == "zh":
        return len(_CHARACTER.findall(text))
    total = 0
    for word in _WORD.findall(text.lower()):
        vowels = len(_VOWELS.findall(word))
        total += max(1, vowels - word.endswith("e"))
    return total


def all_texts() -> list[str]:
    """Return sentences that hold every word in its place, for training a tokenizer."""
    texts = []
    for language, lexicon in LEXICONS.items():
        # Chinese has no spaces: without these, whole sentences would become single tokens.
        pause = "，" if language == "zh" else ""
        clauses = list(chain.from_iterable(lexicon.scenes))
        degrees = chain.from_iterable(lexicon.degrees)
        feelings = chain.from_iterable(lexicon.feelings.values())
        for number, (feeling, degree) in enumerate(product(feelings, degrees)):
            texts.append(
                lexicon.patterns[number % len(lexicon.patterns)].format(
                    opening=lexicon.openings[number % len(lexicon.openings)],
                    clause=clauses[number % len(clauses)],
                    degree=f"{pause}{degree}{pause}",
                    feeling=feeling,
                )
            )
    return texts
