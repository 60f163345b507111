"""What the processes beside the first one do: build the model it builds, and train it along.

They learn what to train from the first process, which alone prepares runs, scores and writes; so
seeds, folds, joint runs and studies need know nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import torch

from pipeline.distributed import this_process
from pipeline.errors import PipelineError
from pipeline.fitting import Job, assemble, open_material
from pipeline.model import open_backbone
from pipeline.request import Bench
from pipeline.training import train


def follow(device: torch.device) -> None:
    """Train along on `device` until the first process is done."""
    processes = this_process()

    loaded = cache(open_backbone)
    while True:
        job: Job | None = processes.broadcast(None)
        if job is None:
            return
        request = replace(job.request, device=device)
        materials = [open_material(request, each) for each in job.corpora]
        precision = request.settings.dtype, request.settings.load_in_4bit
        backbone = partial(loaded, request.llm.source, device, *precision)
        bench = Bench(backbone, _no_progress, _nothing)
        assembly = assemble(request, materials, job.seed, bench)
        try:
            train(
                assembly.model,
                assembly.parts,
                request.settings,
                None,
                job.seed,
                advance=_nothing,
                say=_nothing,
            )
        except PipelineError:  # the first process has the same one, and says it
            continue


def dismiss() -> None:
    """Let the other processes end."""
    this_process().broadcast(None)


@contextmanager
def _no_progress(_: str, __: int) -> Iterator[Callable[[int], None]]:
    yield _nothing


def _nothing(_: object) -> None:
    pass
