"""One run: train a model on a corpus, score the weights that are kept, and write the result."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from extract.files import publish_json
from pipeline.checkpoints import Progress
from pipeline.distributed import this_process
from pipeline.fitting import Assembly, Material, assemble, fit, open_material
from pipeline.judging import judge_run
from pipeline.model import Egmf
from pipeline.request import Bench, Request
from pipeline.results import describe
from pipeline.runs import RunFolder, environment, jsonable
from pipeline.scaling import write_scaling
from pipeline.sources import Corpus
from pipeline.transfer import judge_transfer


def train_and_score(
    request: Request,
    corpus: Corpus,
    config: Mapping[str, Any],
    folder: RunFolder,
    bench: Bench,
) -> None:
    """Train and score one run in its prepared folder; goes on where a checkpoint lies.

    Raises:
        PipelineError: features are missing, or training cannot go on.
    """
    started = time.monotonic()
    material = open_material(request, corpus)
    assembly = assemble(request, [material], config["seed"], bench)
    loaded = time.monotonic()
    write_inputs(material, folder)
    model, done = fit(assembly, request, folder, config["seed"], bench)
    spent = costs(assembly, done, loaded - started, request.device)
    write_result(request, corpus, material, config, model, spent, folder, bench)


def write_inputs(material: Material, folder: RunFolder) -> None:
    """Write what the run's features were made with, and their scaling."""
    write_scaling(material.inputs.features.scaling, folder.scaling)
    sets = material.corpus.sets
    publish_json(folder.features, {name: each.description() for name, each in sets.items()})


def costs(
    assembly: Assembly, done: Progress, loading: float, device: torch.device
) -> dict[str, Any]:
    """Return what `result.json` says about training; `loading` is in seconds.

    Throughput is that of the training steps. Peak memory is, on a GPU, that of this training; on a
    CPU that of the whole process since its start, with whatever it did before.
    """
    return {
        "parameters": assembly.parameters,
        "best_epoch": done.best_epoch,
        "epochs": done.epoch,
        "steps": done.step,
        "skipped_steps": done.skipped,
        "processes": this_process().count,
        "seconds": {"load": loading, "train": done.seconds},
        "utterances_per_second": done.utterances / max(done.step_seconds, 1e-9),
        "peak_memory_bytes": _peak_memory(device),
        "environment": environment()["libraries"],
    }


def write_result(
    request: Request,
    release: Corpus,
    material: Material,
    config: Mapping[str, Any],
    model: Egmf,
    spent: Mapping[str, Any],
    folder: RunFolder,
    bench: Bench,
    partners: Sequence[str] = (),
) -> None:
    """Score a trained model on a dataset and write predictions and `result.json`.

    Args:
        request: what was asked for.
        release: the dataset with all of its rows.
        material: the dataset as the model was trained on it.
        config: of the run.
        model: with the weights to be scored.
        spent: what training cost; see `costs`.
        folder: where predictions and result go.
        bench: what to tell people with.
        partners: other datasets that the model was trained on, to which nothing is a transfer.
    """
    started = time.monotonic()
    corpus, inputs, task = material.corpus, material.inputs, material.task
    metrics = judge_run(model, inputs, corpus, task, request.settings, folder)
    transfer = {}
    if request.folds is None:
        transfer = judge_transfer(
            model, material, request, metrics["temperatures"], folder, bench.say, leave_out=partners
        )
    evaluating = {"evaluate": time.monotonic() - started}
    result = {
        **describe(request.llm, release, config, task),
        **metrics,
        "transfer": transfer,
        **spent,
        "seconds": {**spent["seconds"], **evaluating},
    }
    publish_json(folder.result, jsonable(result))
    for alarm in metrics.get("alarms", ()):
        folder.append_log({"kind": "alarm", "alarm": alarm})


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
