"""What is felt, what is shown, and the best that anyone could do with what is shown.

A hidden state is an emotion and a level, uniform over the fifteen pairs; the sentiment score is a
fixed function of it. Given the state, each modality on its own shows a *cue*: a state too, often
the same one, sometimes another. The renderers (`words`, `voice`, `face`) see a cue and nuisance
draws that do not depend on the state, so no model that reads one utterance can beat the Bayes
decision given the cues. With fifteen states and at most 15^3 cue combinations that decision, and
all that is expected of it, is summed exactly; nothing here is sampled.

The wrong emotions are not spread evenly. Words tell pleasant from unpleasant and mistake calm for
excited, the voice does the reverse, and the face hides what is felt behind calm or a brave smile:
with evenly spread mistakes a second modality would never change the decision of a better first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.spec import EMOTIONS, LEVELS, MODALITIES, CueNoise, DemoSpec, Emotion, Modality

Array = NDArray[np.float64]

SCORES: dict[Emotion, tuple[float, float, float]] = {
    "anger": (-1.0, -2.0, -3.0),
    "sadness": (-0.6, -1.4, -2.2),
    "neutral": (-0.2, 0.0, 0.2),
    "joy": (1.0, 2.0, 3.0),
    "surprise": (0.4, 0.8, 1.2),
}
"""Sentiment of each emotion at levels 1, 2, 3, on the -3..3 scale."""

USUAL_MISTAKES: dict[Modality, dict[Emotion, tuple[Emotion, ...]]] = {
    "text": {
        "anger": ("sadness",),
        "sadness": ("anger",),
        "neutral": ("sadness", "joy"),
        "joy": ("surprise",),
        "surprise": ("joy",),
    },
    "audio": {
        "anger": ("joy",),
        "sadness": ("neutral",),
        "neutral": ("sadness",),
        "joy": ("anger",),
        "surprise": ("anger", "joy"),
    },
    "visual": {
        "anger": ("neutral",),
        "sadness": ("joy",),
        "neutral": ("anger", "surprise"),
        "joy": ("sadness",),
        "surprise": ("neutral", "sadness"),
    },
}
"""What each modality usually shows when it does not show what is felt."""


@dataclass(frozen=True)
class State:
    """An emotion and how strong it is; of a person (hidden) or of a modality (a cue)."""

    emotion: Emotion
    level: int

    @property
    def score(self) -> float:
        """The sentiment score of this state."""
        return SCORES[self.emotion][self.level - 1]


STATES: tuple[State, ...] = tuple(State(emotion, level) for emotion in EMOTIONS for level in LEVELS)
_STATE_SCORES: Array = np.array([state.score for state in STATES])
_BY_SCORE = np.argsort(_STATE_SCORES)


@dataclass(frozen=True)
class Decision:
    """The Bayes decisions for one utterance: each is the best for its own measure.

    Attributes:
        emotion: The most probable emotion (accuracy).
        score_mean: The mean score (squared error, correlation).
        score_median: The median score (absolute error).
    """

    emotion: Emotion
    score_mean: float
    score_median: float


def cue_matrix(noise: CueNoise, modality: Modality, usual_share: float) -> Array:
    """Return P(cue | state) `[state, cue]`, both in the order of `STATES`."""
    emotions = _emotion_matrix(noise.emotion, modality, usual_share)
    return np.kron(emotions, _level_matrix(noise)).astype(np.float64)


def _emotion_matrix(accuracy: float, modality: Modality, usual_share: float) -> Array:
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS)))
    for i, felt in enumerate(EMOTIONS):
        usual = USUAL_MISTAKES[modality][felt]
        rare = len(EMOTIONS) - 1 - len(usual)
        for j, shown in enumerate(EMOTIONS):
            if shown == felt:
                matrix[i, j] = accuracy
            elif shown in usual:
                matrix[i, j] = (1 - accuracy) * usual_share / len(usual)
            else:
                matrix[i, j] = (1 - accuracy) * (1 - usual_share) / rare
    return matrix


def _level_matrix(noise: CueNoise) -> Array:
    wrong = (1 - noise.level) / (len(LEVELS) - 1)
    return np.where(np.eye(len(LEVELS)) > 0, noise.level, wrong)


@dataclass(frozen=True)
class _Bayes:
    """Joint probabilities of states and cue combinations of one modality subset, and decisions.

    Attributes:
        joint: P(state, cues) `[state, combination]`; combinations count through the cues of the
            modalities in their canonical order, the last one fastest.
        emotion: Index of the most probable emotion of each combination.
        mean: Posterior mean of the score.
        median: Posterior median of the score.
    """

    joint: Array
    emotion: NDArray[np.intp]
    mean: Array
    median: Array


def _canonical(modalities: Collection[Modality]) -> tuple[Modality, ...]:
    return tuple(modality for modality in MODALITIES if modality in modalities)


@lru_cache(maxsize=64)
def _bayes(spec: DemoSpec, modalities: tuple[Modality, ...]) -> _Bayes:
    joint = np.full((len(STATES), 1), 1.0 / len(STATES))
    for modality in modalities:
        matrix = cue_matrix(getattr(spec.noise, modality), modality, spec.usual_mistakes)
        joint = (joint[:, :, None] * matrix[:, None, :]).reshape(len(STATES), -1)
    total = joint.sum(axis=0)
    # A combination that never occurs (noise of 0) carries no weight: any decision will do.
    posterior = joint / np.where(total > 0, total, 1.0)
    by_emotion = posterior.reshape(len(EMOTIONS), len(LEVELS), -1).sum(axis=1)
    # Rounding makes exact ties fall to the first emotion whatever the order of the sums was.
    emotion = np.round(by_emotion, 12).argmax(axis=0)
    below = np.round(posterior[_BY_SCORE].cumsum(axis=0), 12)
    median = _STATE_SCORES[_BY_SCORE][(below >= 0.5).argmax(axis=0)]
    return _Bayes(joint, emotion, _STATE_SCORES @ posterior, median)


@dataclass(frozen=True)
class _Expected:
    """What is expected of the Bayes decisions, in terms that average over rows.

    Attributes:
        confusion: P(true emotion, decided emotion) `[truth, decision]`.
        error: Mean absolute error of the posterior median.
        explained: Variance of the posterior mean.
    """

    confusion: Array
    error: float
    explained: float


@lru_cache(maxsize=64)
def _expected(spec: DemoSpec, modalities: tuple[Modality, ...]) -> _Expected:
    bayes = _bayes(spec, modalities)
    by_emotion = bayes.joint.reshape(len(EMOTIONS), len(LEVELS), -1).sum(axis=1)
    confusion = np.stack(
        [by_emotion[:, bayes.emotion == i].sum(axis=1) for i in range(len(EMOTIONS))], axis=1
    )
    error = np.abs(_STATE_SCORES[:, None] - bayes.median[None, :])
    total = bayes.joint.sum(axis=0)
    explained = total @ (bayes.mean - _STATE_SCORES.mean()) ** 2
    return _Expected(confusion, float((bayes.joint * error).sum()), float(explained))


def ceiling(spec: DemoSpec, modalities: Collection[Modality]) -> dict[str, float]:
    """Return the best expected `accuracy`, `weighted_f1`, `macro_f1`, `mae` and `corr`.

    Accuracy and MAE are those of the decisions that are best for them, and corr that of the
    posterior mean, sqrt(Var(E[y|cues]) / Var(y)). The F1 scores are those of the most accurate
    decision, from its expected confusion matrix. Only cues of the utterance itself count; a
    reader of the turns around it may do better, as emotions last.

    Args:
        spec: The corpus.
        modalities: What can be seen; empty for none, where only the priors are known.
    """
    return ceiling_for_rows(spec, [modalities])


def ceiling_for_rows(spec: DemoSpec, available: Sequence[Collection[Modality]]) -> dict[str, float]:
    """Return `ceiling` for rows of which some lack a modality.

    Args:
        spec: The corpus.
        available: The modalities that can be seen in each row; at least one row.
    """
    if not available:
        raise ValueError("no rows: a ceiling needs at least one")
    parts = [_expected(spec, _canonical(modalities)) for modalities in available]
    confusion = np.mean([part.confusion for part in parts], axis=0)
    truth, decided, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    f1 = 2 * right / (truth + decided)
    explained = float(np.mean([part.explained for part in parts]))
    exact = {
        "accuracy": right.sum(),
        "weighted_f1": truth @ f1,
        "macro_f1": f1.mean(),
        "mae": np.mean([part.error for part in parts]),
        "corr": np.sqrt(explained / _STATE_SCORES.var()),
    }
    return {name: round(float(value), 12) for name, value in exact.items()}


def oracle_predictions(
    spec: DemoSpec,
    cues: Sequence[Mapping[Modality, State]],
    modalities: Collection[Modality],
) -> list[Decision]:
    """Return the Bayes decisions on the cues that a corpus really shows.

    Args:
        spec: The corpus.
        cues: The cue of each available modality, for each utterance.
        modalities: What may be looked at; those absent from an utterance are left out.
    """
    decisions = []
    for shown in cues:
        present = tuple(modality for modality in _canonical(modalities) if modality in shown)
        bayes = _bayes(spec, present)
        column = 0
        for modality in present:
            column = column * len(STATES) + STATES.index(shown[modality])
        decisions.append(
            Decision(
                EMOTIONS[int(bayes.emotion[column])],
                float(bayes.mean[column]),
                float(bayes.median[column]),
            )
        )
    return decisions
