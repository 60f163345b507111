"""Joint training: one model on several datasets, each with its own questions and scaling.

The model lies in `runs/joint/{A+B}/{experiment}/seed-{n}`, with its log and checkpoint. What it
does on each dataset lies where that dataset's other runs lie, in
`runs/{dataset}/{experiment}-joint-{A+B}/seed-{n}`: a run like any other, which the report sets
beside those trained on the dataset alone, and `egmf-predict` opens. Its weights are hard links.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extract.files import publish_json, publish_text
from pipeline.errors import PipelineError
from pipeline.experiment import (
    bench_of,
    check_parts,
    config_of,
    experiment_of,
    open_whole,
)
from pipeline.fitting import Material, assemble, fit, open_material, splits_to_train
from pipeline.one_run import costs, write_inputs, write_result
from pipeline.request import Bench, Request, StepProgress
from pipeline.runs import (
    RESULT_FORMAT,
    RunFolder,
    claimed,
    jsonable,
    prepare,
    publishing_folder,
    run_folder,
)
from pipeline.scaling import write_scaling
from pipeline.sources import Corpus

FOLDER = "joint"


@dataclass(frozen=True)
class _Member:
    """One dataset of a joint run: what was asked of it, its rows, where its results go."""

    request: Request
    corpus: Corpus
    folder: RunFolder
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.corpus.entry.name


def run_joint(
    requests: Sequence[Request], progress: StepProgress, say: Callable[[str], None]
) -> list[RunFolder]:
    """Train one model a seed on all datasets and score it on each; returns the datasets' folders.

    Args:
        requests: one a dataset, alike but for their source.
        progress: shows a bar.
        say: prints a line for people.

    Raises:
        PipelineError: there are fewer than two datasets, they do not fit together, or a run stands
            in the way.
    """
    if len({each.source.dataset for each in requests}) < 2:
        raise PipelineError("--joint needs at least two datasets; give --dataset several times")
    requests = sorted(requests, key=lambda each: each.source.dataset)
    first = requests[0]
    if first.folds is not None:
        raise PipelineError("--joint and --folds are not supported together; give one of them")
    check_parts(first)
    bench = bench_of(first, progress, say)
    corpora = [open_whole(each, splits_to_train(each), say) for each in requests]
    _check_fit(corpora, say)
    return [folder for seed in first.seeds for folder in _run_seed(requests, corpora, seed, bench)]


def _run_seed(
    requests: Sequence[Request], corpora: Sequence[Corpus], seed: int, bench: Bench
) -> list[RunFolder]:
    first = requests[0]
    names = [corpus.entry.name for corpus in corpora]
    together = "+".join(names)
    experiment = experiment_of(first, corpora[0])
    folder = run_folder(first.runs / FOLDER, together, experiment, seed)
    members = []
    for request, corpus in zip(requests, corpora, strict=True):
        own = f"{experiment}-{FOLDER}-{together}"
        place = run_folder(request.runs, corpus.entry.name, own, seed)
        config = {**config_of(request, corpus, own, seed), "joint": names}
        members.append(_Member(request, corpus, place, config))
    config = {"joint": {each.name: each.config for each in members}}
    with claimed(folder, bench.say):
        if not prepare(folder, config, resume=first.resume, fresh=first.fresh):
            bench.say(f"{folder.path}: finished already; --fresh trains it again")
            return [each.folder for each in members]
        # Whether unfinished runs may go on was asked of the whole.
        todo = [
            each
            for each in members
            if prepare(each.folder, each.config, resume=True, fresh=first.fresh)
        ]
        _train_and_score(members, todo, folder, seed, bench)
    return [each.folder for each in members]


def _train_and_score(
    members: Sequence[_Member],
    todo: Sequence[_Member],
    folder: RunFolder,
    seed: int,
    bench: Bench,
) -> None:
    """Train one model, score it on the datasets still to do, and write what the whole came to."""
    started = time.monotonic()
    request = members[0].request
    materials = [open_material(each.request, each.corpus) for each in members]
    assembly = assemble(request, materials, seed, bench)
    loading = time.monotonic() - started
    write_scaling(
        {
            f"{member.name}/{modality}": scaling
            for member, material in zip(members, materials, strict=True)
            for modality, scaling in material.inputs.features.scaling.items()
        },
        folder.scaling,
    )
    model, done = fit(assembly, request, folder, seed, bench)
    spent = costs(assembly, done, loading, request.device)
    names = [each.name for each in members]
    for member, material in zip(members, materials, strict=True):
        if member in todo:
            write_inputs(material, member.folder)
            _share(folder, member)
            write_result(
                member.request,
                member.corpus,
                material,
                member.config,
                model,
                spent,
                member.folder,
                bench,
                partners=names,
            )
    results = {each.name: each.folder.read_result() for each in members}
    _cross(members, results, materials)
    splits = {
        split: {name: each.get(split, {}) for name, each in results.items()}
        for split in ("valid", "test")
    }
    summary = {"format": RESULT_FORMAT, "status": "complete", "joint": names, **splits, **spent}
    publish_json(folder.result, jsonable(summary))


def _share(folder: RunFolder, member: _Member) -> None:
    """Give a dataset's run the weights, and the log with its own validation scores."""
    with publishing_folder(member.folder.best) as partial:
        shutil.copytree(folder.best, partial, copy_function=_link, dirs_exist_ok=True)
    lines = []
    for line in folder.log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "valid" in entry:
            entry["valid"] = entry["valid"][member.name]
        lines.append(json.dumps(entry, ensure_ascii=False))
    publish_text(member.folder.log, "".join(f"{line}\n" for line in lines))


