"""Which utterances make a step: a function of seed and epoch alone, so that a run can resume.

Nothing is kept from one epoch to the next; whoever knows the seed and the epoch knows its batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

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


def shares_of(counts: Sequence[int], size: int, temperature: float) -> list[int]:
    """Share out the batches of an epoch among datasets of `counts` rows.

    An epoch has about as many batches as all datasets together; one of n rows gets a share
    proportional to n^(1 / temperature): one keeps the true proportions, above it small datasets are
    seen more often. Every dataset gets a batch at least, and one dataset alone exactly its own.

    Source: the sampling of languages in Conneau et al., arXiv 1911.02116.
    """
    whole = [steps_of(count, size) for count in counts]
    if temperature == 1.0:
        return whole
    total = sum(whole)
    weights = [count ** (1.0 / temperature) for count in counts]
    exact = [max(1.0, total * weight / sum(weights)) for weight in weights]
    return [math.floor(each + 0.5) for each in exact]


def joint_batches(
    datasets: Sequence[Sequence[Utterance]],
    size: int,
    seed: int,
    epoch: int,
    *,
    temperature: float = 1.0,
    lengths: Sequence[Sequence[int]] | None = None,
    window: int = 1,
) -> Iterator[tuple[int, list[Utterance]]]:
    """Yield the batches of one epoch, each with the place of the dataset that it comes from.

    Every dataset walks through its own passes, shuffled anew each, and an epoch takes up where the
    one before it ended: no row comes twice before every other one has come once.

    Args:
        datasets: the rows of each.
        size: utterances a batch.
        seed: of the run.
        epoch: from 1.
        temperature: see `shares_of`.
        lengths: of each row's prompt, by dataset; None for no grouping.
        window: see `epoch_batches`.
    """
    shares = shares_of([len(rows) for rows in datasets], size, temperature)
    walks = [
        _walk(
            rows,
            size,
            seed + (place << 32),
            (epoch - 1) * shares[place],
            None if lengths is None else lengths[place],
            window,
        )
        for place, rows in enumerate(datasets)
    ]
    places = [place for place, share in enumerate(shares) for _ in range(share)]
    generator = torch.Generator().manual_seed(derive_seed(seed, 2_000_000 + epoch))
    for index in torch.randperm(len(places), generator=generator).tolist():
        yield places[index], next(walks[places[index]])


def _walk(
    rows: Sequence[Utterance],
    size: int,
    seed: int,
    start: int,
    lengths: Sequence[int] | None,
    window: int,
) -> Iterator[list[Utterance]]:
    """Yield batches without end, from number `start` on, one shuffled pass after the other."""
    number, skip = divmod(start, steps_of(len(rows), size))
    while True:
        number += 1
        yield from islice(epoch_batches(rows, size, seed, number, lengths, window), skip, None)
        skip = 0
