"""One experiment: train each seed, score it, and write the result."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from extract.files import publish_json, publishing
from fuse.fusion import EXPERTS
from pipeline.context import find_context
from pipeline.errors import PipelineError
from pipeline.evaluation import (
    GENERATE,
    fit_temperatures,
    metrics_of,
    prediction_table,
    score,
)
from pipeline.features import Features, write_scaling
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Utterance, questions_of
from pipeline.llm import Llm
from pipeline.model import Egmf, build_model, load_model
from pipeline.probes import collapse_alarms, probe_noise, proper_subsets
from pipeline.prompting import Prompter
from pipeline.results import baselines, best_possible, describe
from pipeline.runs import RunFolder, environment, jsonable, prepare, run_folder
from pipeline.settings import TrainSettings
from pipeline.sources import (
    Corpus,
    Source,
    default_experiment,
    open_corpus,
    require_extracted,
)
from pipeline.training import Progress, Task, train

StepProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    `experiment` None names it after its modalities; `context` counts the turns before and after.
    """

    source: Source
    runs: Path
    experiment: str | None
    llm: Llm
    settings: TrainSettings
    ablate: tuple[str, ...]
    context: tuple[int, int]
    seeds: tuple[int, ...]
    device: torch.device
    resume: bool
    fresh: bool


def run_experiment(
    request: Request, progress: StepProgress, say: Callable[[str], None]
) -> list[RunFolder]:
    """Train and score every seed; returns the runs' folders.

    Raises:
        PipelineError: the cache lacks something, or a run stands in the way.
    """
    if not set(EXPERTS) - set(request.ablate):
        raise PipelineError(
            f"--ablate {', '.join(EXPERTS)}: at least one expert must stay; name fewer of them"
        )
    corpus = open_corpus(request.source, say)
    if any(request.context) and not _has_turns(corpus):
        raise PipelineError(
            f"--context: no utterance of {corpus.entry.name!r} has a group and an order, so none "
            "has neighbouring turns; leave it out, or give both columns in the table"
        )
    experiment = request.experiment or default_experiment(
        corpus.sets, request.ablate, request.context
    )
    folders = []
    for seed in request.seeds:
        folder = run_folder(request.runs, corpus.entry.name, experiment, seed)
        folders.append(folder)
        config = _config(request, corpus, experiment, seed)
        if not prepare(folder, config, resume=request.resume, fresh=request.fresh):
            folder.read_result()
            say(f"{folder.path}: finished already; --fresh trains it again")
            continue
        _run(request, corpus, config, folder, seed, progress, say)
    return folders


def _has_turns(corpus: Corpus) -> bool:
    return any(
        each.group is not None and each.order is not None
        for rows in corpus.utterances.values()
        for each in rows
    )


def _config(request: Request, corpus: Corpus, experiment: str, seed: int) -> dict[str, Any]:
    return {
        "dataset": corpus.entry.name,
        "experiment": experiment,
        "seed": seed,
        "llm": request.llm.source,
        "modalities": list(corpus.sets),
        "features": {name: each.fingerprint for name, each in corpus.sets.items()},
        "table_sha256": corpus.table_sha256,
        "fusion": "egmf",
        "ablate": list(request.ablate),
        "context": request.context[0],
        "context_after": request.context[1],
        "settings": request.settings.model_dump(mode="json"),
    }


