"""Studies: what is tried, on what, in which order, and that a kill loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from extract.table import read_table, write_table
from pipeline import trials
from pipeline.choices import read_choices
from pipeline.errors import PipelineError
from pipeline.runs import RunFolder
from pipeline.searches import Grid, Optuna, StudyFile, read_study
from pipeline.settings import TrainSettings
from pipeline.study import Study, run_study
from tests.helpers_toy import no_progress
from tests.test_training import SETTINGS, SMALL, request, result_of, run

ROOT = Path(__file__).resolve().parent.parent
SPACE: dict[str, Any] = {
    "fusion_lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "dim": [16, 32],
    "modalities": ["text", ["text", "audio"]],
}


def write_study(folder: Path, **fields: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def study(toy: Path, llm: Path, file: Path, **changes: Any) -> Study:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    wanted = request(toy, llm, **{"settings": settings, **changes})
    return run_study(wanted, file, no_progress, lambda line: None)


def known(found: Study) -> list[tuple[Any, ...]]:
    return [(each.number, each.choices, each.value, each.reason) for each in found.trials]


def test_a_grid_tries_everything(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"dim": [16, 15], "fusion": ["egmf", "concat"]})
    found = study(toy, toy_llm, file)
    assert [each.choices for each in found.trials] == [
        {"dim": 16, "fusion": "egmf"},
        {"dim": 16, "fusion": "concat"},
        {"dim": 15, "fusion": "egmf"},
        {"dim": 15, "fusion": "concat"},
    ]
    assert [each.status for each in found.trials] == ["complete"] * 2 + ["failed"] * 2
    assert "dim (15) must be a multiple of heads (2)" in (found.trials[2].reason or "")
    folder = toy / "runs" / "toy" / "study-small"
    table = pd.read_csv(folder / "trials.csv")
    assert table["validation"].count() == 2
    assert table["reason"].count() == 2
    assert found.best is not None
    assert found.best.value == table["validation"].max()
    assert len((folder / "trials.md").read_text().splitlines()) == 4 + 4
    assert "**complete**" in (folder / "trials.md").read_text()
    assert read_choices(found.best_file) == found.best.choices
    assert list(folder.glob("trial-*/seed-*/best")) == []
    before = (folder / "trial-000" / "trial.json").stat().st_mtime_ns
    assert known(study(toy, toy_llm, file)) == known(found)
    assert (folder / "trial-000" / "trial.json").stat().st_mtime_ns == before


def test_a_trial_scores_what_training_scores_on_validation(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="grid", space={"lora_lr": [0.02], "ablate": ["gate"]})
    found = study(toy, toy_llm, file).trials[0]
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1, "lora_lr": 0.02})
    valid = result_of(run(request(toy, toy_llm, settings=settings, ablate=("gate",))))["valid"]
    # Validation's own temperature is fitted after training, and changes expectations alone.
    assert found.value is not None
    assert found.value <= valid["weighted_f1"]
    assert found.value > valid["weighted_f1"] - 1


def test_the_test_split_is_not_looked_at(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials agree where the test rows are others, without features, and where there are none."""
    seen: list[set[str]] = []
    sound = trials.assemble

    def assemble(wanted: Any, materials: Any, *rest: Any) -> Any:
        (material,) = materials
        seen.append({split for split, rows in material.corpus.utterances.items() if rows})
        return sound(wanted, materials, *rest)

    monkeypatch.setattr(trials, "assemble", assemble)
    file = write_study(toy, search="grid", space={"dim": [16]})
    first = study(toy, toy_llm, file)
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    test = table["split"] == "test"
    other = table.copy()
    other.loc[test, "id"] = [f"unknown-{number}" for number in range(test.sum())]
    other.loc[test, "label"] = "joy"
    for number, changed in enumerate((other, table[~test])):
        write_table(changed, path)
        again = study(toy, toy_llm, file, experiment=f"again-{number}")
        assert again.trials[0].value == first.trials[0].value
    assert seen == [{"train", "valid"}] * 3


def test_the_next_suggestion_follows_from_the_file_and_the_trials_before(tmp_path: Path) -> None:
    """The same trials come out of one process, and of one process a trial."""
    wanted = StudyFile(search="tpe", space=SPACE, trials=8, seed=3)
    paths = [tmp_path / "one.sqlite", tmp_path / "many.sqlite"]
    one = Optuna(wanted, paths[0])
    suggested = []
    for number in range(8):
        suggested.append(one.choices(number))
        one.tell(number, suggested[-1]["fusion_lr"] + suggested[-1]["dim"])
    for number in range(8):
        choices = Optuna(wanted, paths[1]).choices(number)
        assert choices == Optuna(wanted, paths[1]).choices(number) == suggested[number]
        told = Optuna(wanted, paths[1])
        told.tell(number, choices["fusion_lr"] + choices["dim"])
        told.tell(number, 0.0)
    assert len({each["fusion_lr"] for each in suggested}) == 8
    assert {str(each["modalities"]) for each in suggested} == {"text", "['text', 'audio']"}


