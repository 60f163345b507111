"""Checkpoints: what a run needs to go on after its last finished epoch.

Weights, optimizer, schedule and how far training had come; no random state, since everything
random is derived from seed, epoch and step. A folder is replaced as a whole or not at all.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from generate.errors import first_line
from pipeline.distributed import Processes
from pipeline.errors import PipelineError
from pipeline.model import Egmf
from pipeline.runs import RunFolder, publishing_folder, recover_folder


@dataclass
class Progress:
    """How far a run has come; stored in its checkpoint.

    `best_epoch` is the one whose weights are kept; `seconds` include validation and pre-training,
    `step_seconds` are those of the steps alone, which took `utterances`; `skipped` counts steps
    whose loss or gradient was not finite, `skipped_in_a_row` the latest ones of them without a good
    step between.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float = -math.inf
    seconds: float = 0.0
    step_seconds: float = 0.0
    utterances: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0


def trainable(model: Egmf) -> list[nn.Parameter]:
    """Return the parameters that train, in a fixed order."""
    parts = model.trainable()
    return [*parts["fusion"], *parts["lora"]]


def save_checkpoint(
    folder: RunFolder,
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    progress: Progress,
    *,
    keep: bool,
) -> None:
    """Publish the weights where they are to be kept, then the checkpoint; never half of one."""
    if keep:
        with publishing_folder(folder.best) as partial:
            model.save(partial)
    with publishing_folder(folder.checkpoint) as partial:
        (partial / "state.pt").write_bytes(_packed(model, optimizer, schedule))
        (partial / "progress.json").write_text(json.dumps(vars(progress)))


def load_checkpoint(
    folder: RunFolder,
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> Progress:
    """Load the checkpoint where there is one.

    Raises:
        PipelineError: it is damaged.
    """
    recover_folder(folder.checkpoint)
    recover_folder(folder.best)
    if not folder.checkpoint.is_dir():
        folder.log.unlink(missing_ok=True)
        return Progress()
    try:
        stored = (folder.checkpoint / "progress.json").read_text(encoding="utf-8")
        progress = Progress(**json.loads(stored))
        state = (folder.checkpoint / "state.pt").read_bytes()
        _unpack(state, model, optimizer, schedule)
    except Exception as error:  # torch raises whatever the damage makes of its reader
        raise PipelineError(
            f"{folder.checkpoint}: damaged ({first_line(error)}); start the run again with --fresh"
        ) from error
    _cut_log(folder.log, progress.step)
    return progress


def share_state(
    processes: Processes,
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    progress: Progress,
) -> Progress:
    """Start all processes from the first one's weights, optimizer and progress."""
    if processes.count == 1:
        return progress
    packed = _packed(model, optimizer, schedule) if processes.main else None
    state, shared = processes.broadcast((packed, progress))
    if not processes.main:
        _unpack(state, model, optimizer, schedule)
    return shared


def _packed(
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> bytes:
    state = io.BytesIO()  # torch's own writer does not say that a disk is full
    torch.save(
        {
            "weights": [p.detach().cpu() for p in trainable(model)],
            "optimizer": optimizer.state_dict(),
            "schedule": {"last_epoch": schedule.last_epoch},
        },
        state,
    )
    return state.getvalue()


def _unpack(
    packed: bytes,
    model: Egmf,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> None:
    state = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    with torch.no_grad():
        for parameter, saved in zip(trainable(model), state["weights"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    schedule.last_epoch = state["schedule"]["last_epoch"]
    for group, base, factor in zip(
        optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(schedule.last_epoch)


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
