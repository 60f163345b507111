"""Leave-one-group-out: who is tested when, what is pooled, how it resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from extract.table import read_table, write_table
from pipeline.errors import PipelineError
from pipeline.experiment import run_experiment
from pipeline.folds import make_folds
from pipeline.prediction import open_run
from pipeline.report.load import load_runs
from pipeline.settings import TrainSettings
from pipeline.sources import Source, open_corpus
from tests.test_training import SETTINGS, Killed, request, result_of, run

SPEAKERS = ("A", "B", "C")


def settings(select: str) -> TrainSettings:
    return TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1, "select": select})


@pytest.fixture
def spoken(toy: Path) -> Path:
    """Give the toy corpus three speakers in turn and leave its last row without labels."""
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    table["speaker"] = [SPEAKERS[row % 3] for row in range(len(table))]
    table.loc[len(table) - 1, ["split", "label", "score"]] = ["unlabelled", None, None]
    write_table(table, path)
    return toy


def open_toy(toy: Path):  # type: ignore[no-untyped-def]
    source = Source("toy", toy / "cache", (), {}, toy / "toy.yaml")
    return open_corpus(source, (), lambda line: None)


def test_every_labelled_row_is_tested_once_and_never_trained_on(spoken: Path) -> None:
    folds = make_folds(open_toy(spoken), "speaker", validate=True)
    assert [(fold.test, fold.valid) for fold in folds] == [("A", "B"), ("B", "C"), ("C", "A")]
    tested: list[str] = []
    for fold in folds:
        rows = fold.corpus.utterances
        assert {each.speaker for each in rows["test"]} == {fold.test}
        assert {each.speaker for each in rows["valid"]} == {fold.valid}
        assert {each.speaker for each in rows["train"]} == {*SPEAKERS} - {fold.test, fold.valid}
        assert all(each.split == name for name, part in rows.items() for each in part)
        tested += [each.id for each in rows["test"]]
    assert len(tested) == len(set(tested)) == 95
    last = make_folds(open_toy(spoken), "speaker", validate=False)
    assert [len(fold.corpus.utterances["valid"]) for fold in last] == [0, 0, 0]
    assert {each.speaker for each in last[0].corpus.utterances["train"]} == {"B", "C"}


def test_unlabelled_rows_stay_but_for_those_of_the_test_and_validation_values(
    spoken: Path,
) -> None:
    """The one there is, of speaker C, may be pre-trained on where C is trained on."""
    folds = make_folds(open_toy(spoken), "speaker", validate=True)
    found = [[each.speaker for each in fold.corpus.utterances["unlabelled"]] for fold in folds]
    assert found == [["C"], [], []]


def test_what_cannot_be_folded_is_said(spoken: Path) -> None:
    corpus = open_toy(spoken)
    with pytest.raises(PipelineError, match=r"--folds speakers: no such column.*'speaker'"):
        make_folds(corpus, "speakers", validate=True)
    with pytest.raises(PipelineError, match=r"has 2 of them .*--select last two are enough"):
        make_folds(corpus, "language", validate=True)
    assert len(make_folds(corpus, "language", validate=False)) == 2
    path = spoken / "cache" / "toy" / "utterances.parquet"
    write_table(read_table(path).assign(speaker=None), path)
    with pytest.raises(PipelineError, match=r"95 of 95 labelled .* \(first: train-00\)"):
        make_folds(open_toy(spoken), "speaker", validate=True)


def test_folds_are_pooled_into_one_result(spoken: Path, toy_llm: Path) -> None:
    wanted = request(spoken, toy_llm, settings=settings("best"), folds="speaker")
    folder = run(wanted)
    assert folder.path.parts[-2:] == ("egmf-folds-speaker", "seed-1")
    result = result_of(folder)
    assert [each["test"] for each in result["folds"]] == list(SPEAKERS)
    assert sum(each["n_classification"] for each in result["folds"]) == 95
    counts = [each["n_classification"] for each in result["folds"]]
    right = np.average([each["accuracy"] for each in result["folds"]], weights=counts)
    assert result["test"]["accuracy"] == pytest.approx(right)
    errors = np.average([each["mae"] for each in result["folds"]], weights=counts)
    assert result["test"]["mae"] == pytest.approx(errors)
    assert 0 <= result["folds"][0]["uar"] <= 1
    assert result["valid"]["n_classification"] == 95
    table = pd.read_csv(folder.predictions("test"))
    assert len(table) == 190
    assert set(table["fold"]) == {0, 1, 2}
    with pytest.raises(PipelineError, match=r"--run: \S+fold-0, \S+fold-1, \S+fold-2$"):
        open_run(folder.path)
    (read,) = load_runs(spoken / "runs").runs
    assert read.result.test is not None
    assert read.of_task("classification") is not None
    before = folder.result.stat().st_mtime_ns
    assert run(wanted).result.stat().st_mtime_ns == before


def test_killed_folds_resume_to_the_same_predictions(spoken: Path, toy_llm: Path) -> None:
    wanted = {"settings": settings("last"), "folds": "speaker", "modalities": ("audio",)}
    expected = run(request(spoken, toy_llm, experiment="undisturbed", **wanted))
    with pytest.raises(Killed):  # in the second fold: a fold has four steps
        run(request(spoken, toy_llm, **wanted), stop_after=6)
    with pytest.raises(PipelineError, match="unfinished run; go on with --resume"):
        run(request(spoken, toy_llm, **wanted))
    first = (
        spoken / "runs" / "toy" / "egmf-audio-folds-speaker" / "seed-1" / "fold-0" / "result.json"
    )
    before = first.stat().st_mtime_ns
    found = run(request(spoken, toy_llm, resume=True, **wanted))
    assert first.stat().st_mtime_ns == before
    assert found.predictions("test").read_bytes() == expected.predictions("test").read_bytes()
    assert result_of(found)["valid"] == {}


def test_folds_and_splits_do_not_share_a_folder(spoken: Path, toy_llm: Path) -> None:
    plain = {"settings": settings("last"), "experiment": "same", "modalities": ("audio",)}
    run(request(spoken, toy_llm, **plain))
    with pytest.raises(PipelineError, match="other settings"):
        run_experiment(
            request(spoken, toy_llm, folds="speaker", **plain), lambda *_: None, lambda line: None
        )


def test_a_wrong_column_leaves_no_folder(spoken: Path, toy_llm: Path) -> None:
    with pytest.raises(PipelineError, match="--folds movie: no such column"):
        run(request(spoken, toy_llm, folds="movie"))
    both = {"folds": "language", "languages": ("en",), "settings": settings("last")}
    with pytest.raises(PipelineError, match="--languages en: the split 'train'"):
        run(request(spoken, toy_llm, **both))
    assert not (spoken / "runs").exists()
