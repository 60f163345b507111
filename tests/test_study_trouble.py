"""What goes wrong in a study: what is the trial's own fault, and what is tried again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from extract.table import read_table, write_table
from generate.errors import GenerateError
from pipeline import trials
from pipeline.commands.train import main
from pipeline.errors import DivergenceError, PipelineError
from pipeline.runs import RunFolder
from pipeline.study import run_study
from tests.helpers_bad_input import Ended, call, small_disk
from tests.helpers_toy import no_progress
from tests.test_distributed import LAUNCH, ROOT
from tests.test_study import command, known, study, write_study
from tests.test_training import request, run, settings_of

WILD = {"fusion_lr": 1e30, "lora_lr": 1e30, "warmup": 0.0, "max_skipped": 2}


def trial_file(toy: Path, number: int, name: str = "study-small") -> Path:
    return toy / "runs" / "toy" / name / f"trial-{number:03d}" / "trial.json"


def test_a_language_model_that_is_gone_fails_no_trial(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [16]})
    llm = toy / "llm"
    with pytest.raises(GenerateError, match="no such directory"):
        study(toy, llm, file)
    assert not trial_file(toy, 0).parent.exists()
    shutil.copytree(toy_llm, llm)
    (done,) = study(toy, llm, file, resume=True).trials
    assert done.status == "complete"


def test_a_table_that_moves_fails_no_trial(toy: Path, toy_llm: Path) -> None:
    """The study stops where it is, and goes on to what it would have come to."""
    file = write_study(toy, search="grid", space={"dim": [16, 32]})
    expected = study(toy, toy_llm, file, experiment="undisturbed")
    table = toy / "cache" / "toy" / "utterances.parquet"

    def move(line: str) -> None:
        if line.startswith("trial 1 of 2"):
            table.rename(toy / "elsewhere.parquet")

    wanted = request(toy, toy_llm, settings=settings_of(epochs=1))
    with pytest.raises(PipelineError, match="no cache of 'toy'"):
        run_study(wanted, file, no_progress, move)
    assert [trial_file(toy, number).exists() for number in (0, 1)] == [True, False]
    (toy / "elsewhere.parquet").rename(table)
    assert known(study(toy, toy_llm, file, resume=True)) == known(expected)


def test_trials_on_other_rows_are_another_study(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [16]})
    study(toy, toy_llm, file)
    path = toy / "cache" / "toy" / "utterances.parquet"
    write_table(read_table(path).assign(text="other words"), path)
    with pytest.raises(PipelineError, match="holds another study, or one with other settings or"):
        study(toy, toy_llm, file, resume=True)


def test_a_full_disk_fails_no_trial(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [64]})
    try:
        with small_disk(toy / "disk", 200) as disk:
            with pytest.raises((PipelineError, OSError), match="No space left on device"):
                study(toy, toy_llm, file, runs=disk)
            assert not list(disk.rglob("trial.json"))
    except PermissionError as error:
        pytest.skip(str(error))


def test_too_little_memory_fails_a_trial_and_no_other(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log that such a trial leaves may be torn."""
    sound = trials.fit

    def fit(assembly: Any, wanted: Any, folder: RunFolder, *rest: Any) -> Any:
        if wanted.settings.dim == 32:
            folder.log.write_text('{"kind": "step", "seconds": 2.5}\n{"kind": "st')
            raise torch.OutOfMemoryError("no memory is left\n(of much)")
        return sound(assembly, wanted, folder, *rest)

    monkeypatch.setattr(trials, "fit", fit)
    file = write_study(toy, search="grid", space={"dim": [32, 16]})
    failed, complete = study(toy, toy_llm, file).trials
    assert (failed.reason, failed.seconds) == ("no memory is left", 2.5)
    assert complete.status == "complete"


def test_scores_that_are_not_finite_are_divergence(toy: Path, toy_llm: Path) -> None:
    """Too few steps for the stop after many wild ones, in a plain run too."""
    settings = settings_of(epochs=1, **{**WILD, "max_skipped": 100})
    with pytest.raises(DivergenceError, match="no epoch had a finite score"):
        run(request(toy, toy_llm, settings=settings))
    for number, select in enumerate(("best", "last")):
        file = write_study(toy, search="grid", space={"select": [select]})
        (failed,) = study(toy, toy_llm, file, settings=settings, experiment=f"s{number}").trials
        assert "finite score on validation" in (failed.reason or "")


def call_study(toy: Path, llm: Path, file: Path, *more: str) -> Ended:
    return call(main, *command(toy, llm, file, *more)[3:])


def test_a_study_without_a_trial_exits_with_1(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [15, 17]})
    said = "study-small: none of 2 trials was completed, the first for this: trial 0: "
    ended = call_study(toy, toy_llm, file, "--quiet")
    assert f"{said}dim (15) must be a multiple of heads (2)" in ended.complaint()
    ended = call_study(toy, toy_llm, file, "--quiet", "--json")
    assert [each["status"] for each in json.loads(ended.out)[0]["trials"]] == ["failed"] * 2
    assert (ended.code, said in ended.err) == (1, True)


def test_joint_studies_are_not_supported(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [16]})
    complaint = call_study(toy, toy_llm, file, "--joint").complaint()
    assert "--joint and --study are not supported together" in complaint


def test_one_of_two_processes_out_of_memory_ends_both(toy: Path, toy_llm: Path) -> None:
    """The other one waits for gradients meanwhile; the study goes on with the next trial."""
    file = write_study(toy, search="grid", space={"dim": [16, 32]})
    arguments = command(toy, toy_llm, file, "--quiet")[3:]
    launch = [sys.executable, "-m", *LAUNCH["torchrun"], "-m", "tests.helpers_study", *arguments]
    both = subprocess.run(launch, cwd=ROOT, timeout=240, capture_output=True, text=True)
    assert both.returncode
    assert "trial-000: failed: no memory is left; the other processes" in both.stderr
    assert json.loads(trial_file(toy, 0).read_text())["reason"] == "no memory is left"
    assert not trial_file(toy, 1).parent.exists()
    ended = call_study(toy, toy_llm, file, "--quiet", "--resume", "--json")
    assert [each["status"] for each in json.loads(ended.out)[0]["trials"]] == ["failed", "complete"]
