"""One trial of a study: train with some settings and look at validation, never at the test split.

A trial lies in `trial-{n}/`, with a run folder a seed below it. Its `trial.json` is written last: a
trial without one is gone on with from its checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from extract.errors import is_out_of_memory
from extract.files import publish_json
from generate.errors import first_line
from pipeline.choices import choose
from pipeline.distributed import this_process
from pipeline.errors import DivergenceError, PipelineError
from pipeline.experiment import check_parts, config_of, open_whole
from pipeline.fitting import assemble, fit, open_material
from pipeline.request import Bench, Request
from pipeline.runs import RunFolder, jsonable, prepare
from pipeline.scaling import write_scaling
from pipeline.searches import shown
from pipeline.sources import Corpus

TRIAL_FILE = "trial.json"


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    `value` is the mean over seeds of the best epoch's selection value on validation, None where
    the trial failed, for `reason`; `seconds` include what was done before the trial was resumed.
    """

    number: int
    choices: Mapping[str, Any]
    value: float | None
    reason: str | None
    seconds: float
    epochs: int

    @property
    def status(self) -> str:
        """`complete` or `failed`."""
        return "failed" if self.value is None else "complete"


def run_trial(
    request: Request, number: int, choices: Mapping[str, Any], folder: Path, bench: Bench
) -> Trial:
    """Train a trial, or go on with it.

    It has failed where its choices do not go together, where training diverges and where memory
    runs out. Whatever else goes wrong is no matter of the trial, which is tried again.

    Raises:
        PipelineError: the cache or the disk is in the way, or the trial has failed and other
            processes can no longer be told to go on.
    """
    bench.say(f"{folder}: {', '.join(shown(choices))}")
    try:
        chosen = choose(request, choices, f"trial {number}")
        check_parts(chosen)
    except PipelineError as error:
        return _end(folder, Trial(number, choices, None, first_line(error), 0.0, 0))
    try:
        done = [_train(chosen, seed, folder / f"seed-{seed}", bench) for seed in request.seeds]
    except (DivergenceError, RuntimeError, MemoryError) as error:
        diverged = isinstance(error, DivergenceError)
        if not diverged and not is_out_of_memory(error):
            raise
        trial = _end(folder, Trial(number, choices, None, first_line(error), _spent(folder), 0))
        # All processes diverge at one step, but memory and pre-training are the first one's own.
        together = diverged and not chosen.settings.pretrain_epochs
        if this_process().count > 1 and not together:
            raise PipelineError(
                f"{folder}: failed: {trial.reason}; the other processes may be in the midst of a "
                "step, so that all end here; go on with the next trial with --resume"
            ) from error
        return trial
    values, seconds, epochs = zip(*done, strict=True)
    mean = sum(values) / len(values)
    return _end(folder, Trial(number, choices, mean, None, sum(seconds), max(epochs)))


def _end(folder: Path, trial: Trial) -> Trial:
    """Write what came of a trial, and let go of its weights."""
    for weights in (*folder.glob("seed-*/checkpoint"), *folder.glob("seed-*/best")):
        shutil.rmtree(weights, ignore_errors=True)  # the best trial is trained again
    folder.mkdir(parents=True, exist_ok=True)
    publish_json(folder / TRIAL_FILE, jsonable({"status": trial.status, **asdict(trial)}))
    return trial


def read_trial(folder: Path) -> Trial | None:
    """Read a finished trial; None where there is none.

    Raises:
        PipelineError: its file is damaged.
    """
    path = folder / TRIAL_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Trial(**{name: record[name] for name in Trial.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path} cannot be read: {first_line(error)}; remove {folder} and go on with --resume"
        ) from None


def _train(request: Request, seed: int, path: Path, bench: Bench) -> tuple[float, float, int]:
    """Train one seed; returns its validation score, its seconds and its epochs."""
    folder, started = RunFolder(path), time.monotonic()
    corpus = _without_test(open_whole(request, ("train", "valid"), bench.say))
    config = config_of(request, corpus, path.parent.name, seed)
    if not prepare(folder, config, resume=True, fresh=False):
        result = folder.read_result()["valid"]
        return result["selection"], result["seconds"], result["epochs"]
    material = open_material(request, corpus)
    assembly = assemble(request, [material], seed, bench)
    write_scaling(material.inputs.features.scaling, folder.scaling)
    loading = time.monotonic() - started
    _, done = fit(assembly, request, folder, seed, bench)
    if not math.isfinite(done.best_value):
        raise DivergenceError("the last epoch had no finite score on validation")
    found = (done.best_value, done.seconds + loading, done.epoch)
    names = ("selection", "seconds", "epochs")
    publish_json(folder.result, {"valid": dict(zip(names, found, strict=True))})
    return found


def _without_test(corpus: Corpus) -> Corpus:
    """Leave all but the test split, which no trial may see."""
    return replace(corpus, utterances={**corpus.utterances, "test": ()})


def _spent(folder: Path) -> float:
    """Return the seconds that a trial had trained for, as far as its logs say."""
    logs = (RunFolder(each).read_log() for each in folder.glob("seed-*"))
    return sum(max((line.get("seconds", 0.0) for line in log), default=0.0) for log in logs)
