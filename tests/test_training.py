"""Stage two end to end on a small cache: learning, resuming, leaks, results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from extract.table import read_table, write_table
from fuse.fusion import Fused
from fuse.streams import Stream, Turns
from pipeline.commands.train import Ablation
from pipeline.errors import PipelineError
from pipeline.experiment import Request, run_experiment
from pipeline.llm import Llm
from pipeline.model import Egmf
from pipeline.probes import proper_subsets
from pipeline.runs import RunFolder
from pipeline.settings import ABLATIONS, TrainSettings, resolve_settings
from pipeline.sources import Source
from tests.helpers_toy import DIMS, toy_features, toy_table, write_feature_set, write_toy_cache

SMALL = ["dim=16", "heads=2", "layers=1", "batch_size=16", "fusion_lr=0.01", "lora_lr=0.01"]
SETTINGS = resolve_settings("tiny", ["epochs=8", *SMALL])


def settings_of(**changes: Any) -> TrainSettings:
    """Return the small settings with changes."""
    return TrainSettings(**{**SETTINGS.model_dump(), **changes})


class Killed(Exception):
    """Stands for a process that ends in the middle of an epoch."""


def request(toy: Path, llm: Path, **changes: Any) -> Request:
    source = {
        "dataset": "toy",
        "cache": toy / "cache",
        "modalities": (),
        "features": {},
        "manifest": toy / "toy.yaml",
    }
    source |= {key: changes.pop(key) for key in list(changes) if key in source}
    fields: dict[str, Any] = {
        "source": Source(**source),
        "runs": toy / "runs",
        "experiment": None,
        "llm": Llm(str(llm), random_weights=True),
        "settings": SETTINGS,
        "fusion": "egmf",
        "ablate": (),
        "context": (0, 0),
        "seeds": (1,),
        "device": torch.device("cpu"),
        "resume": False,
        "fresh": False,
    }
    return Request(**{**fields, **changes})


def run(wanted: Request, stop_after: int | None = None) -> RunFolder:
    """Run one seed; `stop_after` steps the process "dies"."""
    seen = 0

    @contextmanager
    def progress(_: str, __: int) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            nonlocal seen
            seen += count
            if stop_after is not None and seen >= stop_after:
                raise Killed

        yield advance

    (folder,) = run_experiment(wanted, progress, lambda line: None)
    return folder


def result_of(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.result.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_llm: Path) -> RunFolder:
    from tests.helpers_toy import write_toy_manifest

    toy = tmp_path_factory.mktemp("toy")
    write_toy_manifest(toy / "toy.yaml")
    write_toy_cache(toy / "cache")
    return run(request(toy, toy_llm))


def test_it_learns_and_the_result_is_complete(trained: RunFolder) -> None:
    result = result_of(trained)
    assert result["experiment"] == "egmf"
    assert result["modalities"] == ["text", "audio", "visual"]
    assert result["random_weights"] is True
    assert result["test"]["n_classification"] == result["test"]["n_regression"] == 16
    assert result["test"]["accuracy"] >= 0.85
    assert result["test"]["corr"] >= 0.7
    assert result["baselines"]["majority"]["accuracy"] < 0.75
    assert set(result["by_language"]) == {"en", "zh"}
    assert set(result["noise_probe"]) == set(DIMS)
    assert result["count_mismatch"] is None
    assert result["ceiling"] is None
    progress = json.loads((trained.checkpoint / "progress.json").read_text())
    assert progress["utterances"] == 64 * result["epochs"]
    assert 0 < progress["step_seconds"] < result["seconds"]["train"]
    rate = progress["utterances"] / progress["step_seconds"]
    assert result["utterances_per_second"] == pytest.approx(rate)


def test_predictions_agree_with_the_metrics(trained: RunFolder) -> None:
    table = pd.read_csv(trained.predictions("test"))
    assert len(table) == 32
    assert table["id"].nunique() == 16
    labels = table[table["task"] == "classification"]
    share = float((labels["truth"] == labels["prediction"]).mean())
    assert share == pytest.approx(result_of(trained)["test"]["accuracy"])
    numbers = table[table["task"] == "regression"]
    error = (numbers["truth"].astype(float) - numbers["prediction"].astype(float)).abs().mean()
    assert error == pytest.approx(result_of(trained)["test"]["mae"], abs=1e-6)
    np.testing.assert_allclose(numbers["prediction"].astype(float), numbers["expectation"])
    assert set(labels[labels["language"] == "zh"]["answer"]) <= {"愤怒", "喜悦"}


def test_scores_when_a_modality_is_gone_or_noise(trained: RunFolder) -> None:
    result = result_of(trained)
    assert set(result["without"]) == set(map("+".join, proper_subsets(tuple(DIMS))))
    assert set(result["noise"]) == set(DIMS)
    for damaged in (*result["without"].values(), *result["noise"].values()):
        assert damaged["n_classification"] == result["test"]["n_classification"]
        assert damaged["accuracy"] <= result["test"]["accuracy"]


def test_gate_weights_in_the_predictions(trained: RunFolder) -> None:
    table = pd.read_csv(trained.predictions("test"))
    columns = [f"gate_modality_{name}" for name in DIMS]
    np.testing.assert_allclose(table[columns].sum(axis=1), 1.0, atol=1e-5)
    without = table[table["id"] == "test-00"]
    assert (without["gate_modality_audio"] == 0.0).all()
    assert (table[table["id"] != "test-00"]["gate_modality_audio"] > 0.0).all()


def test_the_adapter_loads_with_peft(trained: RunFolder, toy_llm: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(toy_llm)
    model = PeftModel.from_pretrained(base, str(trained.best))
    assert any("lora_B" in name and p.abs().sum() > 0 for name, p in model.named_parameters())


def test_the_log_has_every_epoch_once(trained: RunFolder) -> None:
    lines = [json.loads(line) for line in trained.log.read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if line["kind"] == "epoch"]
    assert epochs == list(range(1, result_of(trained)["epochs"] + 1))
    best = [line["epoch"] for line in lines if line["kind"] == "epoch" and line["best"]]
    assert best[-1] == result_of(trained)["best_epoch"]


def test_a_finished_run_is_left_alone(trained: RunFolder, toy_llm: Path) -> None:
    before = trained.result.stat().st_mtime_ns
    run(request(trained.path.parents[3], toy_llm))
    assert trained.result.stat().st_mtime_ns == before


@pytest.mark.parametrize("stop_after", [2, 9, 13])
def test_a_killed_run_resumes_to_the_same_weights(
    trained: RunFolder, toy: Path, toy_llm: Path, stop_after: int
) -> None:
    with pytest.raises(Killed):
        run(request(toy, toy_llm), stop_after=stop_after)
    if stop_after > 2:  # without a checkpoint there is nothing to lose
        with pytest.raises(PipelineError, match="unfinished run; go on with --resume"):
            run(request(toy, toy_llm))
    folder = run(request(toy, toy_llm, resume=True))
    expected = load_file(trained.best / "fusion.safetensors")
    found = load_file(folder.best / "fusion.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert folder.predictions("test").read_bytes() == trained.predictions("test").read_bytes()
    epochs = [json.loads(line) for line in folder.log.read_text().splitlines()]
    assert [line["epoch"] for line in epochs if line["kind"] == "epoch"] == list(
        range(1, result_of(trained)["epochs"] + 1)
    )


def test_other_settings_do_not_overwrite_a_run(trained: RunFolder, toy_llm: Path) -> None:
    other = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 3})
    with pytest.raises(PipelineError, match="other settings"):
        run(request(trained.path.parents[3], toy_llm, settings=other))


def test_without_text_no_word_is_read(toy: Path, toy_llm: Path) -> None:
    """Constant transcripts give identical predictions where text is no modality."""
    modalities = ("audio", "visual")
    first = run(request(toy, toy_llm, modalities=modalities))
    assert first.path.parent.name == "egmf-audio+visual"
    path = toy / "cache" / "toy" / "utterances.parquet"
    write_table(read_table(path).assign(text="always the same"), path)
    second = run(request(toy, toy_llm, modalities=modalities, experiment="constant"))
    assert first.predictions("test").read_bytes() == second.predictions("test").read_bytes()


def test_with_text_words_are_read(toy: Path, toy_llm: Path) -> None:
    """The same check trips when text is a modality, so that it is able to fail."""
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    first = run(request(toy, toy_llm, settings=settings))
    path = toy / "cache" / "toy" / "utterances.parquet"
    write_table(read_table(path).assign(text="always the same"), path)
    second = run(request(toy, toy_llm, settings=settings, experiment="constant"))
    assert first.predictions("test").read_bytes() != second.predictions("test").read_bytes()


def test_without_a_modality_neighbours_lack_it_too(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse, seen = Egmf.fuse, []

    def watched(self: Egmf, streams: Mapping[str, Stream], turns: Turns | None = None) -> Fused:
        if not self.training and turns is not None and not streams["text"].mask.any():
            seen.append({name: bool(each.mask.any()) for name, each in turns.streams.items()})
        return fuse(self, streams, turns)

    monkeypatch.setattr(Egmf, "fuse", watched)
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    run(request(toy, toy_llm, settings=settings, context=(1, 1)))
    assert {"text": False, "audio": True, "visual": True} in seen
    assert not any(each["text"] for each in seen)


def test_a_modality_that_nobody_has_is_left_out(toy: Path, toy_llm: Path) -> None:
    table = toy_table()
    empty = [type(each)(each.value[:0], each.time[:0]) for each in toy_features(table, "visual")]
    folder = next((toy / "cache" / "toy" / "visual").iterdir())
    for path in folder.iterdir():
        path.unlink()
    write_feature_set(toy / "cache", "visual", table["id"].tolist(), empty)
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    result = result_of(run(request(toy, toy_llm, settings=settings)))
    assert result["modalities"] == ["text", "audio"]


def test_the_command_offers_every_ablation() -> None:
    assert tuple(part.value for part in Ablation) == ABLATIONS


@pytest.mark.parametrize("part", ABLATIONS)
def test_every_part_can_be_ablated(toy: Path, toy_llm: Path, part: str) -> None:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    folder = run(request(toy, toy_llm, settings=settings, ablate=(part,)))
    assert folder.path.parent.name == f"egmf-no-{part}"
    assert result_of(folder)["ablate"] == [part]


def test_what_stands_in_the_way_is_said(toy: Path, toy_llm: Path) -> None:
    with pytest.raises(PipelineError, match="no cache of 'toy'; run egmf-extract"):
        run(request(toy, toy_llm, cache=toy / "nowhere"))
    with pytest.raises(PipelineError, match=r"no 'vision' features .*did you mean 'visual'"):
        run(request(toy, toy_llm, modalities=("vision",)))
    with pytest.raises(PipelineError, match="no text features fit 'hf:other'"):
        run(request(toy, toy_llm, features={"text": "hf:other"}))
    table = toy_table()
    ids, features = table["id"].tolist(), toy_features(table, "text", seed=9)
    write_feature_set(toy / "cache", "text", ids, features, encoder="toy:other")
    with pytest.raises(PipelineError, match=r"several text feature sets: .*toy:other"):
        run(request(toy, toy_llm))
    with pytest.raises(PipelineError, match="plain name"):
        run(request(toy, toy_llm, features={"text": "toy:other"}, experiment="../x"))


def test_rows_that_were_not_extracted_are_named(toy: Path, toy_llm: Path) -> None:
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    more = table.tail(1).assign(id="test-new")
    write_table(pd.concat([table, more], ignore_index=True), path)
    with pytest.raises(PipelineError, match=r"1 of 97 utterances are not extracted .*test-new"):
        run(request(toy, toy_llm))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dim", "expected key=value"),
        ("widht=3", "no such setting; known: dim"),
        ("dim=-3", "greater than 0"),
        ("dim=[", "is no value"),
    ],
)
def test_wrong_settings_are_said(override: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        resolve_settings("tiny", [override])
