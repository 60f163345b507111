"""The benchmarks' own arithmetic: what they read from runs, how they compare, what they write."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from pipeline.settings import resolve_settings

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "scores"
IDS = [f"u{number:02}" for number in range(40)]
TRUTH = ["joy" if number % 2 else "anger" for number in range(40)]


@pytest.fixture(scope="module")
def harness() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("harness")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    """A cache with a table, a run that is always right and one that is wrong in ten rows."""
    folder = tmp_path / "cache" / "toy"
    folder.mkdir(parents=True)
    groups = [f"d{number // 4}" for number in range(40)]
    table = pd.DataFrame({"id": IDS, "label": TRUTH, "score": np.nan, "group": groups})
    table.to_parquet(folder / "utterances.parquet")
    wrong = ["anger" if number % 4 == 1 else each for number, each in enumerate(TRUTH)]
    for name, answers in (("right", TRUTH), ("wrong", wrong)):
        for seed in (1, 2):
            run = tmp_path / "runs" / "toy" / name / f"seed-{seed}"
            run.mkdir(parents=True)
            result = {
                "parameters": {"fusion": 5},
                "epochs": 3,
                "seconds": {"train": 1.5},
                "peak_memory_bytes": 2_000_000,
            }
            (run / "result.json").write_text(json.dumps(result))
            predictions = {"id": IDS, "task": "classification", "truth": TRUTH}
            pd.DataFrame({**predictions, "prediction": answers}).to_csv(
                run / "predictions-test.csv", index=False
            )
    return Namespace(work=tmp_path, seeds=None, only=None)


def benchmark_of(harness: ModuleType) -> object:
    rows = (
        harness.Row("right", (), (1, 2), against=("wrong", "guess")),
        harness.Row("wrong", (), (1, 2, 3)),
        harness.Row("unfinished", (), (1,)),
    )
    metrics = {"classification": ("accuracy", "weighted_f1", "uar")}
    return harness.Benchmark("toy", "toy", None, (), rows, metrics)


def test_rows_are_scored_and_compared(
    harness: ModuleType, options: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    guess = harness.Baseline("guess", {"classification": [dict.fromkeys(IDS, "joy")]})
    harness.write_results(benchmark_of(harness), [guess], options, note="as it is")
    found = json.loads((tmp_path / "results" / "toy.json").read_text())
    rows = {each["row"]: each for each in found["classification"]}
    assert set(rows) == {"right", "wrong", "guess"}
    assert found["note"] == "as it is"
    assert rows["right"]["mean"] == {"accuracy": 1.0, "weighted_f1": 1.0, "uar": 1.0}
    assert rows["wrong"]["mean"]["accuracy"] == 0.75
    assert rows["wrong"]["seeds"] == 2
    assert rows["wrong"]["mean"]["uar"] == pytest.approx((1.0 + 0.5) / 2)
    assert rows["guess"]["mean"]["accuracy"] == 0.5
    against = rows["right"]["against"]["wrong"]["accuracy"]
    assert against["difference"] == pytest.approx(0.25)
    assert against["interval"][0] <= 0.25 <= against["interval"][1]
    assert against["p_value"] < 0.05
    text = (tmp_path / "results" / "toy.md").read_text()
    assert "| right | 2 | 100.00 ± 0.00 |" in text


def test_equal_systems_do_not_differ(harness: ModuleType, options: Namespace) -> None:
    benchmark = benchmark_of(harness)
    scores = harness.run_scores(benchmark, benchmark.rows[0], "classification", options)  # type: ignore[attr-defined]
    judged = harness.compare("classification", ("accuracy",), scores, scores, None, "emotion")
    assert judged["accuracy"]["difference"] == 0.0
    assert judged["accuracy"]["p_value"] == 1.0


@pytest.mark.parametrize("name", ["meld", "mosi", "ablation"])
def test_rows_have_names_of_their_own_and_compare_with_known_ones(
    harness: ModuleType, name: str
) -> None:
    benchmark = importlib.import_module(name).BENCHMARK
    names = [row.name for row in benchmark.rows]
    assert len(set(names)) == len(names)
    for row in benchmark.rows:
        for other in row.against:
            assert other in names or "regression" in other or "LSTM" in other


@pytest.mark.parametrize("name", ["meld", "mosi", "emodb"])
def test_settings_of_rows_are_known_and_name_modalities_of_their_rows(
    harness: ModuleType, name: str
) -> None:
    benchmark = importlib.import_module(name).BENCHMARK
    for row in benchmark.rows:
        flags = (*benchmark.flags, *row.flags)
        after = [(flag, flags[place + 1]) for place, flag in enumerate(flags[:-1])]
        overrides = [value for flag, value in after if flag == "--set"]
        settings = resolve_settings("tiny", overrides)
        modalities = dict(after).get("--modalities", "text,audio,visual").split(",")
        for key in ("pool", "feature_noise"):
            if any(each.startswith(f"{key}=") for each in overrides):
                assert set(getattr(settings, key)) <= set(modalities), row.name


@pytest.mark.parametrize(
    ("name", "study"), [("meld", "meld"), ("meld", "meld_variants"), ("mosi", "mosi")]
)
def test_rows_train_with_what_the_search_chose(harness: ModuleType, name: str, study: str) -> None:
    """On MOSI a third of the training part was held out, so that fewer epochs are as many steps."""
    found = json.loads((BENCHMARKS.parent / "results" / "search.json").read_text())
    benchmark = importlib.import_module(name).BENCHMARK
    rows = {row.name: row for row in benchmark.rows}
    for kind, best in found[study]["best"].items():
        flags = (*benchmark.flags, *rows[kind if name == "meld" else f"{kind}-context"].flags)
        after = [(flag, flags[place + 1]) for place, flag in enumerate(flags[:-1])]
        epochs = dict(after)["--epochs"]
        overrides = [value for flag, value in after if flag == "--set"]
        settings = resolve_settings("tiny", [*overrides, f"epochs={epochs}"])
        for key, value in best.items():
            if key == "epochs" and name == "mosi":
                value = {8: 5, 16: 11}[value]
            assert getattr(settings, key) == value, (kind, key)
