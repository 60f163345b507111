"""One experiment: every seed trained and scored, unless it is finished already."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from extract.features import list_feature_sets
from fuse.config import EXPERTS
from pipeline.errors import PipelineError
from pipeline.fitting import rows_to_train, splits_to_train
from pipeline.folds import Fold, make_folds, run_folds
from pipeline.identity import identity_of
from pipeline.model import open_backbone
from pipeline.one_run import train_and_score
from pipeline.request import Bench, Request, StepProgress
from pipeline.runs import RunFolder, claimed, prepare, run_folder
from pipeline.settings import OF_EGMF
from pipeline.sources import (
    Corpus,
    ask_only,
    check_modality_settings,
    default_experiment,
    open_corpus,
)

__all__ = ["Request", "run_experiment"]


def run_experiment(
    request: Request, progress: StepProgress, say: Callable[[str], None]
) -> list[RunFolder]:
    """Train and score every seed; returns the runs' folders.

    Raises:
        PipelineError: the cache lacks something, or a run stands in the way.
    """
    check_parts(request)
    bench = bench_of(request, progress, say)
    corpus = open_whole(request, _needed_splits(request), say)
    # A slip is found before a folder is made.
    folds = _folds(request, corpus)
    experiment = experiment_of(request, corpus)
    folders = []
    for seed in request.seeds:
        folder = run_folder(request.runs, corpus.entry.name, experiment, seed)
        folders.append(folder)
        config = config_of(request, corpus, experiment, seed)
        with claimed(folder, say):
            if not prepare(folder, config, resume=request.resume, fresh=request.fresh):
                folder.read_result()
                say(f"{folder.path}: finished already; --fresh trains it again")
            elif folds:
                run_folds(request, corpus, folds, config, folder, bench)
            else:
                train_and_score(request, corpus, config, folder, bench)
    return folders


def bench_of(request: Request, progress: StepProgress, say: Callable[[str], None]) -> Bench:
    """Return what the runs of an experiment share; the language model is loaded on first use."""
    llm, device, settings = request.llm.source, request.device, request.settings
    kind = settings.dtype, settings.load_in_4bit, settings.shard_llm
    return Bench(cache(lambda: open_backbone(llm, device, *kind)), progress, say)


def check_parts(request: Request) -> None:
    """Check that what is left out is there, and not everything.

    Raises:
        PipelineError: it is not.
    """
    if request.fusion != "egmf" and (parts := OF_EGMF.intersection(request.ablate)):
        raise PipelineError(
            f"--ablate {sorted(parts)[0]}: --fusion {request.fusion} has no such part"
        )
    if request.settings.pretrain_epochs and request.fusion != "emo-caps":
        raise PipelineError(
            f"--set pretrain_epochs={request.settings.pretrain_epochs}: only --fusion emo-caps is "
            f"pre-trained, not {request.fusion}; leave it out"
        )
    if not set(EXPERTS) - set(request.ablate):
        raise PipelineError(
            f"--ablate {', '.join(EXPERTS)}: at least one expert must stay; name fewer of them"
        )


def open_whole(request: Request, needed: tuple[str, ...], say: Callable[[str], None]) -> Corpus:
    """Open the dataset of a request with the tasks asked for.

    Raises:
        PipelineError: the cache lacks something, a split has nothing to train a task with, or
            nothing has the context asked for.
    """
    corpus = open_corpus(request.source, needed, say)
    in_cache = list_feature_sets(request.source.cache, request.source.dataset)
    check_modality_settings(request.settings, [each.modality for each in in_cache])
    if request.tasks:
        corpus = ask_only(corpus, request.tasks)
    if any(request.context) and not _has_turns(corpus):
        raise PipelineError(
            f"--context: no utterance of {corpus.entry.name!r} has a group and an order, so none "
            "has neighbouring turns; leave it out, or give both columns in the table"
        )
    if request.folds is None:  # which have splits of their own
        rows_to_train(request, corpus)
    return corpus


def experiment_of(request: Request, corpus: Corpus) -> str:
    """Return the experiment's name: as given, or after what is asked for."""
    return request.experiment or default_experiment(
        request.fusion,
        corpus.sets,
        request.ablate,
        request.context,
        request.folds,
        request.languages,
        request.tasks,
    )


def config_of(request: Request, corpus: Corpus, experiment: str, seed: int) -> dict[str, Any]:
    """Return all that a run's result depends on, as its `config.yaml` stores it."""
    return {
        "dataset": corpus.entry.name,
        "experiment": experiment,
        "seed": seed,
        **identity_of(request.llm, corpus, request.runs),
        "modalities": list(corpus.sets),
        "features": {name: each.fingerprint for name, each in corpus.sets.items()},
        "table_sha256": corpus.table_sha256,
        "fusion": request.fusion,
        "ablate": list(request.ablate),
        "context": request.context[0],
        "context_after": request.context[1],
        "settings": request.settings.model_dump(mode="json"),
        **({} if request.folds is None else {"folds": request.folds}),
        **({"languages": list(request.languages)} if request.languages else {}),
        **({"tasks": list(request.tasks)} if request.tasks else {}),
    }


def _folds(request: Request, corpus: Corpus) -> list[Fold]:
    if request.folds is None:
        return []
    folds = make_folds(corpus, request.folds, validate=request.settings.select == "best")
    for each in folds:
        rows_to_train(
            request, each.corpus, f"--folds {request.folds}, {each.test} as the test split: "
        )
    return folds


def _needed_splits(request: Request) -> tuple[str, ...]:
    return () if request.folds is not None else splits_to_train(request)


def _has_turns(corpus: Corpus) -> bool:
    return any(
        each.group is not None and each.order is not None
        for rows in corpus.utterances.values()
        for each in rows
    )
