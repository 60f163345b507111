"""A trained model on the other datasets of the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from extract.table import write_table
from pipeline.experiment import run_experiment
from pipeline.settings import TrainSettings
from tests.helpers_toy import (
    DIMS,
    MANIFEST,
    no_progress,
    toy_features,
    toy_table,
    write_feature_set,
)
from tests.test_training import SETTINGS, request, result_of, run

LABELS = """
      - {name: anger, en: anger, zh: 愤怒}
      - {name: joy, en: joy, zh: 喜悦}"""
MORE_LABELS = """
      - {name: joy, en: happy, zh: 高兴}
      - {name: fear, en: afraid, zh: 害怕}
      - {name: anger, en: angry, zh: 生气}"""


def add_dataset(toy: Path, name: str, table: pd.DataFrame, entry: str, **features: Any) -> None:
    """Add a dataset to the cache and its entry to the manifest."""
    write_table(table, toy / "cache" / name / "utterances.parquet")
    rows = toy_table()
    for modality in DIMS:
        write_feature_set(
            toy / "cache",
            modality,
            rows["id"].tolist(),
            toy_features(rows, modality),
            dataset=name,
            **features,
        )
    with (toy / "toy.yaml").open("a", encoding="utf-8") as manifest:
        manifest.write(entry.partition("datasets:\n")[2].replace("  toy:", f"  {name}:"))


def test_the_model_meets_every_dataset_that_fits(toy: Path, toy_llm: Path) -> None:
    table = toy_table()
    add_dataset(toy, "copy", table, MANIFEST)
    fear = table.copy()
    fear.loc[fear.index[-4:], "label"] = "fear"
    narrow = MANIFEST.replace(LABELS, MORE_LABELS).replace("low: -1, high: 1", "low: -3, high: 3")
    assert "fear" in narrow
    add_dataset(toy, "wider", fear, narrow)
    add_dataset(toy, "stranger", table, MANIFEST, encoder="toy:other")
    said: list[str] = []
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 6})
    (folder,) = run_experiment(request(toy, toy_llm, settings=settings), no_progress, said.append)
    result = result_of(folder)
    assert set(result["transfer"]) == {"copy", "wider"}
    copy = result["transfer"]["copy"]
    for name in ("accuracy", "weighted_f1", "mae", "corr", "n_regression"):
        assert copy[name] == pytest.approx(result["test"][name]), name
    wider = result["transfer"]["wider"]
    assert wider["labels"] == ["anger", "joy"]
    assert wider["n_classification"] == 12
    assert wider["accuracy"] >= 0.9
    assert "mae" not in wider
    (left_out,) = [line for line in said if line.startswith("transfer")]
    assert "stranger left out: it has no text features of toy:signal" in left_out


def test_alone_in_the_cache_there_is_nothing_to_transfer_to(toy: Path, toy_llm: Path) -> None:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    assert result_of(run(request(toy, toy_llm, settings=settings)))["transfer"] == {}
