"""The exact ceilings against cases worked by hand, plain loops and a simulation."""

import itertools
import math

import numpy as np
import pytest

from pipeline.demo.dialogues import draw_utterances
from pipeline.demo.hidden import (
    SCORES,
    STATES,
    USUAL_MISTAKES,
    State,
    ceiling,
    ceiling_for_rows,
    cue_matrix,
    oracle_predictions,
)
from pipeline.demo.spec import (
    EMOTIONS,
    LEVELS,
    MODALITIES,
    Broken,
    CueNoise,
    DemoSpec,
    Noise,
    Sizes,
)

SUBSETS = [
    subset for size in range(4) for subset in itertools.combinations(MODALITIES, size)
]  # fmt: skip
SURE = CueNoise(emotion=1.0, level=1.0)


def spec_with(**noise):
    return DemoSpec(noise=Noise(**noise))


def test_nothing_seen_leaves_the_priors():
    # Scores sorted: the eighth of fifteen is 0; their absolute values sum to 19.
    expected = {"accuracy": 0.2, "weighted_f1": 1 / 15, "macro_f1": 1 / 15, "mae": 19 / 15}
    assert ceiling(DemoSpec(), []) == pytest.approx({**expected, "corr": 0.0})


def test_a_clear_modality_tells_everything():
    expected = {"accuracy": 1.0, "weighted_f1": 1.0, "macro_f1": 1.0, "mae": 0.0, "corr": 1.0}
    assert ceiling(spec_with(audio=SURE), ["audio"]) == pytest.approx(expected)


def test_emotion_without_level():
    spec = spec_with(text=CueNoise(emotion=1.0, level=1 / 3))
    found = ceiling(spec, ["text"])
    # Within an emotion the median is the middle level; neighbours lie 1, .8, .2, 1, .4 away.
    assert found["mae"] == pytest.approx(2 / 3 * (1 + 0.8 + 0.2 + 1 + 0.4) / 5)
    between = (2**2 + 1.4**2 + 0 + 2**2 + 0.8**2) / 5 - 0.12**2
    within = 2 / 3 * (1 + 0.8**2 + 0.2**2 + 1 + 0.4**2) / 5
    assert found["corr"] == pytest.approx(math.sqrt(between / (between + within)))
    assert found["accuracy"] == pytest.approx(1.0)


def test_rows_that_lack_a_modality():
    found = ceiling_for_rows(spec_with(text=SURE), [["text"], []])
    # Blind rows are all called anger: its F1 is .5, that of every other emotion 2/3.
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["macro_f1"] == pytest.approx((0.5 + 4 * 2 / 3) / 5)
    assert found["mae"] == pytest.approx(19 / 30)
    assert found["corr"] == pytest.approx(math.sqrt(0.5))


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        ceiling_for_rows(DemoSpec(), [])


def test_two_modalities_by_plain_loops():
    spec = DemoSpec()

    def shown(modality, felt, cue):
        accuracy = getattr(spec.noise, modality).emotion
        usual = USUAL_MISTAKES[modality][felt]
        if cue == felt:
            return accuracy
        if cue in usual:
            return (1 - accuracy) * spec.usual_mistakes / len(usual)
        return (1 - accuracy) * (1 - spec.usual_mistakes) / (4 - len(usual))

    best = sum(
        max(shown("text", felt, said) * shown("audio", felt, heard) / 5 for felt in EMOTIONS)
        for said, heard in itertools.product(EMOTIONS, repeat=2)
    )
    assert ceiling(spec, ["audio", "text"])["accuracy"] == pytest.approx(best)


@pytest.mark.parametrize("modality", MODALITIES)
def test_cue_matrix_keeps_its_promises(modality):
    matrix = cue_matrix(CueNoise(emotion=0.6, level=0.8), modality, 0.65)
    assert matrix.sum(axis=1) == pytest.approx(np.ones(15))
    by_emotion = matrix.reshape(5, 3, 5, 3).sum(axis=3)
    assert by_emotion[np.arange(5), :, np.arange(5)] == pytest.approx(np.full((5, 3), 0.6))
    by_level = matrix.reshape(5, 3, 5, 3).sum(axis=2)
    assert by_level[:, np.arange(3), np.arange(3)] == pytest.approx(np.full((3, 5), 0.8).T)


def test_every_modality_adds():
    spec = DemoSpec()
    for subset in SUBSETS:
        for more in set(MODALITIES) - set(subset):
            less, all_ = ceiling(spec, subset), ceiling(spec, [*subset, more])
            assert all_["accuracy"] > less["accuracy"] + 0.03
            assert all_["mae"] < less["mae"] - 0.03
            assert all_["corr"] > less["corr"] + 0.03


def test_ceilings_of_the_default_corpus():
    accuracy = {subset: round(ceiling(DemoSpec(), subset)["accuracy"], 3) for subset in SUBSETS}
    assert list(accuracy.values()) == [0.2, 0.72, 0.66, 0.62, 0.794, 0.794, 0.773, 0.868]


def test_simulation_agrees():
    sizes = Sizes(train=30_000, valid=0, test=0)
    spec = DemoSpec(utterances=sizes, broken=Broken(missing_file=3_000))
    utterances = draw_utterances(spec)
    truth = np.array([each.hidden.score for each in utterances])
    cues = [each.visible_cues for each in utterances]
    for subset in SUBSETS:
        expected = ceiling_for_rows(spec, [[m for m in subset if m in each] for each in cues])
        decisions = oracle_predictions(spec, cues, subset)
        right = [
            decision.emotion == each.hidden.emotion
            for decision, each in zip(decisions, utterances, strict=True)
        ]
        median = np.array([decision.score_median for decision in decisions])
        mean = np.array([decision.score_mean for decision in decisions])
        assert np.mean(right) == pytest.approx(expected["accuracy"], abs=0.012)
        assert np.abs(truth - median).mean() == pytest.approx(expected["mae"], abs=0.025)
        if subset:
            assert np.corrcoef(truth, mean)[0, 1] == pytest.approx(expected["corr"], abs=0.012)


def test_oracle_follows_what_is_there():
    spec = spec_with(text=SURE)
    cues = [
        {"text": State("joy", 3), "audio": State("anger", 1)},
        {"audio": State("anger", 1)},
    ]
    sure, heard = oracle_predictions(spec, cues, ["text", "audio"])
    assert (sure.emotion, sure.score_mean, sure.score_median) == ("joy", 3.0, 3.0)
    assert heard.emotion == "anger"
    assert oracle_predictions(spec, cues[1:], ["audio"]) == [heard]


def test_scores_lie_on_the_scale():
    scores = [state.score for state in STATES]
    assert len(STATES) == len(EMOTIONS) * len(LEVELS)
    assert min(scores) == -3
    assert max(scores) == 3
    assert all(score == round(score, 1) for score in scores)
    assert all(len(set(scores)) == 3 for scores in SCORES.values())
