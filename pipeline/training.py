"""The training loop: AdamW, cosine with warm-up, early stopping, resumable after every epoch.

Order and augmentation are functions of seed and epoch, and the global random state, which dropout
uses, is set from them when an epoch begins. A resumed run therefore needs weights, optimizer and
epoch, no random state, and goes on as if it had never stopped. A step whose loss or gradient is not
finite changes nothing and is counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fuse.streams import Stream, Turns
from pipeline.ahead import ahead
from pipeline.augment import Augmented, augment, disturb
from pipeline.checkpoints import Progress, load_checkpoint, save_checkpoint, trainable
from pipeline.errors import PipelineError
from pipeline.evaluation import decision_without_writing, metrics_of, prediction_table, score
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Question, QuestionKey, Utterance, written_answer
from pipeline.model import AuxiliaryTargets, Egmf, ItemBatch
from pipeline.pretraining import pretrain
from pipeline.prompting import Prompter
from pipeline.runs import RunFolder
from pipeline.sampler import derive_seed, joint_batches, shares_of
from pipeline.settings import TrainSettings

LOG_EVERY = 10


@dataclass(frozen=True)
class Task:
    """What a run is trained and judged on.

    `label_weights` weigh the items of each label in training; empty where all count alike.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    score_scale: float
    protocol: str
    questions: Mapping[QuestionKey, Question]
    label_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One dataset of a run: its rows by split, how they are read, and what is asked about them.

    `outputs` is the place of each label among the auxiliary head's outputs, where that is not its
    place among the task's labels.
    """

    name: str
    inputs: Inputs
    prompter: Prompter
    utterances: Mapping[str, Sequence[Utterance]]
    task: Task
    outputs: Mapping[str, int] = field(default_factory=dict)


def train(
    model: Egmf,
    parts: Sequence[Part],
    settings: TrainSettings,
    folder: RunFolder,
    seed: int,
    *,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> Progress:
    """Train to the end, or on from the last checkpoint; the chosen weights lie in `folder.best`.

    Args:
        model: freshly built.
        parts: the datasets to train on; each step takes its batch from one of them.
        settings: of the run.
        folder: where the run lies.
        seed: everything random follows from it.
        advance: called with the number of steps done.
        say: called with a line for people after every epoch.
    """
    rows = [part.utterances["train"] for part in parts]
    steps = steps_an_epoch(rows, settings)
    optimizer, schedule = _optimizer(model, settings, settings.epochs * steps)
    lengths = [_lengths(part) for part in parts] if settings.length_window else None
    progress = load_checkpoint(folder, model, optimizer, schedule)
    if settings.pretrain_epochs and not progress.epoch:
        progress.seconds += pretrain(model.fusion, parts, settings, folder, seed, say)
    advance(progress.step)
    while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
        started = time.monotonic()
        epoch = progress.epoch + 1
        torch.manual_seed(derive_seed(seed, epoch))
        model.train()
        losses = []
        drawn = joint_batches(
            rows,
            settings.batch_size,
            seed,
            epoch,
            temperature=settings.joint_temperature,
            lengths=lengths,
            window=settings.length_window,
        )
        for (place, batch), read in ahead(lambda each: parts[each[0]].inputs.batch(each[1]), drawn):
            loss = _step(model, parts[place], batch, read, settings, progress.step, seed)
            progress.step += 1
            if _update(model, optimizer, loss, settings):
                schedule.step()
                progress.skipped_in_a_row = 0
                losses.append(loss.item())
            else:
                _skip(progress, folder, epoch, settings)
            advance(1)
            if progress.step % LOG_EVERY == 0:
                folder.append_log(
                    {
                        "kind": "step",
                        "step": progress.step,
                        "epoch": epoch,
                        "loss": loss.item(),
                        "lr": schedule.get_last_lr()[0],
                        "seconds": progress.seconds + time.monotonic() - started,
                    }
                )
        metrics = {part.name: validate(model, part, settings) for part in parts}
        value = _mean_selection(parts, metrics)
        keep = _is_kept(value, epoch, progress, settings)
        progress.epoch = epoch
        progress.seconds += time.monotonic() - started
        if keep:
            progress.best_epoch = epoch
            progress.best_value = progress.best_value if value is None else value
        mean_loss = sum(losses) / max(1, len(losses))
        scalars = {name: _scalars(each) for name, each in metrics.items()}
        folder.append_log(
            {
                "kind": "epoch",
                "epoch": epoch,
                "step": progress.step,
                "train_loss": mean_loss,
                "valid": scalars if len(parts) > 1 else scalars[parts[0].name],
                "selection": value,
                "best": keep,
                "skipped": progress.skipped,
                "seconds": progress.seconds,
            }
        )
        save_checkpoint(folder, model, optimizer, schedule, progress, keep=keep)
        say(_epoch_line(epoch, mean_loss, scalars, keep and settings.select == "best"))
    return progress


def steps_an_epoch(rows: Sequence[Sequence[Utterance]], settings: TrainSettings) -> int:
    """Return the number of steps of an epoch over the training rows of each dataset."""
    counts = [len(each) for each in rows]
    return sum(shares_of(counts, settings.batch_size, settings.joint_temperature))


def validate(model: Egmf, part: Part, settings: TrainSettings) -> dict[str, Any]:
    """Score a dataset's validation split; nothing where there is none."""
    utterances, task = part.utterances["valid"], part.task
    if not utterances:
        return {}
    size = settings.eval_batch_size
    scored = score(model, part.inputs, part.prompter, utterances, task.names, size)
    config = model.fusion.config
    # Decided by probability whatever the run's decision is: free writing is for the final scores.
    decision = decision_without_writing(settings.decision)
    table = prediction_table(scored, config.gated_experts, tuple(config.inputs), decision, {})
    return metrics_of(table, task.labels, task.protocol)


