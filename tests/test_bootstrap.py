"""Bootstrap: sums equal the metrics, intervals equal known ones, groups and seeds are drawn."""

import math

import numpy as np
import pytest

from pipeline.metrics import (
    classification_metrics,
    classification_statistics,
    draw_counts,
    holm,
    interval,
    paired_difference,
    regression_metrics,
    regression_statistics,
    reliability,
    score_resamples,
)
from pipeline.metrics.statistics import class_f1

LABELS = ["neutral", "joy", "anger"]
CLASSES = classification_statistics(3)


def accuracy_of(truth, answers, counts):
    return score_resamples(CLASSES, truth, answers, counts)["accuracy"]


def rows_of(counts):
    return np.repeat(np.arange(len(counts)), counts.astype(int))


@pytest.mark.parametrize("readable", [True, False])
def test_resampled_classification_equals_the_metrics_of_the_drawn_rows(readable):
    draw = np.random.default_rng(3)
    truth, answers = draw.integers(0, 3, 90), draw.integers(0 if readable else -1, 3, 90)
    counts = np.concatenate([np.ones((1, 90), dtype=np.float32), draw_counts(90, resamples=20)])
    found = score_resamples(CLASSES, truth, answers, counts)
    by_class = {class_f1(number): label for number, label in enumerate(LABELS)}
    assert set(found) == {"accuracy", "macro_f1", "uar", "weighted_f1", *by_class}
    for place, one in enumerate(counts):
        rows = rows_of(one)
        names = [LABELS[number] for number in truth[rows]]
        read = [None if number < 0 else LABELS[number] for number in answers[rows]]
        expected = classification_metrics(names, read, LABELS)
        expected |= {key: expected["per_class"][name]["f1"] for key, name in by_class.items()}
        for key, values in found.items():
            assert values[place] == pytest.approx(expected[key], abs=1e-6), key


@pytest.mark.parametrize("protocol", ["mosi", "sims"])
@pytest.mark.parametrize("unreadable", [0, 7])
def test_resampled_regression_equals_the_metrics_of_the_drawn_rows(protocol, unreadable):
    draw = np.random.default_rng(4)
    truth = np.round(draw.uniform(-1.2, 1.2, 80), 1)
    answers = truth + draw.normal(0, 0.7, 80)
    answers[10:20] = 0.0
    answers[:unreadable] = math.nan
    counts = np.concatenate([np.ones((1, 80), dtype=np.float32), draw_counts(80, resamples=20)])
    found = score_resamples(regression_statistics(protocol), truth, answers, counts)
    whole = regression_metrics(truth, answers, protocol)
    assert set(found) == {key for key, value in whole.items() if isinstance(value, float)}
    for place, one in enumerate(counts):
        rows = rows_of(one)
        expected = regression_metrics(truth[rows], answers[rows], protocol)
        for key, values in found.items():
            assert values[place] == pytest.approx(expected[key], abs=2e-5), key


def test_what_is_undefined_stays_so():
    truth, constant = np.array([0.0, 0.0, 0.0]), np.array([0.3, 0.3, 0.3])
    ones = np.ones((1, 3), dtype=np.float32)
    found = score_resamples(regression_statistics("mosi"), truth, constant, ones)
    assert math.isnan(found["corr"][0])
    assert math.isnan(found["acc2_non0"][0])
    assert interval(found["corr"]) is None
    nothing = np.full(3, math.nan)
    found = score_resamples(regression_statistics("sims"), truth, nothing, ones)
    assert math.isnan(found["mae"][0])
    assert found["acc2"][0] == 0.0


def test_draws_are_rows_with_replacement_and_repeatable():
    counts = draw_counts(50, resamples=400, seed=9)
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean() == 1.0
    assert counts.var() == pytest.approx(1.0, abs=0.05), "near Poisson, as a bootstrap's are"
    assert np.array_equal(counts, draw_counts(50, resamples=400, seed=9))
    assert not np.array_equal(counts, draw_counts(50, resamples=400, seed=8))
    with pytest.raises(ValueError, match="0 rows"):
        draw_counts(0)
    with pytest.raises(ValueError, match="2 groups"):
        draw_counts(3, ["a", "b"])


