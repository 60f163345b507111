"""Predictions that are no better than a constant are said so, loudly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from pipeline.commands import train
from pipeline.probes import collapse_alarms
from pipeline.runs import RunFolder


def labels(predictions: Sequence[str | None], truth: Sequence[str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": "classification",
            "prediction": list(predictions),
            "truth": list(truth),
            "valid": [each is not None for each in predictions],
        }
    )


def numbers(predictions: Sequence[float], truth: Sequence[float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {"task": "regression", "prediction": predictions, "truth": truth, "valid": True}
    )


MAJORITY = {"majority": {"accuracy": 0.5}, "median": {"mae": 1.0}}


@pytest.mark.parametrize(
    ("table", "metrics", "alarm"),
    [
        (labels("aaaa", "abab"), {"accuracy": 0.5}, "collapsed: 100% of all answers are 'a'"),
        (labels("abba", "abab"), {"accuracy": 0.5}, "accuracy 0.500 does not exceed"),
        (labels([None] * 4, "abab"), {"accuracy": 0.0}, "100% of the classification answers can"),
        (numbers([0.5] * 4, [-3, 3, -3, 3]), {"mae": 3.0}, "all numbers lie within 0.00 of"),
        (numbers([3, -3, 3, -3], [-3, 3, -3, 3]), {"mae": 6.0}, "MAE 6.000 is no better than"),
    ],
)
def test_what_is_trivial_is_said(
    table: pd.DataFrame, metrics: dict[str, float], alarm: str
) -> None:
    (found,) = collapse_alarms(table, metrics, MAJORITY)
    assert alarm in found


@pytest.mark.parametrize(
    ("table", "metrics"),
    [
        (labels("abab", "abab"), {"accuracy": 1.0}),
        (labels("abab", [None] * 4), {}),  # nothing is known of these rows
        (numbers([-2, 2, -2, 2], [-3, 3, -3, 3]), {"mae": 0.9}),
        (numbers([-2, 2, -2, 2], [None] * 4), {}),
    ],
)
def test_what_is_better_is_not(table: pd.DataFrame, metrics: dict[str, float]) -> None:
    assert collapse_alarms(table, metrics, MAJORITY) == []


def test_alarms_are_shown_also_where_all_else_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path)
    run.result.write_text(
        json.dumps({"valid": {}, "test": {"accuracy": 0.2}, "alarms": ["collapsed: all"]})
    )
    train._show([run], as_json=True)
    out, err = capsys.readouterr()
    assert err == f"ALARM: {tmp_path}: collapsed: all\n"
    assert json.loads(out)[0]["alarms"] == ["collapsed: all"]
