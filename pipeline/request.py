"""What the user asked of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from generate.backbone import Backbone
from pipeline.llm import Llm
from pipeline.settings import TrainSettings
from pipeline.sources import Source

StepProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    `experiment` None names it after its modalities; `context` counts the turns before and after;
    `folds` names a column whose values are the test split in turn; `languages` are those that are
    trained on, `tasks` those that are asked at all (none named: all).
    """

    source: Source
    runs: Path
    experiment: str | None
    llm: Llm
    settings: TrainSettings
    fusion: str
    ablate: tuple[str, ...]
    context: tuple[int, int]
    seeds: tuple[int, ...]
    device: torch.device
    resume: bool
    fresh: bool
    folds: str | None = None
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What the runs of one experiment share.

    `backbone` loads the language model when a run needs it, and once; `progress` shows a bar of
    steps; `say` prints a line for people.
    """

    backbone: Callable[[], Backbone]
    progress: StepProgress
    say: Callable[[str], None]
