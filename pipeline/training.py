"""The training loop: AdamW, cosine with warm-up, early stopping, resumable after every epoch.

Order and augmentation are functions of seed and step, and the global random state, which dropout
uses, is set from seed and epoch when an epoch begins. A resumed run therefore needs weights,
optimizer and epoch, no random state, and goes on as if it had never stopped. A step whose loss or
gradient is not finite changes nothing and is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.ahead import ahead
from pipeline.batching import Batch, make_batch, share_of
from pipeline.checkpoints import (
    Progress,
    load_checkpoint,
    save_checkpoint,
    share_state,
    trainable,
)
from pipeline.distributed import Processes, this_process
from pipeline.divergence import diverged, skip
from pipeline.items import Utterance
from pipeline.model import Egmf
from pipeline.objective import add_gradients, counts_of
from pipeline.optimizer import make_optimizer
from pipeline.parts import Part, Task
from pipeline.pretraining import pretrain
from pipeline.runs import RunFolder
from pipeline.sampler import derive_seed, joint_batches, shares_of
from pipeline.settings import TrainSettings
from pipeline.trackers import Track, tracking
from pipeline.validation import mean_selection, validate

__all__ = ["Part", "Task", "steps_an_epoch", "train"]

LOG_EVERY = 10


def train(
    model: Egmf,
    parts: Sequence[Part],
    settings: TrainSettings,
    folder: RunFolder | None,
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
        folder: where the run lies; None in a process that trains along and writes nothing.
        seed: everything random follows from it.
        advance: called with the number of steps done.
        say: called with a line for people after every epoch.

    Raises:
        DivergenceError: the loss is not finite for too long, or no epoch's score is; in every
            process at the same step.
    """
    processes = this_process()
    rows = [part.utterances["train"] for part in parts]
    optimizer, schedule = make_optimizer(
        model, settings, settings.epochs * steps_an_epoch(rows, settings)
    )
    progress = Progress()
    if folder:
        progress = load_checkpoint(folder, model, optimizer, schedule)
        if settings.pretrain_epochs and not progress.epoch:
            pretrain(model.fusion, parts, settings, folder, seed, progress, say)
    progress = share_state(processes, model, optimizer, schedule, progress)
    advance(progress.step)
    lengths = [_lengths(part) for part in parts] if settings.length_window else None
    with _logging(folder, settings, progress.step) as log:
        while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
            started = time.monotonic()
            epoch = progress.epoch + 1
            torch.manual_seed(derive_seed(seed, epoch) + processes.rank)
            model.train()
            losses = []
            drawn = list(
                joint_batches(
                    rows,
                    settings.batch_size,
                    seed,
                    epoch,
                    temperature=settings.joint_temperature,
                    lengths=lengths,
                    window=settings.length_window,
                )
            )
            for batch in _batches(parts, drawn, settings, seed, progress.step, processes):
                loss = _step(model, optimizer, batch, settings, processes)
                progress.step += 1
                if loss is None:
                    when = f"up to step {progress.step}"
                    skip(progress, folder, epoch, settings, log, when)
                else:
                    schedule.step()
                    progress.skipped_in_a_row = 0
                    losses.append(loss)
                advance(1)
                if loss is not None and progress.step % LOG_EVERY == 0:
                    log(
                        {
                            "kind": "step",
                            "step": progress.step,
                            "epoch": epoch,
                            "loss": loss,
                            "lr": schedule.get_last_lr()[0],
                            "seconds": progress.seconds + time.monotonic() - started,
                        }
                    )
            progress.utterances += sum(len(drawn_rows) for _, drawn_rows in drawn)
            progress.step_seconds += time.monotonic() - started
            metrics = {part.name: validate(model, part, settings, processes) for part in parts}
            value = mean_selection(parts, metrics)
            keep = _is_kept(value, epoch, progress, settings)
            progress.epoch = epoch
            progress.seconds += time.monotonic() - started
            if keep:
                progress.best_epoch = epoch
                progress.best_value = progress.best_value if value is None else value
            mean_loss = sum(losses) / len(losses) if losses else None
            scalars = {name: _scalars(each) for name, each in metrics.items()}
            log(
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
            if folder:
                save_checkpoint(folder, model, optimizer, schedule, progress, keep=keep)
            say(_epoch_line(epoch, mean_loss, scalars, keep and settings.select == "best"))
    if not progress.best_epoch:
        raise diverged(folder, "no epoch had a finite score on validation")
    return progress


def steps_an_epoch(rows: Sequence[Sequence[Utterance]], settings: TrainSettings) -> int:
    """Return the number of steps of an epoch over the training rows of each dataset."""
    counts = [len(each) for each in rows]
    return sum(shares_of(counts, settings.batch_size, settings.joint_temperature))


@contextmanager
def _logging(folder: RunFolder | None, settings: TrainSettings, step: int) -> Iterator[Track]:
    """Yield what writes a line to the log and shows it to the tracker; nothing without a folder."""
    if folder is None:
        yield lambda line: None
        return
    with tracking(folder, settings, step) as track:

        def log(line: Mapping[str, Any]) -> None:
            folder.append_log(line)
            track(line)

        yield log


def _batches(
    parts: Sequence[Part],
    drawn: Sequence[tuple[int, list[Utterance]]],
    settings: TrainSettings,
    seed: int,
    first: int,
    processes: Processes,
) -> Iterator[Batch]:
    """Yield this process's share of each step, from step number `first` on, read ahead of need."""
    shares = (
        share_of(parts[place], rows, derive_seed(seed, 1_000_000 + step), processes)
        for step, (place, rows) in enumerate(drawn, start=first)
    )
    for share, read in ahead(lambda each: each.read(settings), shares):
        yield make_batch(share, read)


def _step(
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: TrainSettings,
    processes: Processes,
) -> float | None:
    """Take one optimizer step; returns the loss, or None, and nothing is changed, if not finite."""
    optimizer.zero_grad(set_to_none=True)
    counts = counts_of(batch, model.language).added_up(processes.add_numbers)
    own, common = add_gradients(model, batch, counts, settings, processes.add)
    parameters = trainable(model)
    processes.add_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
    loss = processes.add(own) + common
    if not torch.stack([loss, norm]).isfinite().all():
        return None
    optimizer.step()
    return float(loss)


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


def _out_of_patience(progress: Progress, settings: TrainSettings) -> bool:
    if settings.select == "last":
        return False
    return progress.epoch - progress.best_epoch >= settings.patience and progress.epoch > 0


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: each for key, each in metrics.items() if isinstance(each, int | float)}


def _epoch_line(
    epoch: int, loss: float | None, metrics: Mapping[str, Mapping[str, float]], best: bool
) -> str:
    shown = [
        f"{dataset + ' ' if len(metrics) > 1 else ''}{name.replace('_', ' ')} {each[name]:.3f}"
        for dataset, each in metrics.items()
        for name in ("weighted_f1", "mae", "corr")
        if name in each
    ]
    mark = "  (best so far)" if best else ""
    validation = f", validation {', '.join(shown)}" if shown else ""
    came_to = "every step was skipped" if loss is None else f"loss {loss:.3f}"
    return f"epoch {epoch}: {came_to}{validation}{mark}"
