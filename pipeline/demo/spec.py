"""What a demo corpus is made from: the `generator:` block of a manifest entry.

Everything that decides the corpus is in here or in the generator's own code, so that a corpus is
known by its `DemoSpec` and `GENERATOR_VERSION`. Another demo (noisier voices, longer dialogues,
fewer clips) is an edit of the manifest.
"""

import hashlib
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

GENERATOR_VERSION = 1
"""Raised whenever the same spec would be written as other files."""

Emotion = Literal["anger", "sadness", "neutral", "joy", "surprise"]
Modality = Literal["text", "audio", "visual"]
Language = Literal["en", "zh"]
Split = Literal["train", "valid", "test"]
Defect = Literal["missing_file", "truncated_file", "no_audio", "no_video", "empty_transcript"]

EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
MODALITIES: tuple[Modality, ...] = get_args(Modality)
LANGUAGES: tuple[Language, ...] = get_args(Language)
SPLITS: tuple[Split, ...] = get_args(Split)
DEFECTS: tuple[Defect, ...] = get_args(Defect)
LEVELS: tuple[int, ...] = (1, 2, 3)

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Model(BaseModel):
    """Refuse unknown fields and later changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CueNoise(_Model):
    """How often one modality shows what is felt.

    Attributes:
        emotion: Probability that the shown emotion is the felt one.
        level: Probability that the shown level is the felt one.
    """

    emotion: Share
    level: Share


class Noise(_Model):
    """The noise of each modality, drawn independently given the hidden state."""

    text: CueNoise = CueNoise(emotion=0.72, level=0.75)
    audio: CueNoise = CueNoise(emotion=0.66, level=0.75)
    visual: CueNoise = CueNoise(emotion=0.62, level=0.75)


class Sizes(_Model):
    """Utterances of each split, half English and half Chinese."""

    train: int = Field(default=1400, ge=0)
    valid: int = Field(default=240, ge=0)
    test: int = Field(default=640, ge=0)


class Turns(_Model):
    """The shortest and the longest dialogue, in turns."""

    low: int = Field(default=4, ge=1)
    high: int = Field(default=8, ge=1)


class Broken(_Model):
    """How many utterances carry each defect, spread over the splits."""

    missing_file: int = Field(default=3, ge=0)
    truncated_file: int = Field(default=3, ge=0)
    no_audio: int = Field(default=3, ge=0)
    no_video: int = Field(default=3, ge=0)
    empty_transcript: int = Field(default=3, ge=0)


class DemoSpec(_Model):
    """Parameters of one demo corpus.

    Attributes:
        seed: Everything random follows from it.
        utterances: Utterances of each split.
        turns: Length of the dialogues.
        inertia: Probability that a turn keeps the emotion of the turn before it.
        noise: How often each modality shows the truth.
        usual_mistakes: Share of a modality's wrong emotions that are its usual ones (the voice
            takes anger for joy, the face hides anger behind calm); this makes the modalities
            complementary.
        broken: Utterances that are damaged on purpose.
    """

    seed: int = Field(default=2601, ge=0)
    utterances: Sizes = Sizes()
    turns: Turns = Turns()
    inertia: Share = 0.35
    noise: Noise = Noise()
    usual_mistakes: Share = 0.65
    broken: Broken = Broken()

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.turns.low, self.turns.high
        if high < 2 * low - 1:
            raise ValueError(
                f"turns.high is {high}: at least {2 * low - 1} is needed so that dialogues of "
                f"{low} or more turns can fill any split"
            )
        sizes = {split: getattr(self.utterances, split) for split in SPLITS}
        for split, size in sizes.items():
            if 0 < size < 2 * low:
                raise ValueError(
                    f"utterances.{split} is {size}: give 0, or at least {2 * low} "
                    f"(one dialogue of {low} turns in each language)"
                )
        broken = sum(getattr(self.broken, defect) for defect in DEFECTS)
        if broken > sum(sizes.values()):
            raise ValueError(f"broken asks for {broken} of {sum(sizes.values())} utterances")
        return self

    def digest(self) -> str:
        """Return the SHA-256 of the spec and the generator's version, in hex."""
        text = f"{GENERATOR_VERSION}:{self.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()