def selection_value(metrics: Mapping[str, Any], task: Task) -> float:
    """Return what early stopping maximises: weighted F1, minus the error as a share of the range.

    For one task this is the field's criterion (weighted F1, or the mean absolute error).
    """
    value = 0.0
    if "classification" in task.names:
        value += float(metrics["weighted_f1"])
    if "regression" in task.names:
        value -= float(metrics["mae"]) / task.score_scale
    return value


def _mean_selection(
    parts: Sequence[Part], metrics: Mapping[str, Mapping[str, Any]]
) -> float | None:
    """Return the mean of the datasets' selection values; None where there is no validation."""
    values = [
        selection_value(metrics[each.name], each.task) for each in parts if metrics[each.name]
    ]
    return sum(values) / len(values) if values else None


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: each for key, each in metrics.items() if isinstance(each, int | float)}


def _step(
    model: Egmf,
    part: Part,
    batch: Sequence[Utterance],
    read: tuple[dict[str, Stream], Turns | None],
    settings: TrainSettings,
    step: int,
    seed: int,
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, 1_000_000 + step))
    streams, turns = disturb(*read, settings.feature_noise, generator)
    changed = augment(
        streams,
        settings.modality_dropout,
        settings.modality_noise,
        generator,
    )
    items = _items(part.prompter, batch, part.task, changed)
    auxiliary = _auxiliary(batch, part)
    return model.loss(changed.streams, turns, items, auxiliary, changed.corrupted, settings)


def _update(
    model: Egmf, optimizer: torch.optim.Optimizer, loss: torch.Tensor, settings: TrainSettings
) -> bool:
    """Take one optimizer step; False, and nothing is changed, where a number is not finite."""
    optimizer.zero_grad(set_to_none=True)
    if not loss.isfinite():
        return False
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_(trainable(model), settings.clip)
    if not norm.isfinite():
        return False
    optimizer.step()
    return True


