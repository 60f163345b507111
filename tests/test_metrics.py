"""Metrics against hand-computed cases, direct formulas and the trivial scores of real labels."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import confusion_matrix, f1_score, r2_score, recall_score

from pipeline.metrics import (
    classification_metrics,
    majority_baseline,
    median_baseline,
    regression_metrics,
)
from pipeline.metrics.regression import (
    SIMS_EDGES_2,
    SIMS_EDGES_3,
    SIMS_EDGES_5,
    binned,
    non_negative,
    positive,
    rounded,
    weak_sentiment,
)

LABELS = ["neutral", "joy", "anger"]
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def array(*values):
    return np.array(values, dtype=np.float64)


# Classification


def test_classification_by_hand():
    truth = ["neutral", "neutral", "neutral", "joy", "joy", "anger"]
    answers = ["neutral", "neutral", "joy", "joy", None, "neutral"]
    scores = classification_metrics(truth, answers, LABELS)
    assert scores["accuracy"] == pytest.approx(3 / 6)
    assert scores["confusion"] == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert scores["unreadable_classification"] == 1
    assert scores["n_classification"] == 6
    assert scores["per_class"]["neutral"]["precision"] == pytest.approx(2 / 3)
    assert scores["per_class"]["joy"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2}
    )
    assert scores["per_class"]["anger"]["f1"] == 0.0
    assert scores["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 0) / 6)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores["uar"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_weights_of_f1_come_from_the_truth():
    truth, answers = ["neutral"] * 3 + ["joy"], ["neutral", "joy", "joy", "joy"]
    scores = classification_metrics(truth, answers, LABELS)
    # F1 of neutral 2*1*(1/3)/(4/3) = 1/2, of joy 2*(1/3)*1/(4/3) = 1/2
    assert scores["weighted_f1"] == pytest.approx(0.5)
    truth, answers = ["neutral"] * 3 + ["joy"], ["neutral"] * 4
    scores = classification_metrics(truth, answers, LABELS)
    assert scores["weighted_f1"] == pytest.approx(3 / 4 * (2 * 0.75 / 1.75))


def test_absent_class_counts_in_the_macro_average():
    scores = classification_metrics(["joy", "joy"], ["joy", "joy"], LABELS)
    assert scores["macro_f1"] == pytest.approx(1 / 3)
    assert scores["weighted_f1"] == 1.0
    assert scores["uar"] == 1.0, "a label without a row has no recall to average"


def test_classification_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="surprise"):
        classification_metrics(["joy"], ["surprise"], LABELS)
    with pytest.raises(ValueError, match="surprise"):
        classification_metrics(["surprise"], ["joy"], LABELS)
    with pytest.raises(ValueError, match="2 true labels"):
        classification_metrics(["joy", "joy"], ["joy"], LABELS)
    with pytest.raises(ValueError, match="0 true labels"):
        classification_metrics([], [], LABELS)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1))
def test_classification_agrees_with_counting(pairs):
    truth, answers = zip(*pairs, strict=True)
    scores = classification_metrics(truth, answers, LABELS)
    f1, support = [], []
    for label in LABELS:
        hit = sum(t == label and a == label for t, a in pairs)
        total = truth.count(label) + answers.count(label)
        f1.append(2 * hit / total if total else 0.0)
        support.append(truth.count(label))
    assert scores["accuracy"] == pytest.approx(sum(t == a for t, a in pairs) / len(pairs), abs=1e-9)
    assert scores["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-9)
    assert scores["weighted_f1"] == pytest.approx(np.dot(f1, support) / len(pairs), abs=1e-9)
    assert np.sum(scores["confusion"]) + answers.count(None) == len(pairs)


def test_classification_agrees_with_scikit_learn():
    draw = np.random.default_rng(11)
    for _ in range(300):
        size = int(draw.integers(1, 60))
        truth, answers = draw.choice(LABELS, size), draw.choice(LABELS, size)
        scores = classification_metrics(truth.tolist(), answers.tolist(), LABELS)
        for name, average in (("weighted_f1", "weighted"), ("macro_f1", "macro")):
            expected = f1_score(truth, answers, labels=LABELS, average=average, zero_division=0.0)
            assert scores[name] == pytest.approx(expected, abs=1e-9)
        expected = recall_score(truth, answers, labels=np.unique(truth), average="macro")
        assert scores["uar"] == pytest.approx(expected, abs=1e-9)
        expected = confusion_matrix(truth, answers, labels=LABELS)
        assert scores["confusion"] == expected.tolist()


# The MOSI family


def test_rounding_is_half_to_even_after_clipping():
    scores = array(-9, -2.5, -1.5, -0.5, -0.4, 0.5, 1.5, 2.5, 2.51, 9)
    assert rounded(scores, 3).tolist() == [0, 1, 1, 3, 3, 3, 5, 5, 6, 6]
    assert rounded(scores, 2).tolist() == [0, 0, 0, 2, 2, 2, 4, 4, 4, 4]


def test_zero_is_non_negative_but_not_positive():
    scores = array(-0.1, -0.0, 0.0, 0.1, math.nan)
    assert non_negative(scores).tolist() == [0, 1, 1, 1, -1]
    assert positive(scores).tolist() == [0, 0, 0, 1, -1]


def test_mosi_by_hand():
    truth = array(-2.0, -1.0, 0.0, 1.0, 3.0)
    answers = array(-3.4, 0.0, 0.0, 0.0, 2.6)
    scores = regression_metrics(truth, answers, "mosi")
    assert scores["acc2_has0"] == pytest.approx(4 / 5)
    assert scores["acc2_non0"] == pytest.approx(3 / 4)
    assert scores["acc7"] == pytest.approx(2 / 5)
    assert scores["acc5"] == pytest.approx(3 / 5)
    assert scores["mae"] == pytest.approx((1.4 + 1 + 0 + 1 + 0.4) / 5), "not clipped"
    assert scores["f1_has0"] == pytest.approx((2 * (2 / 3) + 3 * (6 / 7)) / 5)
    assert scores["f1_non0"] == pytest.approx((2 * 0.8 + 2 * (2 / 3)) / 4)
    assert scores["exact_zeros"] == 3
    assert scores["n_regression"] == 5


def test_mosi_correlation_is_not_clipped():
    truth, answers = array(-3, 0, 3), array(-3, 0, 30)
    scores = regression_metrics(truth, answers, "mosi")
    assert scores["corr"] == pytest.approx(pearsonr(truth, answers).statistic)
    assert scores["corr"] < 0.95


@pytest.mark.parametrize("protocol", ["mosi", "sims"])
def test_constant_prediction_has_no_correlation(protocol):
    scores = regression_metrics(array(-1, 0, 1), array(0.3, 0.3, 0.3), protocol)
    assert scores["corr"] is None
    assert scores["mae"] == pytest.approx((1.3 + 0.3 + 0.7) / 3)


def test_only_zero_truths_leave_non0_undefined():
    scores = regression_metrics(array(0, 0), array(0.5, -0.5), "mosi")
    assert scores["acc2_non0"] is None
    assert scores["f1_non0"] is None
    assert scores["acc2_has0"] == 0.5


def test_unreadable_is_wrong_in_accuracies_and_outside_the_error():
    truth, answers = array(-1.0, 1.0, 2.0, 0.0), array(-1.0, math.nan, 1.0, math.nan)
    scores = regression_metrics(truth, answers, "mosi")
    assert scores["unreadable_regression"] == 2
    assert scores["mae"] == pytest.approx(0.5)
    assert scores["acc2_has0"] == pytest.approx(2 / 4)
    assert scores["acc2_non0"] == pytest.approx(2 / 3)
    assert scores["acc7"] == pytest.approx(1 / 4)
    assert scores["f1_has0"] == pytest.approx((1 * 1 + 3 * (2 * 1 * (1 / 3) / (4 / 3))) / 4)
    assert scores["exact_zeros"] == 0
    nothing = regression_metrics(truth, np.full(4, math.nan), "sims")
    assert (nothing["mae"], nothing["corr"], nothing["r2"]) == (None, None, None)
    assert nothing["acc2"] == nothing["f1"] == nothing["acc3"] == nothing["acc5"] == 0.0


def test_regression_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="against"):
        regression_metrics(array(1, 2), array(1), "mosi")
    with pytest.raises(ValueError, match="against"):
        regression_metrics(array(), array(), "mosi")
    with pytest.raises(ValueError, match="finite"):
        regression_metrics(array(math.nan), array(1), "mosi")
    with pytest.raises(ValueError, match="finite"):
        regression_metrics(array(1), array(math.inf), "sims")
    with pytest.raises(ValueError, match="emotion"):
        regression_metrics(array(1), array(1), "emotion")


# The SIMS family


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_right_closed_in_either_precision(dtype):
    grid = np.array([-1, -0.8, -0.7, -0.6, -0.2, -0.1, 0, 0.1, 0.2, 0.7, 0.8, 1], dtype=dtype)
    scores = grid.astype(np.float64)
    assert binned(scores, SIMS_EDGES_2).tolist() == [0] * 7 + [1] * 5
    assert binned(scores, SIMS_EDGES_3).tolist() == [0] * 6 + [1] * 2 + [2] * 4
    assert binned(scores, SIMS_EDGES_5).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]


def test_bins_just_beyond_each_edge():
    for edges in (SIMS_EDGES_2, SIMS_EDGES_3, SIMS_EDGES_5):
        for number, edge in enumerate(edges[1:-1]):
            below, above = edge - 1e-4, edge + 1e-4
            assert binned(array(below, edge, above), edges).tolist() == [number, number, number + 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weak_set_holds_its_own_edges(dtype):
    grid = np.array([-0.5, -0.4, -0.1, 0.0, 0.4, 0.41], dtype=dtype).astype(np.float64)
    assert weak_sentiment(grid).tolist() == [False, True, True, True, True, False]


def test_sims_by_hand():
    truth = array(-0.8, -0.4, 0.0, 0.4, 1.0)
    answers = array(-1.6, 0.1, -0.1, 0.3, 1.2)
    scores = regression_metrics(truth, answers, "sims")
    assert scores["acc2"] == pytest.approx(4 / 5)
    assert scores["f1"] == pytest.approx((3 * 0.8 + 2 * 0.8) / 5)
    assert scores["acc2_weak"] == pytest.approx(2 / 3)
    assert scores["acc3"] == pytest.approx(3 / 5)
    assert scores["acc5"] == pytest.approx(3 / 5)
    assert scores["mae"] == pytest.approx((0.2 + 0.5 + 0.1 + 0.1 + 0) / 5), "clipped"
    residual = 0.2**2 + 0.5**2 + 0.1**2 + 0.1**2
    total = sum((y - 0.04) ** 2 for y in truth)
    assert scores["r2"] == pytest.approx(1 - residual / total)


def test_no_weak_row_leaves_the_weak_accuracy_undefined():
    assert regression_metrics(array(-1, 1), array(-1, 1), "sims")["acc2_weak"] is None
    assert regression_metrics(array(1, 1), array(0, 1), "sims")["r2"] is None


# Both families against direct formulas


def direct_mosi(truth, answers):
    kept = truth != 0
    return {
        "mae": np.abs(truth - answers).mean(),
        "corr": pearsonr(truth, answers).statistic,
        "acc2_has0": np.mean((answers >= 0) == (truth >= 0)),
        "f1_has0": f1_score(truth >= 0, answers >= 0, average="weighted", zero_division=0),
        "acc2_non0": np.mean((answers[kept] > 0) == (truth[kept] > 0)),
        "f1_non0": f1_score(truth[kept] > 0, answers[kept] > 0, average="weighted"),
        "acc5": np.mean(np.round(np.clip(answers, -2, 2)) == np.round(np.clip(truth, -2, 2))),
        "acc7": np.mean(np.round(np.clip(answers, -3, 3)) == np.round(np.clip(truth, -3, 3))),
    }


def direct_sims(truth, answers):
    truth, answers = np.clip(truth, -1, 1), np.clip(answers, -1, 1)

    def classes(values, edges):
        result = np.full(len(values), -1)
        for number in range(len(edges) - 1):
            result[(values > edges[number]) & (values <= edges[number + 1])] = number
        return result

    two = classes(truth, [-1.01, 0, 1.01]), classes(answers, [-1.01, 0, 1.01])
    weak = (truth >= -0.4) & (truth <= 0.4)
    scores = {
        "mae": np.abs(truth - answers).mean(),
        "corr": pearsonr(truth, answers).statistic,
        "r2": r2_score(truth, answers),
        "acc2": np.mean(two[0] == two[1]),
        "f1": f1_score(*two, average="weighted"),
        "acc2_weak": np.mean(two[0][weak] == two[1][weak]),
    }
    for name, edges in {
        "acc3": [-1.01, -0.1, 0.1, 1.01],
        "acc5": [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01],
    }.items():
        scores[name] = np.mean(classes(truth, edges) == classes(answers, edges))
    return scores


@pytest.mark.parametrize(
    ("protocol", "limit", "direct"), [("mosi", 3, direct_mosi), ("sims", 1, direct_sims)]
)
def test_regression_agrees_with_direct_formulas(protocol, limit, direct):
    draw = np.random.default_rng(7)
    for _ in range(300):
        size = int(draw.integers(12, 80))
        truth = np.round(draw.uniform(-limit, limit, size), 1)
        truth[:2] = 0.2, -0.3  # both signs and the weak set occur
        answers = truth + draw.normal(0, limit / 2, size)
        answers[draw.random(size) < 0.2] = 0.0
        scores = regression_metrics(truth, answers, protocol)
        for name, expected in direct(truth, answers).items():
            assert scores[name] == pytest.approx(expected, abs=1e-9), name


# Baselines


def test_majority_baseline_is_fitted_on_the_training_split():
    scores = majority_baseline(["joy", "joy", "anger"], ["joy", "anger", "anger"], LABELS)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    tie = majority_baseline(["anger", "joy"], ["joy", "anger", "joy"], LABELS)
    assert tie["accuracy"] == pytest.approx(2 / 3), "a tie goes to the label that stands first"


def test_median_baseline_is_fitted_on_the_training_split():
    scores = median_baseline(array(-1, 0.4, 0.6), array(0.4, -0.6), "sims")
    assert scores["mae"] == pytest.approx(0.5)
    assert scores["corr"] is None


# Trivial scores of the real label lists


@pytest.fixture
def real_labels():
    if not (REAL / "labels").is_dir():
        pytest.skip("the public label lists are not here")

    def read(name, split="test"):
        with (REAL / "labels" / name / "label.csv").open(encoding="utf-8", newline="") as file:
            return array(
                *(float(row["val"]) for row in csv.DictReader(file) if row["split"] == split)
            )

    return read


def percent(score):
    return round(100 * score, 2)


def best_constant(truth, protocol, metric, limit):
    return max(
        regression_metrics(truth, np.full(len(truth), value), protocol)[metric]
        for value in np.linspace(-limit, limit, 20 * limit + 1)
    )


def test_mosei_trivial_scores(real_labels):
    truth = real_labels("cmumosei")
    scores = regression_metrics(truth, np.zeros(4659), "mosi")
    assert percent(scores["acc2_has0"]) == 71.02
    assert percent(scores["acc7"]) == percent(scores["acc5"]) == 41.36
    assert percent(regression_metrics(truth, np.ones(4659), "mosi")["acc2_non0"]) == 62.85
    assert (
        round(median_baseline(real_labels("cmumosei", "train"), truth, "mosi")["mae"], 3) == 0.838
    )


def test_mosi_trivial_scores(real_labels):
    truth = real_labels("cmumosi")
    scores = regression_metrics(truth, np.full(686, -1.0), "mosi")
    assert percent(scores["acc2_has0"]) == 55.25
    assert percent(scores["acc2_non0"]) == 57.77
    assert percent(best_constant(truth, "mosi", "acc7", 3)) == 22.74
    assert round(median_baseline(truth, truth, "mosi")["mae"], 3) == 1.379


def test_sims_trivial_scores(real_labels):
    scores = regression_metrics(real_labels("sims"), np.full(457, -0.5), "sims")
    assert percent(scores["acc2"]) == 69.37
    assert percent(scores["f1"]) == 56.82


def test_simsv2_trivial_scores(real_labels):
    truth = real_labels("simsv2")
    scores = regression_metrics(truth, np.full(1034, -0.5), "sims")
    assert percent(scores["acc2"]) == 59.09
    assert round(100 * best_constant(truth, "sims", "acc3", 1), 1) == 47.2
    assert round(100 * best_constant(truth, "sims", "acc5", 1), 1) == 27.3
    weak = regression_metrics(truth, truth, "sims")
    assert weak["acc2_weak"] == weak["acc5"] == 1.0
    assert int(weak_sentiment(truth).sum()) == 462
    assert int(weak_sentiment(truth.astype(np.float32).astype(np.float64)).sum()) == 462


def test_meld_trivial_scores():
    if not (REAL / "meld").is_dir():
        pytest.skip("the public MELD tables are not here")
    splits = {}
    for split in ("train", "test"):
        path = REAL / "meld" / f"{split}_sent_emo.csv"
        with path.open(encoding="utf-8", newline="") as file:
            splits[split] = [row["Emotion"] for row in csv.DictReader(file)]
    labels = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
    scores = majority_baseline(splits["train"], splits["test"], labels)
    assert percent(scores["accuracy"]) == 48.12
    assert percent(scores["weighted_f1"]) == 31.27
    assert percent(scores["macro_f1"]) == 9.28
