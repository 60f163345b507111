"""A trained model on the other datasets of the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from extract.table import write_table
from pipeline.experiment import run_experiment
from pipeline.manifest import load_manifest
from pipeline.settings import TrainSettings
from pipeline.transfer import match
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
    assert set(result["transfer"]) == {"copy", "wider", "stranger"}
    copy = result["transfer"]["copy"]
    assert copy["rows"]["classification"] == {"scored": 16, "labelled": 16}
    assert (copy["mapped"], copy["rescaled"], "left_out" in copy) == ({}, False, False)
    for name in ("accuracy", "weighted_f1", "mae", "corr", "n_regression"):
        assert copy[name] == pytest.approx(result["test"][name]), name
    kept = pd.read_csv(folder.transfer("copy"))
    pd.testing.assert_frame_equal(kept, pd.read_csv(folder.predictions("test")))
    wider = result["transfer"]["wider"]
    assert wider["labels"] == ["anger", "joy"]
    assert wider["n_classification"] == 12
    assert wider["rows"] == {"classification": {"scored": 12, "labelled": 16}}
    assert wider["accuracy"] >= 0.9
    assert "mae" not in wider
    assert "scores run from -3 to 3, ours from -1 to 1" in wider["left_out"]
    assert set(result["transfer"]["stranger"]) == {"left_out"}
    said = [line for line in said if line.startswith("transfer")]
    assert "stranger left out: it has no text features of toy:signal" in said[0]
    assert len(said) == 2


def test_the_manifest_maps_labels_and_ranges(toy: Path, toy_llm: Path) -> None:
    """Scores three times as large on a range three times as wide give three times the error."""
    table = toy_table()
    far = table.assign(
        label=table["label"].replace({"joy": "happiness", "anger": "rage"}),
        score=table["score"] * 3,
    )
    entry = (
        MANIFEST.replace("name: anger, ", "name: rage, ")
        .replace("name: joy, ", "name: happiness, same_as: [joy], ")
        .replace("low: -1, high: 1, step: 0.1", "low: -3, high: 3, step: 0.1, measures: feeling")
    )
    manifest = toy / "toy.yaml"
    own = manifest.read_text(encoding="utf-8")
    own = own.replace("name: anger, ", "name: anger, same_as: [rage], ")
    own = own.replace("step: 0.1", "step: 0.1, measures: feeling")
    manifest.write_text(own, encoding="utf-8")
    add_dataset(toy, "far", far, entry)
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 2})
    result = result_of(run(request(toy, toy_llm, settings=settings)))
    found = result["transfer"]["far"]
    assert found["mapped"] == {"rage": "anger", "happiness": "joy"}
    assert found["accuracy"] == pytest.approx(result["test"]["accuracy"])
    assert found["rescaled"] is True
    assert found["mae"] == pytest.approx(3 * result["test"]["mae"], rel=1e-5)
    numbers = pd.read_csv(toy / "runs/toy/egmf/seed-1/transfer-far.csv").query(
        "task == 'regression'"
    )
    errors = (numbers["truth"].astype(float) - numbers["prediction"].astype(float)).abs()
    assert errors.mean() == pytest.approx(found["mae"], abs=1e-6)


def test_labels_of_the_field_are_mapped() -> None:
    known = load_manifest().datasets
    found = match(known["meld"], known["cherma"])
    assert found.labels["happiness"] == "joy"
    assert len(found.labels) == 7
    assert match(known["cherma"], known["meld"]).labels["joy"] == "happiness"
    assert match(known["mosei"], known["mosi"]).rescale is None
    there = match(known["mosei"], known["simsv2"]).rescale
    assert there is not None
    assert (there[0].high, there[1].high) == (3, 1)
    assert match(known["meld"], known["mosei"]).tasks == ()


def test_alone_in_the_cache_there_is_nothing_to_transfer_to(toy: Path, toy_llm: Path) -> None:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    assert result_of(run(request(toy, toy_llm, settings=settings)))["transfer"] == {}
