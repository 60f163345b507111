"""One run: train a model on a corpus, score the weights that are kept, and write the result."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from extract.files import publish_json
from pipeline.checkpoints import Progress
from pipeline.context import find_context
from pipeline.features import Features, write_scaling
from pipeline.inputs import Inputs
from pipeline.items import Utterance, questions_of
from pipeline.judging import judge_run, prompter_of
from pipeline.model import build_model, load_model
from pipeline.request import Bench, Request
from pipeline.results import describe
from pipeline.runs import RunFolder, environment, jsonable
from pipeline.sources import Corpus, require_extracted, train_on
from pipeline.training import Part, Task, steps_an_epoch, train
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
    settings = request.settings
    require_extracted(corpus)
    release, corpus = corpus, train_on(corpus, request.languages) if request.languages else corpus
    features = Features(corpus.sets, settings.pool)
    features.fit([each.id for each in corpus.utterances["train"]])
    task = task_of(corpus, settings.class_weights == "balanced")
    backbone = bench.backbone()
    torch.manual_seed(config["seed"])
    model = build_model(
        backbone,
        features.dims,
        len(task.labels) + 1,
        settings,
        variant=request.fusion,
        ablate=request.ablate,
        reach=max(request.context),
    )
    every = [each for rows in corpus.utterances.values() for each in rows]
    inputs = Inputs(features, find_context(every, *request.context))
    prompter = prompter_of(model, inputs, task, settings)
    parameters = {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in model.parameters()),
    }
    loaded = time.monotonic()
    bench.say(
        f"{folder.path}: {parameters['trainable']:,} of {parameters['total']:,} parameters train, "
        f"on {len(corpus.utterances['train']):,} utterances of {', '.join(corpus.sets)}"
    )
    write_scaling(features.scaling, folder.scaling)
    publish_json(folder.features, {m: each.description() for m, each in corpus.sets.items()})
    part = Part(corpus.entry.name, inputs, prompter, corpus.utterances, task)
    steps = steps_an_epoch([corpus.utterances["train"]], settings) * settings.epochs
    with bench.progress("training", steps) as advance:
        done = train(
            model,
            [part],
            settings,
            folder,
            config["seed"],
            advance=advance,
            say=bench.say,
        )
    trained = time.monotonic()
    model = load_model(folder.best, backbone)
    metrics = judge_run(model, inputs, corpus, task, settings, folder)
    transfer = {}
    if request.folds is None:
        transfer = judge_transfer(
            model, inputs, corpus, task, request, metrics["temperatures"], bench.say
        )
    result = {
        **describe(request.llm, release, config, task),
        **metrics,
        "transfer": transfer,
        "parameters": parameters,
        "best_epoch": done.best_epoch,
        "epochs": done.epoch,
        "steps": done.step,
        "skipped_steps": done.skipped,
        "seconds": {
            "load": loaded - started,
            "train": done.seconds,
            "evaluate": time.monotonic() - trained,
        },
        "utterances_per_second": _rate(corpus, done),
        "peak_memory_bytes": _peak_memory(request.device),
        "environment": environment()["libraries"],
    }
    publish_json(folder.result, jsonable(result))
    for alarm in metrics.get("alarms", ()):
        bench.say(f"ALARM: {folder.path}: {alarm}")


def task_of(corpus: Corpus, balanced: bool = False) -> Task:
    """Return what is asked about a corpus; `balanced` weighs its labels by inverse frequency."""
    entry = corpus.entry
    languages = sorted({each.language for rows in corpus.utterances.values() for each in rows})
    scale = entry.scores.high - entry.scores.low if entry.scores else 1.0
    return Task(
        names=tuple(entry.task),
        labels=tuple(label.name for label in entry.labels),
        score_scale=scale,
        protocol=entry.protocol,
        questions=questions_of(entry, languages),
        label_weights=_balanced_weights(corpus.utterances["train"]) if balanced else {},
    )


def _balanced_weights(rows: Sequence[Utterance]) -> dict[str, float]:
    """Weigh each label that occurs so that all weigh alike and the mean weight is one."""
    counts = Counter(each.label for each in rows if each.label is not None)
    return {label: counts.total() / (len(counts) * count) for label, count in counts.items()}


def _rate(corpus: Corpus, progress: Progress) -> float:
    return len(corpus.utterances["train"]) * progress.epoch / max(progress.seconds, 1e-9)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
