"""Every metric on 10,000 random cases against a computation that shares no line with ours.

The other side is plain Python over lists, written from the protocols: bins by `if`, rounding by
Python's own `round`, moments by `math.fsum`. Cases draw the values where the protocols are subtle:
bin edges in both precisions, ties at .5, exact zeros, constants, values far out of range and
answers that could not be read.
"""

import math
import random

import numpy as np
import pytest

from pipeline.metrics import classification_metrics, regression_metrics

CASES = 10_000
LABELS = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]


def f1_of(truth, answers, classes):
    total = 0.0
    for each in classes:
        support = sum(t == each for t in truth)
        right = sum(t == each and a == each for t, a in zip(truth, answers, strict=True))
        predicted = sum(a == each for a in answers)
        if right:
            precision, recall = right / predicted, right / support
            total += support * (2 * precision * recall / (precision + recall))
    return total / len(truth)


def share(truth, answers):
    return sum(t == a for t, a in zip(truth, answers, strict=True)) / len(truth) if truth else None


def errors_of(truth, answers):
    pairs = [(t, a) for t, a in zip(truth, answers, strict=True) if a == a]
    if not pairs:
        return {"mae": None, "corr": None, "r2": None}
    n = len(pairs)
    mae = math.fsum(abs(t - a) for t, a in pairs) / n
    mean_t = math.fsum(t for t, _ in pairs) / n
    mean_a = math.fsum(a for _, a in pairs) / n
    tt = math.fsum((t - mean_t) ** 2 for t, _ in pairs)
    aa = math.fsum((a - mean_a) ** 2 for _, a in pairs)
    ta = math.fsum((t - mean_t) * (a - mean_a) for t, a in pairs)
    flat_t, flat_a = len({t for t, _ in pairs}) == 1, len({a for _, a in pairs}) == 1
    corr = None if flat_t or flat_a else ta / math.sqrt(tt) / math.sqrt(aa)
    r2 = None if flat_t else 1 - math.fsum((t - a) ** 2 for t, a in pairs) / tt
    return {"mae": mae, "corr": corr, "r2": r2}


def mosi(truth, answers):
    def rounded(value, limit):
        return None if value != value else round(max(-limit, min(limit, value)))

    def sign(value, above):
        return None if value != value else above(value)

    has0 = [[sign(v, lambda x: x >= 0) for v in side] for side in (truth, answers)]
    kept = [(t, a) for t, a in zip(truth, answers, strict=True) if t != 0]
    non0 = [[sign(pair[side], lambda x: x > 0) for pair in kept] for side in (0, 1)]
    errors = errors_of(truth, answers)
    return {
        "mae": errors["mae"],
        "corr": errors["corr"],
        "acc2_has0": share(*has0),
        "f1_has0": f1_of(*has0, (False, True)),
        "acc2_non0": share(*non0),
        "f1_non0": f1_of(*non0, (False, True)) if kept else None,
        "acc5": share(*([rounded(v, 2) for v in side] for side in (truth, answers))),
        "acc7": share(*([rounded(v, 3) for v in side] for side in (truth, answers))),
    }


def sims(truth, answers):
    def clipped(value):
        return value if value != value else max(-1.0, min(1.0, value))

    def bin_of(value, *edges):
        if value != value:
            return None
        # Labels are released in float32; to that precision 0.1 is 0.1 and belongs below the edge.
        return sum(value > edge + 4e-8 for edge in edges)

    truth, answers = [clipped(v) for v in truth], [clipped(v) for v in answers]

    def classes(*edges):
        return [[bin_of(v, *edges) for v in side] for side in (truth, answers)]

    two = classes(0.0)
    weak = [i for i, t in enumerate(truth) if -0.4 - 4e-8 <= t <= 0.4 + 4e-8]
    return {
        **errors_of(truth, answers),
        "acc2": share(*two),
        "f1": f1_of(*two, (0, 1)),
        "acc2_weak": share(*([side[i] for i in weak] for side in two)),
        "acc3": share(*classes(-0.1, 0.1)),
        "acc5": share(*classes(-0.7, -0.1, 0.1, 0.7)),
    }


def scores_drawn(draw, limit, size):
    """Draw a truth and answers: labels on their grid, answers of every awkward kind."""
    grid = [step / 10 for step in range(-10 * limit, 10 * limit + 1)]
    thirds = [step / 3 for step in range(-3 * limit, 3 * limit + 1)]
    labels = draw.choice([grid, grid, thirds, [draw.choice(grid)]])
    truth = [draw.choice(labels) for _ in range(size)]
    if draw.random() < 0.5:
        truth = [float(np.float32(value)) for value in truth]
    kind = draw.random()
    if kind < 0.1:
        answers = [draw.choice([0.0, -0.0, draw.uniform(-limit, limit)])] * size
    else:
        answers = [t + draw.gauss(0, limit / 2) for t in truth]
        for place in range(size):
            if draw.random() < 0.4:
                edge = draw.choice([*grid, 0.0, -0.0, 0.5, 1.5, -2.5, 9.0, -9.0, math.nan])
                answers[place] = float(np.float32(edge)) if kind < 0.5 else edge
    return truth, answers


@pytest.mark.parametrize(("protocol", "limit", "other"), [("mosi", 3, mosi), ("sims", 1, sims)])
def test_regression_on_random_cases(protocol, limit, other):
    draw = random.Random(20260)
    for case in range(CASES):
        truth, answers = scores_drawn(draw, limit, draw.randint(1, 24))
        found = regression_metrics(np.array(truth), np.array(answers), protocol)
        for name, expected in other(truth, answers).items():
            if expected is None:
                assert found[name] is None, (case, name, truth, answers)
            else:
                close = found[name] is not None and abs(found[name] - expected) <= 1e-9
                assert close, (case, name, found[name], expected, truth, answers)
        assert found["exact_zeros"] == sum(a == 0 for a in answers)
        assert found["unreadable_regression"] == sum(a != a for a in answers)


def test_classification_on_random_cases():
    draw = random.Random(20261)
    for case in range(CASES):
        labels = LABELS[: draw.randint(2, 7)]
        size = draw.randint(1, 24)
        truth = [draw.choice(labels) for _ in range(size)]
        skill = draw.random()
        answers = [t if draw.random() < skill else draw.choice([*labels, None]) for t in truth]
        found = classification_metrics(truth, answers, labels)
        each = {label: f1_of(truth, answers, [label]) * size for label in labels}
        support = {label: truth.count(label) for label in labels}
        recalls = [
            sum(t == a == label for t, a in zip(truth, answers, strict=True)) / support[label]
            for label in labels
            if support[label]
        ]
        expected = {
            "accuracy": share(truth, answers),
            "weighted_f1": f1_of(truth, answers, labels),
            "macro_f1": sum(each[x] / support[x] for x in labels if support[x]) / len(labels),
            "uar": sum(recalls) / len(recalls),
        }
        for name, value in expected.items():
            assert abs(found[name] - value) <= 1e-9, (case, name, truth, answers)
