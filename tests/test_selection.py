"""Which weights are scored, and what happens where a loss is not finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from extract.table import read_table, write_table
from pipeline import training
from pipeline.errors import PipelineError
from pipeline.experiment import run_experiment
from pipeline.model import Egmf
from pipeline.report.load import load_runs
from pipeline.settings import TrainSettings
from tests.helpers_toy import no_progress
from tests.test_training import SETTINGS, Killed, request, result_of, run


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{**SETTINGS.model_dump(), "epochs": 3, **changes})


def log_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_last_trains_all_epochs_and_scores_the_last_weights(toy: Path, toy_llm: Path) -> None:
    """With a patience of one epoch, `best` would have stopped; the rates make later epochs bad."""
    wild = settings(select="last", patience=1, fusion_lr=0.5, epochs=4)
    folder = run(request(toy, toy_llm, settings=wild))
    result = result_of(folder)
    assert (result["best_epoch"], result["epochs"], result["select"]) == (4, 4, "last")
    assert [line["best"] for line in log_of(folder.path, "epoch")] == [False] * 3 + [True]
    last = torch.load(folder.checkpoint / "state.pt", weights_only=True)["weights"]
    kept = load_file(folder.best / "fusion.safetensors")
    assert any(torch.equal(last[0], each) for each in kept.values())


def test_last_needs_no_validation_split(toy: Path, toy_llm: Path) -> None:
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    write_table(table.assign(split=table["split"].replace("valid", "unlabelled")), path)
    with pytest.raises(PipelineError, match=r"no utterance in the split 'valid'.*--select last"):
        run(request(toy, toy_llm, settings=settings()))
    wanted = request(toy, toy_llm, settings=settings(select="last", epochs=1))
    folder = run(wanted)
    result = result_of(folder)
    assert result["valid"] == {}
    assert result["test"]["n_classification"] == 16
    assert not folder.predictions("valid").exists()
    assert run(wanted).path == folder.path
    (read,) = load_runs(toy / "runs").runs
    assert read.result.split == "test"


def test_last_resumes_to_the_same_weights(toy: Path, toy_llm: Path) -> None:
    wanted = settings(select="last")
    expected = run(request(toy, toy_llm, settings=wanted, experiment="undisturbed"))
    with pytest.raises(Killed):
        run(request(toy, toy_llm, settings=wanted), stop_after=9)
    found = run(request(toy, toy_llm, settings=wanted, resume=True))
    name = "best/fusion.safetensors"
    assert (expected.path / name).read_bytes() == (found.path / name).read_bytes()


def broken_at(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Make the loss of some steps (counted from 0) NaN, its gradient included."""
    sound, seen = training.add_gradients, iter(range(10**6))

    def spoiled(model: Egmf, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        own, common = sound(model, *arguments)
        if bad(next(seen)):
            own = own * float("nan")
            next(model.fusion.parameters()).grad.mul_(float("nan"))
        return own, common

    monkeypatch.setattr(training, "add_gradients", spoiled)


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, lambda step: step in (0, 5, 6))
    folder = run(request(toy, toy_llm, settings=settings(max_skipped=3)))
    result = result_of(folder)
    assert (result["steps"], result["skipped_steps"]) == (12, 3)
    assert [line["step"] for line in log_of(folder.path, "skipped")] == [1, 6, 7]
    assert [line["skipped"] for line in log_of(folder.path, "epoch")] == [1, 3, 3]
    weights = load_file(folder.best / "fusion.safetensors").values()
    assert all(each.isfinite().all() for each in weights)


def test_an_epoch_without_a_good_step_has_no_loss(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, lambda step: True)
    wanted = settings(select="last", epochs=1, max_skipped=100)
    said: list[str] = []
    (folder,) = run_experiment(request(toy, toy_llm, settings=wanted), no_progress, said.append)
    assert [line["train_loss"] for line in log_of(folder.path, "epoch")] == [None]
    assert any(line.startswith("epoch 1: every step was skipped, validation") for line in said)


def test_too_many_such_steps_in_a_row_stop_the_run(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, lambda step: step >= 5)
    with pytest.raises(PipelineError, match=r"not finite in 4 steps in a row, up to step 9"):
        run(request(toy, toy_llm, settings=settings(max_skipped=4)))


def test_rates_that_blow_up_end_in_a_plain_message(toy: Path, toy_llm: Path) -> None:
    wild = settings(fusion_lr=1e30, lora_lr=1e30, warmup=0.0, max_skipped=2)
    with pytest.raises(PipelineError, match=r"not finite in 2 steps .* --set fusion_lr"):
        run(request(toy, toy_llm, settings=wild))