def test_what_a_file_gets_wrong_is_said(toy: Path, toy_llm: Path) -> None:
    for fields, message in (
        ({"search": "grid", "space": {"dmi": [1]}}, r"'dmi' is no setting .*did you mean 'dim'"),
        ({"search": "grid", "space": {"dim": {"low": 1, "high": 3}}}, "a grid needs lists"),
        ({"search": "tpe", "space": {"dim": [1]}}, "needs 'trials'"),
        ({"search": "luck", "space": {"dim": [1]}}, "small.yaml: field 'search'"),
        ({"search": "grid", "space": {}}, "field 'space'"),
        ({"search": "grid", "space": {"dtype": ["auto"]}}, r"'dtype' says how .*--set dtype="),
        ({"search": "grid", "space": {"load_in_4bit": [True]}}, "once for all trials"),
        ({"search": "grid", "space": {"shard_llm": [True, False]}}, "once for all trials"),
    ):
        with pytest.raises(PipelineError, match=message):
            read_study(write_study(toy, **fields))
    file = write_study(toy, search="grid", space={"fusion": ["concatt", "egmf"], "clip": ["1e-3"]})
    wild = {"fusion_lr": 1e30, "lora_lr": 1e30, "warmup": 0.0, "max_skipped": 2}
    settings = TrainSettings(**{**SETTINGS.model_dump(), **wild})
    failed = study(toy, toy_llm, file, settings=settings)
    reasons = [each.reason or "" for each in failed.trials]
    assert "did you mean 'concat'" in reasons[0]
    assert "was not finite in 2 steps in a row" in reasons[1]
    assert failed.best is None
    assert not failed.best_file.exists()
    other = write_study(toy, search="grid", space={"epochs": [1]})
    with pytest.raises(PipelineError, match="holds another study"):
        study(toy, toy_llm, other)
    with pytest.raises(PipelineError, match="--study and --folds are not supported"):
        study(toy, toy_llm, other, folds="speaker")
    assert Grid(read_study(other)).choices(0) == {"epochs": 1}


def test_without_optuna_a_search_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    wanted = StudyFile(search="tpe", space=SPACE, trials=2)
    with pytest.raises(PipelineError, match=r"pip install 'egmf\[study\]'"):
        Optuna(wanted, tmp_path / "study.sqlite")


def command(toy: Path, llm: Path, file: Path, *more: str) -> list[str]:
    settings = [word for each in ("epochs=2", *SMALL) for word in ("--set", each)]
    return [
        *(sys.executable, "-m", "pipeline.commands.train", "--from-cache", "--dataset", "toy"),
        *("--cache", str(toy / "cache"), "--manifest", str(toy / "toy.yaml")),
        *("--runs", str(toy / "runs"), "--llm", str(llm), "--preset", "tiny", "--seed", "1"),
        *("--device", "cpu", "--study", str(file), *settings, *more),
    ]


def kill_when(arguments: list[str], sign: Path, delay: float) -> bool:
    """Start a process and kill it `delay` seconds after `sign` appears; False where it ended."""
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and not sign.exists():
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is not None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        return True
    finally:
        process.kill()
        process.wait()


def test_a_killed_study_loses_no_trial(toy: Path, toy_llm: Path) -> None:
    """Killed in its second trial, it ends with the trials of one that was left alone."""
    file = write_study(toy, search="tpe", trials=3, seed=1, space=SPACE)
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 2})
    expected = study(toy, toy_llm, file, experiment="undisturbed", settings=settings)
    place = toy / "runs" / "toy" / "study-small"
    assert kill_when(command(toy, toy_llm, file), place / "trial-001" / "seed-1" / "log.jsonl", 0)
    first = (place / "trial-000" / "trial.json").read_bytes()
    with pytest.raises(PipelineError, match=r"holds [12] of 3 trials; go on with --resume"):
        study(toy, toy_llm, file, settings=settings)
    found = study(toy, toy_llm, file, settings=settings, resume=True)
    assert known(found) == known(expected)
    assert (place / "trial-000" / "trial.json").read_bytes() == first


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_of_eight_trials_survives_kills_at_random(toy: Path, toy_llm: Path) -> None:
    file = write_study(toy, search="tpe", trials=8, seed=1, space=SPACE)
    subprocess.run(command(toy, toy_llm, file, "--experiment", "whole"), cwd=ROOT, check=True)
    place, kills = toy / "runs" / "toy" / "study-small", 0
    rng = random.Random(0)
    for number in range(8):
        sign = place / f"trial-{number:03d}" / "seed-1" / "config.yaml"
        kills += kill_when(command(toy, toy_llm, file, "--resume"), sign, rng.uniform(0, 1.5))
    subprocess.run(command(toy, toy_llm, file, "--resume"), cwd=ROOT, check=True)
    tables = [
        pd.read_csv(folder / "trials.csv").drop(columns="seconds")
        for folder in (place.parent / "whole", place)
    ]
    assert len(tables[1]) == 8
    assert kills >= 5
    pd.testing.assert_frame_equal(*tables)


def test_the_best_settings_train(toy: Path, toy_llm: Path) -> None:
    """A settings file gives what the command line leaves open."""
    file = toy / "best.yaml"
    file.write_text("fusion: concat\nmodalities: [text, audio]\nepochs: 1\ndim: 32\n")
    arguments = command(toy, toy_llm, file)
    place = arguments.index("--study")
    arguments[place] = "--settings"
    arguments += ["--modalities", "text"]
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)
    folder = RunFolder(toy / "runs" / "toy" / "concat-text" / "seed-1")
    config = folder.read_config()
    assert (config["fusion"], config["modalities"]) == ("concat", ["text"])
    assert (config["settings"]["epochs"], config["settings"]["dim"]) == (2, 16)
    assert result_of(folder)["epochs"] == 2