def test_rows_of_a_group_are_drawn_together():
    groups = ["a", "b", "a", "c", "b", "a"]
    counts = draw_counts(6, groups, resamples=300)
    assert (counts[:, [0]] == counts[:, [2, 5]]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all(), "three groups are drawn"


def test_groups_widen_the_interval_of_what_their_rows_share():
    truth = np.zeros(400, dtype=int)
    answers = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 10)
    alone = interval(accuracy_of(truth, answers, draw_counts(400)))
    together = interval(accuracy_of(truth, answers, draw_counts(400, np.arange(400) // 10)))
    assert together[1] - together[0] == pytest.approx((alone[1] - alone[0]) * 10**0.5, rel=0.15)


def test_interval_of_an_accuracy_matches_the_binomial_one():
    truth = np.zeros(400, dtype=int)
    answers = (np.arange(400) >= 300).astype(int)
    low, high = interval(accuracy_of(truth, answers, draw_counts(400)))
    width = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - width, abs=0.008)
    assert high == pytest.approx(0.75 + width, abs=0.008)


def test_a_paired_difference_is_seen_and_none_is_not():
    truth = np.zeros(200, dtype=int)
    good, poor = truth.copy(), truth.copy()
    good[:20], poor[:60] = 1, 1
    counts = draw_counts(200)
    one, two = accuracy_of(truth, good, counts)[None], accuracy_of(truth, poor, counts)[None]
    result = paired_difference(0.2, one, two)
    assert 0.1 < result.low < 0.2 < result.high < 0.3
    assert result.p_value == pytest.approx(2 / 2001)
    assert paired_difference(0.0, one, one).p_value == 1.0


def test_a_test_of_equal_systems_is_seldom_significant():
    draw = np.random.default_rng(1)
    truth = np.zeros(150, dtype=int)
    counts = draw_counts(150, resamples=400)
    hits = 0
    for _ in range(300):
        one, two = (draw.random(150) < 0.3 for _ in range(2))
        scores = [accuracy_of(truth, side.astype(int), counts)[None] for side in (one, two)]
        hits += paired_difference(0.0, *scores).p_value < 0.05
    assert 0.01 < hits / 300 < 0.1


def test_seeds_are_drawn_too():
    flat = np.full((1, 2000), 0.5)
    seeds = np.repeat([[0.4], [0.6]], 2000, axis=1)
    result = paired_difference(0.0, seeds, flat)
    assert (result.low, result.high) == pytest.approx((-0.1, 0.1)), "either seed twice, or both"
    assert result.p_value > 0.4
    assert paired_difference(0.0, np.full((1, 5), math.nan), flat[:, :5]) is None


# Calibration


def test_calibration_error_by_hand():
    probability = np.array([0.95, 0.95, 0.95, 0.95, 0.6, 0.55, 1.0])
    correct = np.array([True, True, True, False, True, False, True])
    found = reliability(probability, correct)
    # bins (.5, .6]: confidence .575, accuracy 1/2; (.9, 1]: confidence .96, accuracy 4/5
    assert found.count.tolist() == [2, 5]
    assert found.confidence == pytest.approx([0.575, 0.96])
    assert found.accuracy == pytest.approx([0.5, 0.8])
    assert found.error == pytest.approx((2 * 0.075 + 5 * 0.16) / 7)


def test_calibration_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="outside"):
        reliability(np.array([1.2]), np.array([True]))
    with pytest.raises(ValueError, match="outside"):
        reliability(np.array([math.nan]), np.array([True]))
    with pytest.raises(ValueError, match="of answers"):
        reliability(np.array([]), np.array([], dtype=bool))


def test_holm_by_hand():
    """0.01 is times 4, 0.02 times 3, 0.03 times 2 but no less than before it, 0.04 likewise."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