def _run(
    request: Request,
    corpus: Corpus,
    config: Mapping[str, Any],
    folder: RunFolder,
    seed: int,
    progress: StepProgress,
    say: Callable[[str], None],
) -> None:
    started = time.monotonic()
    settings = request.settings
    require_extracted(corpus)
    features = Features(corpus.sets, settings.pool)
    features.fit([each.id for each in corpus.utterances["train"]])
    task = _task(corpus)
    torch.manual_seed(seed)
    model = build_model(
        request.llm.source,
        features.dims,
        len(task.labels) + 1,
        settings,
        ablate=request.ablate,
        reach=max(request.context),
        device=request.device,
    )
    every = [each for rows in corpus.utterances.values() for each in rows]
    inputs = Inputs(features, find_context(every, *request.context))
    prompter = _prompter(model, inputs, task, settings)
    parameters = {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in model.parameters()),
    }
    loaded = time.monotonic()
    say(
        f"{folder.path}: {parameters['trainable']:,} of {parameters['total']:,} parameters train, "
        f"on {len(corpus.utterances['train']):,} utterances of {', '.join(corpus.sets)}"
    )
    write_scaling(features.scaling, folder.scaling)
    publish_json(folder.features, {m: each.description() for m, each in corpus.sets.items()})
    steps = -(-len(corpus.utterances["train"]) // settings.batch_size) * settings.epochs
    with progress("training", steps) as advance:
        done = train(
            model,
            inputs,
            prompter,
            corpus.utterances,
            task,
            settings,
            folder,
            seed,
            advance=advance,
            say=say,
        )
    trained = time.monotonic()
    model = load_model(folder.best, request.llm.source, request.device)
    metrics = _evaluate(model, inputs, corpus, task, settings, folder)
    result = {
        **describe(request.llm, corpus, config, task),
        **metrics,
        "parameters": parameters,
        "best_epoch": done.best_epoch,
        "epochs": done.epoch,
        "steps": done.step,
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
        say(f"ALARM: {folder.path}: {alarm}")


def _task(corpus: Corpus) -> Task:
    entry = corpus.entry
    languages = sorted({each.language for rows in corpus.utterances.values() for each in rows})
    scale = entry.scores.high - entry.scores.low if entry.scores else 1.0
    return Task(
        names=tuple(entry.task),
        labels=tuple(label.name for label in entry.labels),
        score_scale=scale,
        protocol=entry.protocol,
        questions=questions_of(entry, languages),
    )


def _evaluate(
    model: Egmf,
    inputs: Inputs,
    corpus: Corpus,
    task: Task,
    settings: TrainSettings,
    folder: RunFolder,
) -> dict[str, Any]:
    """Score every split but training, write the predictions, and compare with what is trivial."""
    prompter = _prompter(model, inputs, task, settings)
    config = model.fusion.config
    write = settings.decision == GENERATE

    def judge(
        rows: Sequence[Utterance], temperatures: Mapping[str, float] | None, **how: Any
    ) -> tuple[pd.DataFrame, Mapping[str, float]]:
        size = settings.eval_batch_size
        scored = score(model, inputs, prompter, rows, task.names, size, write=write, **how)
        if temperatures is None:
            temperatures = fit_temperatures(scored)
        names = tuple(config.inputs)
        table = prediction_table(scored, config.experts, names, settings.decision, temperatures)
        return table, temperatures

    def metrics(table: pd.DataFrame) -> dict[str, Any]:
        return metrics_of(table, task.labels, task.protocol)

    valid, temperatures = judge(corpus.utterances["valid"], None)
    publish_json(folder.calibration, temperatures)
    tables = {"valid": valid}
    for split in ("test", "unlabelled"):
        if corpus.utterances.get(split):
            tables[split], _ = judge(corpus.utterances[split], temperatures)
    for split, table in tables.items():
        with publishing(folder.predictions(split)) as temporary:
            table.to_csv(temporary, index=False)
    found: dict[str, Any] = {
        "valid": metrics(valid),
        "temperatures": temperatures,
        "ceiling": best_possible(corpus, inputs.features, inputs.context.reach),
    }
    test = corpus.utterances["test"]
    if test:
        table = tables["test"]
        found["test"] = metrics(table)
        found["by_language"] = {
            str(language): metrics(part) for language, part in table.groupby("language")
        }
        found["baselines"] = baselines(corpus.utterances["train"], test, task)
        found["alarms"] = collapse_alarms(table, found["test"], found["baselines"])
        found["without"] = {
            "+".join(kept): metrics(
                judge(test, temperatures, without=set(config.inputs) - set(kept))[0]
            )
            for kept in proper_subsets(tuple(config.inputs))
        }
        several = len(config.inputs) > 1 and "modalities" in config.gate_levels
        found["noise_probe"] = (
            probe_noise(model, inputs, test, settings.eval_batch_size) if several else None
        )
    found["shortened_prompts"] = len(prompter.shortened)
    return found


def _prompter(model: Egmf, inputs: Inputs, task: Task, settings: TrainSettings) -> Prompter:
    return Prompter(
        model.language,
        task.questions,
        inputs.context,
        reads_text=TEXT in inputs.features.sets,
        max_tokens=settings.max_prompt_tokens,
    )


def _rate(corpus: Corpus, progress: Progress) -> float:
    return len(corpus.utterances["train"]) * progress.epoch / max(progress.seconds, 1e-9)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
