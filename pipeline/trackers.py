"""The log of a run for those who watch it: TensorBoard's event files, or Weights & Biases.

`log.jsonl` stays the record; what is written here is for looking at and read by nothing of ours.
Nothing goes over a network unless Weights & Biases is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from pipeline.errors import PipelineError
from pipeline.runs import RunFolder
from pipeline.settings import TrainSettings

Track = Callable[[Mapping[str, Any]], None]


@contextmanager
def tracking(folder: RunFolder, settings: TrainSettings, step: int) -> Iterator[Track]:
    """Yield what takes the lines of the log, from `step` on.

    Raises:
        PipelineError: the tracker that was asked for is not installed.
    """
    wanted = settings.log_to
    if wanted == "auto":
        wanted = "tensorboard" if find_spec("tensorboard") else "none"
    elif wanted != "none" and not find_spec(wanted):
        raise PipelineError(f"log_to={wanted}: not installed; pip install {wanted}, or log_to=none")
    if wanted == "tensorboard":
        with _tensorboard(folder, step) as track:
            yield track
    elif wanted == "wandb":
        with _wandb(folder, settings) as track:
            yield track
    else:
        yield lambda line: None


def scalars_of(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log as they are called in a tracker."""
    names = {"loss": "train/loss", "lr": "train/lr", "train_loss": "train/epoch_loss"}
    found = {
        names.get(key, key): float(value)
        for key, value in line.items()
        if isinstance(value, int | float) and key not in ("step", "best")
    }
    return found | _flat("valid", line.get("valid") or {})


@contextmanager
def _tensorboard(folder: RunFolder, step: int) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed process wrote after its last checkpoint is done again, and purged.
    with SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1) as writer:

        def track(line: Mapping[str, Any]) -> None:
            for name, value in scalars_of(line).items():
                writer.add_scalar(name, value, line["step"])

        yield track


@contextmanager
def _wandb(folder: RunFolder, settings: TrainSettings) -> Iterator[Track]:
    import wandb

    place = folder.path.resolve()
    run = wandb.init(
        project="egmf",
        name="/".join(place.parts[-3:]),
        id=hashlib.sha256(str(place).encode()).hexdigest()[:16],
        resume="allow",
        dir=str(place),
        config=settings.model_dump(mode="json"),
    )
    try:
        yield lambda line: run.log(scalars_of(line), step=line["step"])
    finally:
        run.finish()


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}"
        found |= _flat(name, value) if isinstance(value, Mapping) else {name: float(value)}
    return found
