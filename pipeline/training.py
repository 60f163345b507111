"""The training loop: AdamW, cosine with warm-up, early stopping, resumable after every epoch.

Order and augmentation are functions of seed and epoch, and the global random state, which dropout
uses, is set from them when an epoch begins. A resumed run therefore needs weights, optimizer and
epoch, no random state, and goes on as if it had never stopped.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from generate.errors import first_line
from pipeline.augment import Augmented, augment
from pipeline.errors import PipelineError
from pipeline.evaluation import metrics_of, prediction_table, score
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Question, QuestionKey, Utterance, written_answer
from pipeline.model import AuxiliaryTargets, Egmf, ItemBatch
from pipeline.prompting import Prompter
from pipeline.runs import RunFolder, publishing_folder, recover_folder
from pipeline.settings import TrainSettings

LOG_EVERY = 10


@dataclass(frozen=True)
class Task:
    """What a run is trained and judged on."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    score_scale: float
    protocol: str
    questions: Mapping[QuestionKey, Question]


@dataclass
class Progress:
    """How far a run has come; stored in its checkpoint."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float = -math.inf
    seconds: float = 0.0
    history: list[float] = field(default_factory=list)


def train(
    model: Egmf,
    inputs: Inputs,
    prompter: Prompter,
    utterances: Mapping[str, Sequence[Utterance]],
    task: Task,
    settings: TrainSettings,
    folder: RunFolder,
    seed: int,
    *,
    advance: Callable[[int], None],
    say: Callable[[str], None],
) -> Progress:
    """Train to the end, or on from the last checkpoint; the best weights lie in `folder.best`.

    Args:
        model: freshly built.
        inputs: features, with their scaling fitted, and context.
        prompter: of the run's questions.
        utterances: of the train and valid splits.
        task: what is asked.
        settings: of the run.
        folder: where the run lies.
        seed: everything random follows from it.
        advance: called with the number of steps done.
        say: called with a line for people after every epoch.
    """
    rows = utterances["train"]
    steps = math.ceil(len(rows) / settings.batch_size)
    optimizer, schedule = _optimizer(model, settings, settings.epochs * steps)
    progress = _load(folder, model, optimizer, schedule)
    advance(progress.step)
    while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
        started = time.monotonic()
        epoch = progress.epoch + 1
        torch.manual_seed(_mix(seed, epoch))
        model.train()
        total = 0.0
        for batch in epoch_batches(rows, settings.batch_size, seed, epoch):
            loss = _step(model, inputs, prompter, batch, task, settings, progress.step, seed)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(_trainable(model), settings.clip)
            optimizer.step()
            schedule.step()
            progress.step += 1
            total += loss.item()
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
        metrics = validate(model, inputs, prompter, utterances["valid"], task, settings)
        value = selection_value(metrics, task)
        best = value > progress.best_value
        progress.epoch = epoch
        progress.history.append(value)
        progress.seconds += time.monotonic() - started
        if best:
            progress.best_value, progress.best_epoch = value, epoch
        scalars = {key: each for key, each in metrics.items() if isinstance(each, int | float)}
        folder.append_log(
            {
                "kind": "epoch",
                "epoch": epoch,
                "step": progress.step,
                "train_loss": total / steps,
                "valid": scalars,
                "selection": value,
                "best": best,
                "seconds": progress.seconds,
            }
        )
        _save(folder, model, optimizer, schedule, progress, best)
        say(_epoch_line(epoch, total / steps, scalars, best))
    return progress


def validate(
    model: Egmf,
    inputs: Inputs,
    prompter: Prompter,
    utterances: Sequence[Utterance],
    task: Task,
    settings: TrainSettings,
) -> dict[str, Any]:
    """Score the validation split."""
    scored = score(model, inputs, prompter, utterances, task.names, settings.eval_batch_size)
    config = model.fusion.config
    # Decided by probability whatever the run's decision is: free writing is for the final scores.
    decision = "argmax" if settings.decision == "argmax" else "expectation"
    table = prediction_table(scored, config.experts, tuple(config.inputs), decision, {})
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


def epoch_batches(
    rows: Sequence[Utterance], size: int, seed: int, epoch: int
) -> Iterator[list[Utterance]]:
    """Shuffle and cut one epoch; a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    order = torch.randperm(len(rows), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [rows[index] for index in order[start : start + size]]


def _step(
    model: Egmf,
    inputs: Inputs,
    prompter: Prompter,
    batch: Sequence[Utterance],
    task: Task,
    settings: TrainSettings,
    step: int,
    seed: int,
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(_mix(seed, 1_000_000 + step))
    streams, turns = inputs.batch(batch)
    changed = augment(
        streams,
        settings.modality_dropout,
        settings.modality_noise,
        generator,
    )
    items = _items(prompter, batch, task, changed)
    auxiliary = _auxiliary(batch, task)
    return model.loss(changed.streams, turns, items, auxiliary, changed.corrupted, settings)


def _items(
    prompter: Prompter, batch: Sequence[Utterance], task: Task, changed: Augmented
) -> ItemBatch:
    """Ask every labelled question; whose text was dropped or spoiled is shown no transcript."""
    rows, prompts, answers = [], [], []
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
            answers.append(written_answer(prompter.question(name, utterance), truth))
    return ItemBatch(torch.tensor(rows), prompts, answers)


def _auxiliary(batch: Sequence[Utterance], task: Task) -> AuxiliaryTargets:
    label = [-100 if u.label is None else task.labels.index(u.label) for u in batch]
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


def _save(
    folder: RunFolder,
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    progress: Progress,
    best: bool,
) -> None:
    """Publish the best weights, then the checkpoint; neither is ever half there."""
    if best:
        with publishing_folder(folder.best) as partial:
            model.save(partial)
    with publishing_folder(folder.checkpoint) as partial:
        state = io.BytesIO()  # torch's own writer does not say that a disk is full
        torch.save(
            {
                "weights": [p.detach().cpu() for p in _trainable(model)],
                "buffers": dict(model.fusion.named_buffers()),
                "optimizer": optimizer.state_dict(),
                "schedule": {"last_epoch": schedule.last_epoch},
            },
            state,
        )
        (partial / "state.pt").write_bytes(state.getbuffer())
        (partial / "progress.json").write_text(json.dumps(vars(progress)))


def _load(
    folder: RunFolder,
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> Progress:
    """Load the checkpoint where there is one."""
    recover_folder(folder.checkpoint)
    recover_folder(folder.best)
    if not folder.checkpoint.is_dir():
        folder.log.unlink(missing_ok=True)
        return Progress()
    state, progress = _read_checkpoint(folder.checkpoint)
    with torch.no_grad():
        for parameter, saved in zip(_trainable(model), state["weights"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    schedule.last_epoch = state["schedule"]["last_epoch"]
    for group, base, factor in zip(
        optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(schedule.last_epoch)
    _cut_log(folder.log, progress.step)
    return progress


def _read_checkpoint(folder: Path) -> tuple[dict[str, Any], Progress]:
    """Read the state of model and optimizer, and how far training had come."""
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        progress = Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
    except Exception as error:  # torch raises whatever the damage makes of its reader
        raise PipelineError(
            f"{folder}: damaged ({first_line(error)}); start the run again with --fresh"
        ) from error
    return state, progress


def _cut_log(log: Path, step: int) -> None:
    """Drop the log's lines of an epoch that is done again, and a torn last line."""
    kept = []
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _trainable(model: Egmf) -> list[nn.Parameter]:
    parts = model.trainable()
    return [*parts["fusion"], *parts["lora"]]


def _out_of_patience(progress: Progress, settings: TrainSettings) -> bool:
    return progress.epoch - progress.best_epoch >= settings.patience and progress.epoch > 0


def _mix(seed: int, number: int) -> int:
    """Combine a seed and a counter into a 63-bit seed without collisions in practice."""
    mixed = seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB
    return mixed % (1 << 63)


def _epoch_line(epoch: int, loss: float, metrics: Mapping[str, float], best: bool) -> str:
    shown = [
        f"{name.replace('_', ' ')} {metrics[name]:.3f}"
        for name in ("weighted_f1", "mae", "corr")
        if name in metrics
    ]
    mark = "  (best so far)" if best else ""
    return f"epoch {epoch}: loss {loss:.3f}, validation {', '.join(shown)}{mark}"
