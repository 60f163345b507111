"""From what was asked to a trained model: read the datasets, build the model, train it.

Shared by plain runs, joint ones and the trials of a study, which differ in what they score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.checkpoints import Progress
from pipeline.context import find_context
from pipeline.distributed import this_process
from pipeline.errors import PipelineError
from pipeline.features import Features
from pipeline.forecast import forecast
from pipeline.inputs import Inputs
from pipeline.items import Utterance, questions_of
from pipeline.judging import prompter_of
from pipeline.manifest import DatasetEntry, Label
from pipeline.model import Egmf, build_model, load_model
from pipeline.request import Bench, Request
from pipeline.runs import RunFolder
from pipeline.scaling import fit_scaling
from pipeline.sources import Corpus, require_extracted, train_on
from pipeline.training import Part, Task, steps_an_epoch, train


@dataclass(frozen=True)
class Material:
    """One dataset as a run reads it: the rows it may train on, their features, its questions."""

    corpus: Corpus
    inputs: Inputs
    task: Task


@dataclass(frozen=True)
class Assembly:
    """A fresh model and the datasets it is to be trained on, as read and as the cache has them.

    `parameters` counts the model's, those that train, and the fusion's among them.
    """

    model: Egmf
    parts: tuple[Part, ...]
    corpora: tuple[Corpus, ...]
    parameters: Mapping[str, int]


@dataclass(frozen=True)
class Job:
    """What the other processes need to know to train along."""

    request: Request
    corpora: tuple[Corpus, ...]
    seed: int


def splits_to_train(request: Request) -> tuple[str, ...]:
    """Return the splits that training needs."""
    return ("train",) if request.settings.select == "last" else ("train", "valid")


def rows_to_train(request: Request, corpus: Corpus, where: str = "") -> Corpus:
    """Leave only the languages asked for in training and validation; `where` begins messages.

    Raises:
        PipelineError: one of them is not there, or a split lacks every truth of a task.
    """
    if request.languages:
        corpus = train_on(corpus, request.languages)
    for split in splits_to_train(request):
        for task in corpus.entry.task:
            if all(each.truth(task) is None for each in corpus.utterances[split]):
                raise PipelineError(f"{where}{_untrue(corpus, split, task, request.languages)}")
    return corpus


def open_material(request: Request, corpus: Corpus) -> Material:
    """Open a dataset's features and fit their scaling on its training split.

    Raises:
        PipelineError: some rows are not extracted, or what is asked for cannot be trained.
    """
    require_extracted(corpus)
    corpus = rows_to_train(request, corpus)
    pool = request.settings.pool
    scaling = fit_scaling(corpus.sets, pool, [each.id for each in corpus.utterances["train"]])
    features = Features(corpus.sets, pool, scaling)
    every = [each for rows in corpus.utterances.values() for each in rows]
    inputs = Inputs(features, find_context(every, *request.context))
    return Material(corpus, inputs, task_of(corpus, request.settings.class_weights == "balanced"))


def assemble(request: Request, materials: Sequence[Material], seed: int, bench: Bench) -> Assembly:
    """Build a fresh model for datasets whose modalities and dimensions agree.

    The auxiliary head has one output a label, shared by the labels that mean the same.
    """
    settings = request.settings
    outputs = _outputs([each.corpus.entry for each in materials])
    backbone = bench.backbone()
    torch.manual_seed(seed)
    model = build_model(
        backbone,
        materials[0].inputs.features.dims,
        len({place for own in outputs for place in own.values()}) + 1,
        settings,
        variant=request.fusion,
        ablate=request.ablate,
        reach=max(request.context),
    )
    parts = (
        Part(
            each.corpus.entry.name,
            each.inputs,
            prompter_of(model, each.inputs, each.task, settings),
            each.corpus.utterances,
            each.task,
            own,
        )
        for each, own in zip(materials, outputs, strict=True)
    )
    corpora = tuple(each.corpus for each in materials)
    return Assembly(model, tuple(parts), corpora, _count_parameters(model))


def _count_parameters(model: Egmf) -> dict[str, int]:
    every = list(model.parameters())
    return {
        "trainable": sum(p.numel() for p in every if p.requires_grad),
        # Two quantised weights share a byte, and bytes are what is counted there.
        "total": sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in every),
        "fusion": sum(p.numel() for p in model.fusion.parameters()),
    }


def fit(
    assembly: Assembly, request: Request, folder: RunFolder, seed: int, bench: Bench
) -> tuple[Egmf, Progress]:
    """Train, or go on from the last checkpoint; returns the model with the weights to be scored.

    Raises:
        PipelineError: the checkpoint is damaged, or training diverges.
    """
    settings = request.settings
    rows = [part.utterances["train"] for part in assembly.parts]
    steps = steps_an_epoch(rows, settings)
    parameters = assembly.parameters
    on = " and ".join(
        f"{len(part.utterances['train']):,} utterances of {part.name}" for part in assembly.parts
    )
    if request.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(request.device)
    this_process().broadcast(Job(request, assembly.corpora, seed))
    expected = forecast(assembly.model, assembly.parts, settings, seed)
    bench.say(
        f"{folder.path}: {parameters['trainable']:,} of {parameters['total']:,} parameters train, "
        f"on {on} ({', '.join(assembly.parts[0].inputs.features.sets)}); {expected.line(steps)}"
    )
    with bench.progress("training", steps * settings.epochs) as advance:
        done = train(
            assembly.model,
            assembly.parts,
            settings,
            folder,
            seed,
            advance=advance,
            say=bench.say,
        )
    return load_model(folder.best, bench.backbone()), done


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


def _outputs(entries: Sequence[DatasetEntry]) -> list[dict[str, int]]:
    """Return the place of every label among the auxiliary head's outputs, by dataset."""
    places: dict[str, int] = {}
    labels: list[Label] = []
    found = []
    for entry in entries:
        same = {label.name: label.counterpart(labels) for label in entry.labels}
        for label in entry.labels:
            other = same[label.name]
            if other is None:
                places.setdefault(label.name, len(set(places.values())))
            else:
                places[label.name] = places[other.name]
        labels += entry.labels
        found.append({label.name: places[label.name] for label in entry.labels})
    return found


def _untrue(corpus: Corpus, split: str, task: str, languages: Sequence[str]) -> str:
    """Say that a split has nothing to train or validate a task with, and what to do."""
    truth = "label" if task == "classification" else "score"
    spoken = f" in {', '.join(languages)}" if languages else ""
    others = [each for each in corpus.entry.task if each != task]
    instead = f", ask {others[0]} alone with --tasks {others[0]}" if others else ""
    instead += ", or train with --select last" if split == "valid" else ""
    return (
        f"{corpus.entry.name!r}: no utterance{spoken} of the split {split!r} has a {truth}, which "
        f"{task} needs; give some of them a {truth} in the dataset's table and run egmf-extract "
        f"again{instead}"
    )


def _balanced_weights(rows: Sequence[Utterance]) -> Mapping[str, float]:
    """Weigh each label that occurs so that all weigh alike and the mean weight is one."""
    counts = Counter(each.label for each in rows if each.label is not None)
    return {label: counts.total() / (len(counts) * count) for label, count in counts.items()}