def _link(source: str, target: str) -> str:
    """Link a file, or copy it where links are not to be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _cross(
    members: Sequence[_Member],
    results: Mapping[str, dict[str, Any]],
    materials: Sequence[Material],
) -> None:
    """Enter each dataset's test scores in the others' `transfer`, marked as trained on."""
    for member in members:
        result = results[member.name]
        for partner, material in zip(members, materials, strict=True):
            scores = results[partner.name].get("test")
            if partner.name == member.name or scores is None:
                continue
            test = partner.corpus.utterances["test"]
            tasks = material.task.names
            counts = {task: sum(row.truth(task) is not None for row in test) for task in tasks}
            result["transfer"][partner.name] = {
                "tasks": list(tasks),
                "labels": list(material.task.labels),
                "mapped": {},
                "rows": {task: {"scored": n, "labelled": n} for task, n in counts.items()},
                "rescaled": False,
                "trained_on": True,
                **scores,
            }
        publish_json(member.folder.result, jsonable(result))


def _check_fit(corpora: Sequence[Corpus], say: Callable[[str], None]) -> None:
    """Check that all datasets have the same modalities, each of one dimension.

    Raises:
        PipelineError: they have not.
    """
    everywhere = [m for m in corpora[0].sets if all(m in each.sets for each in corpora)]
    for corpus in corpora:
        if extra := [m for m in corpus.sets if m not in everywhere]:
            lacking = next(each for each in corpora if extra[0] not in each.sets)
            remedy = f"train all on --modalities {','.join(everywhere)}" if everywhere else ""
            raise PipelineError(
                f"--joint: {lacking.entry.name!r} has no {extra[0]} features, {corpus.entry.name!r}"
                f" has; extract them{', or ' + remedy if remedy else ''}"
            )
    one = corpora[0]
    for other in corpora[1:]:
        for modality in everywhere:
            ours, theirs = one.sets[modality], other.sets[modality]
            if ours.dim != theirs.dim:
                raise PipelineError(
                    f"--joint: the {modality} features of {one.entry.name!r} have {ours.dim} "
                    f"dimensions ({ours.encoder}), those of {other.entry.name!r} {theirs.dim} "
                    f"({theirs.encoder}); extract both with one encoder, or leave {modality} out "
                    "with --modalities"
                )
            if ours.fingerprint != theirs.fingerprint:
                say(
                    f"{modality}: {one.entry.name} was encoded by {ours.encoder} and "
                    f"{other.entry.name} by {theirs.encoder} or with other settings; the model "
                    "reads both alike"
                )
