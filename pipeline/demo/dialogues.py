"""Who says what with which feeling: every utterance of a demo corpus, before it is rendered.

The table follows from the spec alone and takes milliseconds, so whoever needs the hidden truth
(the ceiling, an analysis) draws it again rather than reading it from a file that a model might
read as well.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.demo.hidden import STATES, State, cue_matrix
from pipeline.demo.spec import (
    DEFECTS,
    EMOTIONS,
    LANGUAGES,
    LEVELS,
    MODALITIES,
    SPLITS,
    Defect,
    DemoSpec,
    Language,
    Modality,
    Split,
)

_LOST: dict[Defect, tuple[Modality, ...]] = {
    "missing_file": ("audio", "visual"),
    "truncated_file": ("audio", "visual"),
    "no_audio": ("audio",),
    "no_video": ("visual",),
    "empty_transcript": ("text",),
}


@dataclass(frozen=True)
class Utterance:
    """One turn of a dialogue.

    Attributes:
        id: Unique in the corpus.
        split: Part of the corpus; a dialogue lies in one.
        language: Of the words.
        group: The dialogue.
        order: The turn, from 0.
        speaker: One of the two people of the dialogue.
        hidden: What is felt.
        cues: What each modality shows.
        defect: What is broken on purpose, if anything.
    """

    id: str
    split: Split
    language: Language
    group: str
    order: int
    speaker: str
    hidden: State
    cues: dict[Modality, State]
    defect: Defect | None

    @property
    def visible_cues(self) -> dict[Modality, State]:
        """The cues of the modalities that the defect leaves."""
        lost = _LOST[self.defect] if self.defect else ()
        return {modality: cue for modality, cue in self.cues.items() if modality not in lost}


def random_stream(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on the seed and the names alone."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])


def draw_utterances(spec: DemoSpec) -> list[Utterance]:
    """Return every utterance of the corpus: by split, language, dialogue and turn."""
    defects = _place_defects(spec)
    matrices = {
        modality: cue_matrix(getattr(spec.noise, modality), modality, spec.usual_mistakes)
        for modality in MODALITIES
    }
    utterances = []
    for split in SPLITS:
        position = 0
        for group, language, turns in _dialogues(spec, split):
            rng = random_stream(spec.seed, "dialogue", group)
            emotion = EMOTIONS[rng.integers(len(EMOTIONS))]
            for order in range(turns):
                if order and rng.random() >= spec.inertia:
                    emotion = EMOTIONS[rng.integers(len(EMOTIONS))]
                hidden = State(emotion, int(rng.choice(LEVELS)))
                row = STATES.index(hidden)
                cues = {m: STATES[rng.choice(len(STATES), p=matrices[m][row])] for m in MODALITIES}
                utterances.append(
                    Utterance(
                        id=f"{group}-{order}",
                        split=split,
                        language=language,
                        group=group,
                        order=order,
                        speaker=f"{group}-{'AB'[order % 2]}",
                        hidden=hidden,
                        cues=cues,
                        defect=defects.get((split, position)),
                    )
                )
                position += 1
    return utterances


def _dialogues(spec: DemoSpec, split: Split) -> list[tuple[str, Language, int]]:
    """Return (name, language, turns) of each dialogue of a split, filling it exactly."""
    size = getattr(spec.utterances, split)
    dialogues = []
    for language, left in zip(LANGUAGES, (size - size // 2, size // 2), strict=True):
        rng = random_stream(spec.seed, "lengths", split, language)
        number = 0
        while left:
            fitting = [
                turns
                for turns in range(spec.turns.low, spec.turns.high + 1)
                if turns == left or left - turns >= spec.turns.low
            ]
            turns = int(rng.choice(fitting))
            dialogues.append((f"{split}-{language}-{number:03d}", language, turns))
            number, left = number + 1, left - turns
    return dialogues


def _place_defects(spec: DemoSpec) -> dict[tuple[Split, int], Defect]:
    """Choose the broken utterances: (split, position in it) -> defect, splits in turn."""
    rng = random_stream(spec.seed, "defects")
    free = {split: rng.permutation(getattr(spec.utterances, split)).tolist() for split in SPLITS}
    wanted = [defect for defect in DEFECTS for _ in range(getattr(spec.broken, defect))]
    placed: dict[tuple[Split, int], Defect] = {}
    for number, defect in enumerate(wanted):
        order = [SPLITS[(number + shift) % len(SPLITS)] for shift in range(len(SPLITS))]
        split = next(split for split in order if free[split])
        placed[split, free[split].pop()] = defect
    return placed
