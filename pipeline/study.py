"""A study: many short trainings on training and validation alone, to choose settings by.

    runs/{dataset}/{study}/
        study.yaml  study.sqlite             what was asked for; Optuna's memory, where it searches
        trial-{n}/                           one trial each (pipeline.trials)
        trials.csv  trials.md                every trial: settings, score, time, why it failed
        best.yaml                            the best one's settings, for egmf-train --settings

A study that is killed goes on with the trial that it was at, from that trial's checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from extract.files import publish_text, publishing
from pipeline.choices import write_choices
from pipeline.errors import PipelineError
from pipeline.experiment import bench_of, config_of, open_whole
from pipeline.identity import differing, named
from pipeline.request import Bench, Request, StepProgress
from pipeline.runs import RunFolder, claimed, jsonable, run_folder
from pipeline.searches import StudyFile, open_search, read_study, same_study
from pipeline.trials import Trial, read_trial, run_trial


@dataclass(frozen=True)
class Study:
    """A study's folder and its trials, in order."""

    folder: Path
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score, the first of several; None where all failed."""
        scored = [each for each in self.trials if each.value is not None]
        return max(scored, key=lambda each: each.value or 0.0, default=None)

    @property
    def best_file(self) -> Path:
        """The best trial's settings, as `egmf-train --settings` reads them."""
        return self.folder / "best.yaml"

    @property
    def failure(self) -> str | None:
        """Why nothing came of it; None where a trial was completed."""
        if self.best is not None:
            return None
        return (
            f"{self.folder}: none of {len(self.trials)} trials was completed, the first for this: "
            f"{self.trials[0].reason}"
        )


def run_study(
    request: Request, file: Path, progress: StepProgress, say: Callable[[str], None]
) -> Study:
    """Run a study's trials, those left of it where it has begun; named after its file.

    Raises:
        PipelineError: the file says nothing sensible, what is asked for cannot be studied, or the
            folder holds another study or an unfinished one and `resume` was not asked for.
    """
    wanted = read_study(file)
    if request.folds is not None:
        raise PipelineError("--study and --folds are not supported together; give one of them")
    # What no trial could do anything about is found before the first.
    corpus = open_whole(request, ("train", "valid"), say)
    name = request.experiment or f"study-{file.stem}"
    folder = run_folder(request.runs, request.source.dataset, name, 0).path.parent
    base = {**config_of(request, corpus, name, request.seeds[0]), "seed": request.seeds}
    with claimed(RunFolder(folder), say):
        _prepare(folder, wanted, jsonable(base), request)
        return _run_trials(request, wanted, folder, bench_of(request, progress, say))


def _run_trials(request: Request, wanted: StudyFile, folder: Path, bench: Bench) -> Study:
    search = open_search(wanted, folder)
    trials: list[Trial] = []
    for number in range(wanted.count):
        place = folder / f"trial-{number:03d}"
        trial = read_trial(place)
        if trial is None:
            bench.backbone()  # whether it can be loaded is no matter of the trial
            trial = run_trial(request, number, search.choices(number), place, bench)
            score = f"failed: {trial.reason}" if trial.value is None else f"{trial.value:.4f}"
            bench.say(f"trial {number + 1} of {wanted.count}: {score}")
        search.tell(number, trial.value)
        trials.append(trial)
        _write_tables(Study(folder, tuple(trials)))
    return Study(folder, tuple(trials))


def _prepare(folder: Path, wanted: StudyFile, base: Mapping[str, Any], request: Request) -> None:
    """Make ready to run a study in `folder`; `base` is what its trials' results depend on.

    Raises:
        PipelineError: it holds another one, or an unfinished one and nobody said to go on.
    """
    path = folder / "study.yaml"
    if request.fresh and folder.exists():
        shutil.rmtree(folder)
    if path.is_file():
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
        before = StudyFile.model_validate(held["study"])
        others = [] if same_study(before, wanted) else ["study"]
        if others := [*others, *differing(held["base"], base)]:
            raise PipelineError(
                f"{folder}: holds another study, or one with other settings or other features "
                f"({named(others)}); name another --experiment, or replace it with --fresh"
            )
        finished = len(list(folder.glob("trial-*/trial.json")))
        if finished < wanted.count and not request.resume:
            raise PipelineError(
                f"{folder}: holds {finished} of {wanted.count} trials; go on with --resume, or "
                "start again with --fresh"
            )
    elif any(folder.glob("seed-*")):
        raise PipelineError(f"{folder}: holds runs, no study; name another --experiment")
    folder.mkdir(parents=True, exist_ok=True)
    record = {"study": wanted.model_dump(mode="json"), "base": base}
    publish_text(path, yaml.safe_dump(record, allow_unicode=True, sort_keys=False))


def _write_tables(study: Study) -> None:
    """Write the tables of all trials so far, and the best one's settings."""
    best = study.best
    table = trial_table(study.trials)
    with publishing(study.folder / "trials.csv") as temporary:
        table.to_csv(temporary, index=False)
    publish_text(study.folder / "trials.md", _markdown(table, best))
    if best is not None:
        comment = (
            f"trial {best.number} of {study.folder.name}: {best.value:.4f} on validation, the best "
            f"of {len(study.trials)}"
        )
        write_choices(study.best_file, best.choices, comment)


def trial_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return a row a trial: its score, time and choices, and why it failed."""
    return pd.DataFrame(
        {
            "trial": each.number,
            "status": each.status,
            "validation": each.value,
            "seconds": round(each.seconds, 1),
            "epochs": each.epochs,
            **{name: _text(value) for name, value in each.choices.items()},
            "reason": each.reason or "",
        }
        for each in trials
    )


def _text(value: object) -> object:
    """Return a choice as a cell: lists and mappings as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _markdown(table: pd.DataFrame, best: Trial | None) -> str:
    """Return the table as Markdown, the best trial in bold."""
    lines = [
        "Mean over seeds of the best epoch's score on validation (weighted F1, minus the mean "
        "absolute error as a share of the range); the test split was not looked at.",
        "",
        _line(table.columns),
        _line(["---"] * len(table.columns)),
    ]
    for row in table.astype(object).itertuples(index=False):
        cells = [f"{each:.4g}" if isinstance(each, float) else str(each) for each in row]
        if best is not None and row.trial == best.number:
            cells = [f"**{each}**" if each else "" for each in cells]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(each).replace("|", "\\|") for each in cells) + " |"
