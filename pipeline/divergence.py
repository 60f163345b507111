"""What becomes of a step whose loss or gradient is not finite: it changes nothing and is counted.

Many such steps in a row mean that a model has diverged, which ends its training.
"""

from __future__ import annotations

from pipeline.checkpoints import Progress
from pipeline.errors import DivergenceError
from pipeline.runs import RunFolder
from pipeline.settings import TrainSettings
from pipeline.trackers import Track


def skip(
    progress: Progress,
    folder: RunFolder | None,
    epoch: int,
    settings: TrainSettings,
    log: Track,
    when: str,
) -> None:
    """Count a step that changed nothing; `when` it was ends the message.

    Raises:
        DivergenceError: too many in a row.
    """
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    log({"kind": "skipped", "step": progress.step, "epoch": epoch})
    if progress.skipped_in_a_row >= settings.max_skipped:
        many = f"{progress.skipped_in_a_row} steps in a row"
        raise diverged(folder, f"loss or gradient was not finite in {many}, {when}")


def diverged(folder: RunFolder | None, what: str) -> DivergenceError:
    """Return the error that says what went wrong in a run, and how to mend it."""
    where = f"{folder.path}: " if folder else ""
    return DivergenceError(
        f"{where}{what}; train with a lower --set fusion_lr=... and lora_lr=..., and --fresh"
    )
