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
from pipeline.errors import DivergenceError
from pipeline.fitting import Assembly, Job, assemble, open_material
from pipeline.forecast import forecast
from pipeline.model import open_backbone
from pipeline.request import Bench
from pipeline.training import train


def follow(device: torch.device) -> None:
    """Train along on `device` until the first process is done."""
    processes = this_process()

    loaded = cache(open_backbone)
    assembly: Assembly | None = None
    while True:
        job: Job | str | None = processes.broadcast(None)
        if job is None:
            return
        if isinstance(job, str):
            _run_along(assembly)
            continue
        request = replace(job.request, device=device)
        materials = [open_material(request, each) for each in job.corpora]
        settings = request.settings
        kind = settings.dtype, settings.load_in_4bit, settings.shard_llm
        backbone = partial(loaded, request.llm.source, device, *kind)
        bench = Bench(backbone, _no_progress, _nothing)
        assembly = assemble(request, materials, job.seed, bench)
        forecast(assembly.model, assembly.parts, settings, job.seed)
        try:
            train(
                assembly.model,
                assembly.parts,
                settings,
                None,
                job.seed,
                advance=_nothing,
                say=_nothing,
            )
        except DivergenceError:  # the first process has the same one, and says it
            continue


def dismiss() -> None:
    """Let the other processes end."""
    this_process().broadcast(None)


@torch.no_grad()
def _run_along(assembly: Assembly | None) -> None:
    """Run the language model that the first process scores with, where it is cut."""
    if assembly is not None and assembly.model.language.sharding is not None:
        assembly.model.language.sharding.idle()


@contextmanager
def _no_progress(_: str, __: int) -> Iterator[Callable[[int], None]]:
    yield _nothing


def _nothing(_: object) -> None:
    pass
