"""Read finished runs; list by name, with the reason, those that cannot be used.

A run folder belongs to another process that may still be writing, may have been killed, or may
come from another version. Nothing found there is trusted: what is incomplete or does not fit is
set aside and printed, so that no figure is averaged over it in silence.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.errors import PipelineError
from pipeline.runs import RESULT_FORMAT, RunFolder

Task = Literal["classification", "regression"]
Protocol = Literal["emotion", "mosi", "sims"]
Metrics = dict[str, Any]

_NEEDED: dict[str, tuple[str, ...]] = {
    "classification": ("n_classification", "accuracy", "weighted_f1", "macro_f1", "confusion"),
    "regression": ("n_regression", "mae", "corr", "acc5"),
}
_FOLD_COLUMNS = ("speaker", "group", "language")
_TEXT_COLUMNS = ("id", "task", "language", "truth", "answer", "prediction", "valid")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FeatureRecord(_Record):
    """The feature set that a run read for one modality."""

    slug: str
    fingerprint: str
    encoder: str
    dim: int
    random_weights: bool


class ProbeRecord(_Record):
    """Mean gate weight on one modality before and after its input is replaced by noise."""

    before: float
    after: float
    drop: float
    p_value: float
    n: int


class TransferRecord(_Record):
    """A run's scores on another corpus: the metrics themselves are its extra keys.

    `labels` were permitted; `mapped` has the other corpus's names that ours stand for; `rows` says
    how many rows of each task were scored and labelled; `left_out`, why a task was not scored.
    """

    model_config = ConfigDict(extra="allow")

    labels: tuple[str, ...] = ()
    mapped: dict[str, str] = {}
    rows: dict[str, dict[str, int]] = {}
    rescaled: bool = False
    left_out: str = ""

    @property
    def scores(self) -> Metrics:
        """The metrics."""
        return self.model_extra or {}


class RunResult(_Record):
    """`result.json` as training writes it; keys of later formats' additions are ignored."""

    format: int
    status: Literal["complete"]
    dataset: str
    title: str
    experiment: str
    seed: int
    task: tuple[Task, ...]
    protocol: Protocol
    modalities: tuple[str, ...]
    fusion: str
    ablate: tuple[str, ...]
    context: int
    context_after: int = 0
    select: Literal["best", "last"] = "best"
    train_languages: tuple[str, ...] = ()
    train_datasets: tuple[str, ...] = ()
    random_weights: bool
    llm: str
    labels: tuple[str, ...]
    label_words: dict[str, dict[str, str]] = {}
    table_sha256: str
    features: dict[str, FeatureRecord]
    count_mismatch: str | None = None
    quarantined: dict[str, dict[str, int]] = {}
    test: Metrics | None = None
    valid: Metrics
    by_language: dict[str, Metrics] = {}
    without: dict[str, Metrics] = {}
    folds: tuple[Metrics, ...] = ()
    transfer: dict[str, TransferRecord] = {}
    baselines: dict[str, Metrics] = {}
    alarms: tuple[str, ...] = ()
    temperatures: dict[Task, float] = {}
    ceiling: Metrics | None = None
    noise_probe: dict[str, ProbeRecord] | None = None
    shortened_prompts: int = 0
    parameters: dict[str, int]
    best_epoch: int
    epochs: int
    steps: int
    seconds: dict[str, float]
    utterances_per_second: float | None
    peak_memory_bytes: int | None
    environment: dict[str, str]

    @model_validator(mode="after")
    def _has_the_metrics_of_its_tasks(self) -> "RunResult":
        if not self.task:
            raise ValueError("task is empty")
        for task in self.task:
            missing = [key for key in _NEEDED[task] if key not in self.scores]
            if missing:
                raise ValueError(f"{self.split} lacks {', '.join(missing)}")
        if "classification" in self.task:
            rows = self.scores["confusion"]
            side = len(self.labels)
            if len(rows) != side or any(len(row) != side for row in rows):
                raise ValueError(f"{self.split}.confusion is not {side} x {side}, one row a label")
        for name, value in self.scores.items():
            if not _is_numbers(value):
                raise ValueError(f"{self.split}.{name} holds something that is no number")
        return self

    @property
    def split(self) -> Literal["test", "valid"]:
        """The split that the report shows: validation where the corpus has no test split."""
        return "valid" if self.test is None else "test"

    @property
    def scores(self) -> Metrics:
        """The metrics of that split."""
        return self.valid if self.test is None else self.test


