"""Training on some of a corpus's languages, and what carries over to the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.settings import TrainSettings
from pipeline.sources import Source, open_corpus, train_on
from tests.test_training import SETTINGS, request, result_of, run


def test_only_training_and_validation_are_restricted(toy: Path) -> None:
    source = Source("toy", toy / "cache", (), {}, toy / "toy.yaml")
    corpus = open_corpus(source, (), lambda line: None)
    kept = train_on(corpus, ["en"]).utterances
    assert {name: len(rows) for name, rows in kept.items()} == {
        "train": 32,
        "valid": 8,
        "test": 16,
    }
    assert {each.language for name in ("train", "valid") for each in kept[name]} == {"en"}
    with pytest.raises(PipelineError, match=r"--languages fr: .*'train' .* are: en, zh"):
        train_on(corpus, ["en", "fr"])


def test_every_language_is_tested(toy: Path, toy_llm: Path) -> None:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 6})
    folder = run(request(toy, toy_llm, settings=settings, languages=("en",)))
    assert folder.path.parent.name == "egmf-trained-on-en"
    result = result_of(folder)
    assert result["train_languages"] == ["en"]
    assert result["steps"] == 12
    assert result["count_mismatch"] is None
    assert result["valid"]["n_classification"] == 8
    assert {name: each["n_classification"] for name, each in result["by_language"].items()} == {
        "en": 8,
        "zh": 8,
    }
    assert result["by_language"]["en"]["accuracy"] >= 0.9


def test_a_language_that_nobody_speaks_leaves_no_folder(toy: Path, toy_llm: Path) -> None:
    with pytest.raises(PipelineError, match="--languages fr"):
        run(request(toy, toy_llm, languages=("fr",)))
    assert not (toy / "runs").exists()
