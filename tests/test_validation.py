"""What epochs are compared by, and what is said where there is nothing to compare them by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from extract.table import read_table, write_table
from pipeline import validation
from pipeline.errors import PipelineError
from pipeline.evaluation import Scored, score
from pipeline.parts import Task
from pipeline.validation import selection_value
from tests.test_joint import both, requests  # noqa: F401
from tests.test_selection import log_of, settings
from tests.test_training import request, result_of, run

BOTH = Task(("classification", "regression"), ("anger", "joy"), 2.0, "mosi", {})
LABELS = Task(("classification",), ("anger", "joy"), 1.0, "emotion", {})


def test_the_criterion_by_hand() -> None:
    assert selection_value({"weighted_f1": 0.75, "mae": 0.5}, BOTH) == 0.5
    assert selection_value({"weighted_f1": 0.75, "mae": 0.5}, LABELS) == 0.75


@pytest.mark.parametrize("metrics", [{"weighted_f1": 0.75}, {"weighted_f1": 0.75, "mae": None}])
def test_what_is_missing_or_undefined_is_no_number(metrics: dict[str, float]) -> None:
    assert math.isnan(selection_value(metrics, BOTH))
    assert selection_value(metrics, LABELS) == 0.75


def change_table(toy: Path, rows: str, **columns: None) -> None:
    """Give all rows of a split other values."""
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    for name, value in columns.items():
        table.loc[table["split"] == rows, name] = value
    write_table(table, path)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_without_one_of_the_tasks_is_said_before_anything_is_made(
    toy: Path, toy_llm: Path, split: str
) -> None:
    change_table(toy, split, score=None)
    said = rf"^'toy': no utterance of the split '{split}' has a score, which regression needs; .*"
    with pytest.raises(PipelineError, match=rf"{said}--tasks classification") as error:
        run(request(toy, toy_llm))
    assert ("--select last" in str(error.value)) == (split == "valid")
    with pytest.raises(PipelineError, match="no utterance in en of the split"):
        run(request(toy, toy_llm, languages=("en",)))
    assert not (toy / "runs").exists()
    alone = settings(epochs=1)
    labels = request(toy, toy_llm, settings=alone, tasks=("classification",), modalities=("text",))
    assert result_of(run(labels))["valid"]["n_classification"] == 16


def test_no_label_at_all_is_nothing_to_train_on(toy: Path, toy_llm: Path) -> None:
    change_table(toy, "train", label=None, score=None)
    for select in ("best", "last"):
        wanted = request(toy, toy_llm, settings=settings(select=select))
        with pytest.raises(PipelineError, match="split 'train' has a label, which classification"):
            run(wanted)


def test_last_scores_a_dataset_that_validates_one_task_alone(toy: Path, toy_llm: Path) -> None:
    change_table(toy, "valid", score=None)
    wanted = request(toy, toy_llm, settings=settings(select="last", epochs=1))
    folder = run(wanted)
    assert [line["selection"] for line in log_of(folder.path, "epoch")] == [None]
    assert "mae" not in result_of(folder)["valid"]


def test_a_fold_that_cannot_be_validated_is_named(toy: Path, toy_llm: Path) -> None:
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    table["speaker"] = [("A", "B", "C")[row % 3] for row in range(len(table))]
    table.loc[table["speaker"] == "B", "score"] = None
    write_table(table, path)
    said = r"^--folds speaker, A as the test split: 'toy': no utterance of the split 'valid' has a"
    with pytest.raises(PipelineError, match=said):
        run(request(toy, toy_llm, folds="speaker"))
    assert not (toy / "runs").exists()


def test_a_joint_run_checks_each_dataset(
    both: Path,  # noqa: F811
    toy_llm: Path,
) -> None:
    from pipeline.joint import run_joint

    path = both / "cache" / "deux" / "utterances.parquet"
    table: pd.DataFrame = read_table(path)
    table.loc[table["split"] == "valid", "label"] = None
    write_table(table, path)
    with pytest.raises(PipelineError, match="'deux': no utterance of the split 'valid' has a lab"):
        run_joint(requests(both, toy_llm), lambda *_: None, lambda line: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("tasks", [(), ("classification",)])
def test_a_model_whose_scores_are_no_numbers_is_never_kept(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch, tasks: tuple[str, ...]
) -> None:
    """Its first label would be predicted all the same, and count as one that was read."""
    epochs = iter(range(100))

    def spoiled(*arguments: Any) -> list[Scored]:
        found = score(*arguments)
        if next(epochs) in diverged:
            found[3].log_scores[:] = math.nan
        return found

    monkeypatch.setattr(validation, "score", spoiled)
    wanted = request(toy, toy_llm, settings=settings(), tasks=tasks, modalities=("text",))
    diverged = {1, 2}
    folder = run(wanted)
    values = [line["selection"] for line in log_of(folder.path, "epoch")]
    assert values[0] is not None
    assert values[1:] == [None, None]
    assert result_of(folder)["best_epoch"] == 1
    diverged = set(range(100))
    with pytest.raises(PipelineError, match=r"no epoch had a finite .*lower --set fusion_lr"):
        run(request(toy, toy_llm, settings=settings(), tasks=tasks, experiment="lost"))


def test_rates_that_blow_up_in_a_short_epoch_end_in_a_plain_message(
    toy: Path, toy_llm: Path
) -> None:
    """Fewer steps an epoch than may be skipped, so that validation sees the diverged model."""
    wild = settings(fusion_lr=1e30, lora_lr=1e30, warmup=0.0, max_skipped=100, epochs=1)
    with pytest.raises(PipelineError, match="no epoch had a finite score"):
        run(request(toy, toy_llm, settings=wild))