def _is_numbers(value: Any) -> bool:
    """Tell whether a metric is a number or undefined, or a list or mapping of such."""
    if isinstance(value, dict):
        return all(_is_numbers(each) for each in value.values())
    if isinstance(value, list):
        return all(_is_numbers(each) for each in value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and what its result file says."""

    folder: Path
    experiment: str
    result: RunResult

    @property
    def name(self) -> str:
        """`dataset/experiment/seed-n`."""
        return f"{self.result.dataset}/{self.experiment}/seed-{self.result.seed}"

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """Predictions of the split shown, a row a question; None where the file is unusable."""
        try:
            return read_predictions(self.folder / self.predictions_file)
        except (OSError, ValueError):
            return None

    @property
    def predictions_file(self) -> str:
        """Name of the file with the predictions of the split shown."""
        return f"predictions-{self.result.split}.csv"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's resolved settings; empty where they are not recorded."""
        try:
            return RunFolder(self.folder).read_config()
        except PipelineError:
            return {}

    @cached_property
    def fold_column(self) -> str:
        """By what the run was split into folds; empty where it has the release's splits."""
        if not self.result.folds:
            return ""
        column = self.config.get("folds")
        return column if column in _FOLD_COLUMNS else "fold"

    @cached_property
    def machine(self) -> str:
        """Say what the run ran on, as far as it is recorded."""
        try:
            record = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
            system = (record["platform"], f"{record['cores']} cores", f"Python {record['python']}")
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return ", ".join(map(str, system))

    def of_task(self, task: Task) -> pd.DataFrame | None:
        """Return the predictions of one task that have a truth, ordered by id."""
        return self._by_task.get(task)

    @cached_property
    def _by_task(self) -> dict[str, pd.DataFrame]:
        if self.predictions is None:
            return {}
        known = self.predictions[self.predictions["truth"] != ""].sort_values("id", kind="stable")
        return {str(task): rows.reset_index(drop=True) for task, rows in known.groupby("task")}

    def epochs(self) -> list[dict[str, Any]]:
        """Return the epoch lines of the training log; a line cut off half-way is left out."""
        return [each for each in RunFolder(self.folder).read_log() if each.get("kind") == "epoch"]

    def steps(self) -> list[dict[str, Any]]:
        """Return the step lines of the training log."""
        return [each for each in RunFolder(self.folder).read_log() if each.get("kind") == "step"]


@dataclass(frozen=True)
class SkippedRun:
    """A run folder that the report leaves out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class LoadedRuns:
    """All runs below one folder."""

    runs: tuple[Run, ...]
    skipped: tuple[SkippedRun, ...]


def load_runs(folder: Path) -> LoadedRuns:
    """Read every `{dataset}/{experiment}/seed-{n}` below a folder.

    Raises:
        PipelineError: When the folder is missing or holds no run at all.
    """
    found = sorted(path for path in folder.glob("*/*/seed-*") if path.is_dir())
    if not found:
        problem = "holds no run" if folder.is_dir() else "is no folder"
        problem = problem if folder.exists() else "does not exist"
        raise PipelineError(f"{folder} {problem}; train one with: egmf-train --from-cache")
    runs: list[Run] = []
    skipped: list[SkippedRun] = []
    for path in found:
        try:
            runs.append(_read_run(path))
        except _Unusable as reason:
            skipped.append(SkippedRun(path.relative_to(folder).as_posix(), str(reason)))
    runs.sort(key=lambda run: (run.result.dataset, run.experiment, run.result.seed))
    return LoadedRuns(tuple(runs), tuple(skipped))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a predictions file; labels stay text, everything else becomes a number.

    Raises:
        OSError: When it cannot be opened.
        ValueError: When it is no such table.
    """
    names = pd.read_csv(path, nrows=0).columns
    missing = [name for name in _TEXT_COLUMNS if name not in names]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    numbers = names.difference(list(_TEXT_COLUMNS))
    # Labels such as "NA" are text like any other; only a number can be missing.
    frame = pd.read_csv(
        path,
        dtype=dict.fromkeys(_TEXT_COLUMNS, object),
        keep_default_na=False,
        na_values={name: ["", "nan"] for name in numbers},
    )
    for name in numbers:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["valid"] = frame["valid"].str.lower().isin(("true", "1"))
    return frame


class _Unusable(Exception):
    """Why a run folder is set aside."""


def _read_run(folder: Path) -> Run:
    path = folder / "result.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _Unusable(
            f"no result.json: still running, or stopped before its end ({_progress(folder)})"
        ) from None
    except (OSError, ValueError) as error:
        raise _Unusable(f"result.json cannot be read: {error}") from None
    version = record.get("format") if isinstance(record, dict) else None
    if version != RESULT_FORMAT:
        raise _Unusable(
            f"result.json has format {version!r}, this version reads {RESULT_FORMAT}: "
            "train it again, or report it with the version that wrote it"
        )
    try:
        result = RunResult.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _Unusable(f"result.json: {place + ': ' if place else ''}{first['msg']}") from None
    dataset, seed = folder.parent.parent.name, folder.name
    if (result.dataset, f"seed-{result.seed}") != (dataset, seed):
        raise _Unusable(
            f"result.json is of {result.dataset}, seed {result.seed}, but lies in {dataset}/{seed}"
        )
    return Run(folder, folder.parent.name, result)


def _progress(folder: Path) -> str:
    """Say how far an unfinished run came."""
    folds = [each for each in folder.glob("fold-*") if each.is_dir()]
    if folds:
        done = sum((each / "result.json").is_file() for each in folds)
        return f"{done} of the {len(folds)} folds that it began are finished"
    epochs = [each for each in RunFolder(folder).read_log() if each.get("kind") == "epoch"]
    return f"{len(epochs)} epochs in its log" if epochs else "no epoch in its log"
