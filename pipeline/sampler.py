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
) -> Iterator[list[Utterance]]:
    """Shuffle and cut one epoch."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(len(rows), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [rows[index] for index in order[start : start + size]]
