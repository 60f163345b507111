"""From the probabilities of all answers to a decision."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation import (
    Scored,
    decision_without_writing,
    median_of,
    prediction_table,
    read_answer,
)
from pipeline.items import Question, Utterance

GRID = (-1.0, 0.0, 1.0)
QUESTION = Question("regression", "en", ("Score:",), ("-1.0", "0.0", "+1.0"), GRID, {})
ASKED = Utterance("a", "test", "en", None, None, 0.5)


def scored(*probabilities: float, written: str | None = None) -> Scored:
    nothing = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    return Scored(ASKED, QUESTION, np.log(np.array(probabilities)), written, *nothing)


@pytest.mark.parametrize(
    ("decision", "expected"), [("expectation", 0.3), ("median", 0.0), ("argmax", 1.0)]
)
def test_numbers_by_hand(decision: str, expected: float) -> None:
    table = prediction_table([scored(0.15, 0.4, 0.45)], (), ("text",), decision, {})
    assert table["prediction"].tolist() == pytest.approx([expected])
    answer, probability = ("0.0", 0.4) if decision == "median" else ("+1.0", 0.45)
    assert table["answer"].tolist() == [answer]
    assert table["probability"].tolist() == pytest.approx([probability])
    assert not [column for column in table if column.startswith("gate_")]


@pytest.mark.parametrize(
    ("probabilities", "place"), [((0.6, 0.3, 0.1), 0), ((0.5, 0.2, 0.3), 0), ((0.1, 0.1, 0.8), 2)]
)
def test_the_median_is_where_half_is_reached(probabilities: tuple[float, ...], place: int) -> None:
    assert median_of(np.array(probabilities)) == place


def test_free_writing_is_read_or_counted() -> None:
    table = prediction_table(
        [scored(0.2, 0.2, 0.6, written="0.0"), scored(0.2, 0.2, 0.6, written="perhaps")],
        (),
        ("text",),
        "generate",
        {},
    )
    assert table["valid"].tolist() == [True, False]
    assert table["prediction"].tolist()[0] == 0.0
    assert table["probability"].tolist() == pytest.approx([0.2, np.nan], nan_ok=True)
    assert read_answer(QUESTION, "+1.0") == 1.0


def test_what_is_not_written_is_decided_by_probability() -> None:
    assert decision_without_writing("generate") == "expectation"
    assert decision_without_writing("median") == "median"
