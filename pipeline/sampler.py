"""Which utterances make a step: a function of seed and epoch alone, so that a run can resume.

Nothing is kept from one epoch to the next; whoever knows the seed and the epoch knows its batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from pipeline.items import Utterance


def derive_seed(seed: int, number: int) -> int:
    """Combine a seed and a counter into a 63-bit seed without collisions in practice."""
    mixed = seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB
    return mixed % (1 << 63)


def steps_of(count: int, size: int) -> int:
    """Return the number of batches of an epoch."""
    return math.ceil(count / size)


def epoch_batches(
    rows: Sequence[Utterance],
    size: int,
    seed: int,
    epoch: int,
    lengths: Sequence[int] | None = None,
    window: int = 1,
) -> Iterator[list[Utterance]]:
    """Shuffle and cut one epoch.

    Args:
        rows: what is shuffled.
        size: utterances a batch; the last one may be smaller.
        seed: of the run.
        epoch: from 1.
        lengths: of each row's prompt, to group rows of similar length; None for no grouping.
        window: with lengths, the shuffled rows are sorted within windows of this many batches, and
            the batches are shuffled once more, so that none knows its place by its length.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(len(rows), generator=generator).tolist()
    if lengths is not None:
        reach = window * size
        windows = [order[start : start + reach] for start in range(0, len(order), reach)]
        order = [row for each in windows for row in sorted(each, key=lengths.__getitem__)]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if lengths is not None:
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        batches = [batches[number] for number in shuffled]
    for batch in batches:
        yield [rows[index] for index in batch]