def _skip(progress: Progress, folder: RunFolder, epoch: int, settings: TrainSettings) -> None:
    """Count a step that changed nothing.

    Raises:
        PipelineError: too many in a row.
    """
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    folder.append_log({"kind": "skipped", "step": progress.step, "epoch": epoch})
    if progress.skipped_in_a_row >= settings.max_skipped:
        raise PipelineError(
            f"{folder.path}: loss or gradient was not finite in {progress.skipped_in_a_row} steps "
            f"in a row, up to step {progress.step}; train with a lower --set fusion_lr=... and "
            "lora_lr=..., and --fresh"
        )


def _is_kept(value: float | None, epoch: int, progress: Progress, settings: TrainSettings) -> bool:
    """Tell whether the weights of this epoch are the ones to be scored, as far as is known."""
    if settings.select == "last":
        return epoch == settings.epochs
    return value is not None and value > progress.best_value


def _lengths(part: Part) -> list[int]:
    """Return how long each training utterance is: its longest prompt, and its feature rows."""
    rows = part.inputs.features.lengths()
    return [
        max(part.prompter.tokens(name, each).length(0) for name in part.task.names) + rows[each.id]
        for each in part.utterances["train"]
    ]


def _items(
    prompter: Prompter, batch: Sequence[Utterance], task: Task, changed: Augmented
) -> ItemBatch:
    """Ask every labelled question; whose text was dropped or spoiled is shown no transcript."""
    rows, prompts, answers, permitted, weights = [], [], [], [], []
    spoiled = changed.dropped | changed.corrupted
    text_column = list(changed.streams).index(TEXT) if TEXT in changed.streams else None
    for row, utterance in enumerate(batch):
        hide = text_column is not None and bool(spoiled[row, text_column])
        for name in task.names:
            truth = utterance.truth(name)
            if truth is None:
                continue
            rows.append(row)
            prompts.append(prompter.tokens(name, utterance, hide_text=hide))
            question = prompter.question(name, utterance)
            answers.append(written_answer(question, truth))
            permitted.append(question.answers)
            label = name == "classification"
            weights.append(task.label_weights[str(truth)] if label and task.label_weights else 1.0)
    return ItemBatch(
        torch.tensor(rows),
        prompts,
        answers,
        permitted,
        torch.tensor(weights) if task.label_weights else None,
    )


def _auxiliary(batch: Sequence[Utterance], part: Part) -> AuxiliaryTargets:
    task = part.task
    outputs = part.outputs or {name: place for place, name in enumerate(task.labels)}
    label = [-100 if u.label is None else outputs[u.label] for u in batch]
    score = [math.nan if u.score is None else u.score / task.score_scale * 4 for u in batch]
    return AuxiliaryTargets(torch.tensor(label), torch.tensor(score))


def _optimizer(
    model: Egmf, settings: TrainSettings, total: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    parts = model.trainable()
    rates = {"fusion": settings.fusion_lr, "lora": settings.lora_lr}
    groups = []
    for name, parameters in parts.items():
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decayed]
            decay = settings.weight_decay if decayed else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": rates[name], "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups)
    warmup = max(1, round(settings.warmup * total))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.5 * (1 + math.cos(math.pi * share))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _out_of_patience(progress: Progress, settings: TrainSettings) -> bool:
    if settings.select == "last":
        return False
    return progress.epoch - progress.best_epoch >= settings.patience and progress.epoch > 0


def _epoch_line(
    epoch: int, loss: float, metrics: Mapping[str, Mapping[str, float]], best: bool
) -> str:
    shown = [
        f"{dataset + ' ' if len(metrics) > 1 else ''}{name.replace('_', ' ')} {each[name]:.3f}"
        for dataset, each in metrics.items()
        for name in ("weighted_f1", "mae", "corr")
        if name in each
    ]
    mark = "  (best so far)" if best else ""
    validation = f", validation {', '.join(shown)}" if shown else ""
    return f"epoch {epoch}: loss {loss:.3f}{validation}{mark}"
