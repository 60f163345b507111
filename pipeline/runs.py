"""The run store: where a run's files lie, and what is written once at its start and its end.

    runs/{dataset}/{experiment}/seed-{n}/
        config.yaml  environment.json  log.jsonl  features.json  scaling.json
        calibration.json
        checkpoint/  best/  predictions-{valid,test}.csv  transfer-{dataset}.csv  result.json
        fold-{k}/                                        the same files of each fold, with --folds
    runs/joint/{A+B}/{experiment}/seed-{n}/              of several datasets (pipeline.joint)
    runs/{dataset}/{study}/                              trials on validation (pipeline.study)

`result.json` is written last: a run without one is not finished.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from extract.errors import ExtractError
from extract.files import fsync, publish_json, publish_text, sync_folder
from extract.locks import writing
from generate.errors import first_line
from pipeline.errors import PipelineError
from pipeline.identity import differing, named

RESULT_FORMAT = 1
LIBRARIES = (
    "egmf", "torch", "transformers", "peft", "openai-whisper", "open_clip_torch", "h5py",
    "dask", "numpy", "pandas", "scikit-learn", "tokenizers", "av",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and machine."""
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        """One line a step or an epoch."""
        return self.path / "log.jsonl"

    @property
    def scaling(self) -> Path:
        """Mean and deviation of each feature dimension."""
        return self.path / "scaling.json"

    @property
    def features(self) -> Path:
        """What the features were made with: each feature set's description."""
        return self.path / "features.json"

    @property
    def calibration(self) -> Path:
        """Temperature of each task, fitted on validation."""
        return self.path / "calibration.json"

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to go on after the last finished epoch."""
        return self.path / "checkpoint"

    @property
    def best(self) -> Path:
        """Weights of the epoch with the best validation score."""
        return self.path / "best"

    @property
    def result(self) -> Path:
        """Metrics, written when everything else is."""
        return self.path / "result.json"

    def predictions(self, split: str) -> Path:
        """Return the predictions of a split."""
        return self.path / f"predictions-{split}.csv"

    def transfer(self, dataset: str) -> Path:
        """Return the predictions about another dataset."""
        return self.path / f"transfer-{dataset}.csv"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.result.is_file()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, of a fold perhaps, that another run would throw away."""
        return any(self.path.glob("checkpoint*")) or any(self.path.glob("fold-*/checkpoint*"))

    def read_result(self) -> dict[str, Any]:
        """Read the metrics of a finished run.

        Raises:
            PipelineError: there is none, or the file is damaged.
        """
        if not self.finished:
            raise PipelineError(f"{self.path}: no finished run here; train one with egmf-train")
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _unreadable(self.result, error) from None
        if not isinstance(result, dict) or not isinstance(result.get("valid"), dict):
            raise PipelineError(f"{self.result} is no result; train the run again with --fresh")
        return result

    def read_config(self) -> dict[str, Any]:
        """Read the resolved settings.

        Raises:
            PipelineError: the file is missing or damaged.
        """
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise _unreadable(self.config, error) from None
        if not isinstance(config, dict):
            raise _unreadable(self.config, ValueError("it holds no settings"))
        return config

    def read_features(self) -> dict[str, dict[str, Any]]:
        """Read what the run's features were made with, by modality in the model's order.

        Raises:
            PipelineError: the file is missing or damaged.
        """
        try:
            found: dict[str, dict[str, Any]] = json.loads(self.features.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _unreadable(self.features, error) from None
        return found

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Append one JSON line to the log."""
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(jsonable(line), ensure_ascii=False) + "\n")

    def read_log(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the log; one that is cut off or damaged is left out."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def run_folder(runs: Path, dataset: str, experiment: str, seed: int) -> RunFolder:
    """Return where a run lies.

    Raises:
        PipelineError: the experiment's name is no plain folder name.
    """
    if Path(experiment).name != experiment or experiment.startswith("."):
        raise PipelineError(f"--experiment {experiment}: give a plain name without '/'")
    return RunFolder(runs / dataset / experiment / f"seed-{seed}")


@contextmanager
def claimed(folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out of a run's folder while the block lasts.

    What a killed process left of its claim is taken over, and said.

    Raises:
        PipelineError: another process is at it.
    """
    with ExitStack() as stack:
        try:
            taken_over = stack.enter_context(writing(folder.path, "this run"))
        except ExtractError as error:
            raise PipelineError(str(error)) from None
        if taken_over is not None:
            say(taken_over)
        yield


def prepare(folder: RunFolder, config: Mapping[str, Any], *, resume: bool, fresh: bool) -> bool:
    """Make ready to train in `folder`, which is claimed; False when the run is finished already.

    Raises:
        PipelineError: the folder holds a run with other settings, or an unfinished one and neither
            `resume` nor `fresh` was asked for.
    """
    text = yaml.safe_dump(jsonable(config), allow_unicode=True, sort_keys=False)
    if fresh and folder.path.exists():
        shutil.rmtree(folder.path)
    if folder.config.is_file() and (folder.finished or folder.begun):
        if others := differing(folder.read_config(), yaml.safe_load(text)):
            raise PipelineError(
                f"{folder.path}: holds a run with other settings or other features "
                f"({named(others)}); name another --experiment, or replace it with --fresh"
            )
        if folder.finished:
            return False
        if not resume:
            raise PipelineError(
                f"{folder.path}: holds an unfinished run; go on with --resume, "
                "or start again with --fresh"
            )
    folder.path.mkdir(parents=True, exist_ok=True)
    publish_text(folder.config, text)
    publish_json(folder.environment, environment())
    return True


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a run's numbers depend on."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(each) for each in range(count)],
        "cuda": torch.version.cuda,
        "libraries": versions,
    }


@contextmanager
def publishing_folder(place: Path) -> Iterator[Path]:
    """Yield a fresh folder and move it to `place` when the block ends well.

    The old one stays until the new one is there, on the disk: a power cut leaves one of them.

    Raises:
        PipelineError: the block could not write its files.
    """
    partial = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):  # peft's writer has errors of its own
            reason = error.strerror if isinstance(error, OSError) else first_line(error)
            raise PipelineError(
                f"{place}: cannot be written ({reason}); make room or check the path, then go on "
                "with --resume"
            ) from error
        raise
    old = place.with_name(f"{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    partial.rename(place)
    fsync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(place: Path) -> None:
    """Bring `place` in order when a run died in the midst of `publishing_folder`."""
    old = place.with_name(f"{place.name}.old")
    if not place.exists() and old.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    for partial in place.parent.glob(f"{place.name}.*.tmp"):
        shutil.rmtree(partial, ignore_errors=True)


def _unreadable(path: Path, error: Exception) -> PipelineError:
    reason = first_line(error)
    return PipelineError(f"{path} cannot be read: {reason}; train the run again with --fresh")


def jsonable(value: Any) -> Any:
    """Turn tuples into lists and what is not finite into None, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
