"""What training does to its inputs so that the model bears missing, broken and weaker modalities.

Some utterances lose one of their modalities, some have one replaced by noise. An utterance keeps at
least one untouched modality, since with nothing left there is nothing to learn but the prior. Which
of the two happens to an utterance follows from its own seed, not from its neighbours: it is the
same however a batch is padded and shared out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fuse.streams import Stream, Turns


@dataclass(frozen=True)
class Augmented:
    """Changed streams; `dropped` and `corrupted` are [batch, modalities] bool."""

    streams: dict[str, Stream]
    dropped: Tensor
    corrupted: Tensor


def replace_by_noise(stream: Stream, rows: Tensor, generator: torch.Generator) -> Stream:
    """Replace the utterances marked in `rows` [batch] by standard normal noise: right in scale."""
    noise = torch.randn(stream.value.shape, generator=generator).to(stream.value)
    chosen = rows.to(stream.value.device).view(-1, 1, 1)
    keep = stream.mask.unsqueeze(-1).to(stream.value.dtype)
    return replace(stream, value=torch.where(chosen, noise * keep, stream.value))


def disturb(
    streams: Mapping[str, Stream],
    turns: Turns | None,
    strength: Mapping[str, float],
    generator: torch.Generator,
) -> tuple[dict[str, Stream], Turns | None]:
    """Add to every real row, the neighbours' included, `strength` times a random row of the batch.

    Features whose extractor was trained on the training labels are far more telling in training
    than they will be later; this brings them down to what they will be worth. Another row of the
    same modality is noise with the features' own distribution: white noise would miss the few
    directions in which such features lie.
    """
    changed = _disturbed(streams, strength, generator)
    if turns is None:
        return changed, None
    return changed, replace(turns, streams=_disturbed(turns.streams, strength, generator))


def augment(
    streams: Mapping[str, Stream],
    drop: float,
    noise: float,
    seeds: Sequence[int],
    most: int = 1,
) -> Augmented:
    """Drop modalities of a share `drop` of utterances, spoil one of a share `noise` of the others.

    Args:
        streams: standardised streams on the CPU; they stay as they are.
        drop: share of utterances that lose modalities; each keeps at least one.
        noise: share of utterances one of whose modalities becomes noise.
        seeds: of each utterance, the only source of randomness.
        most: modalities that are lost at most; how many is drawn evenly from one to this.
    """
    present = torch.stack([stream.present for stream in streams.values()], dim=1)
    dropped, corrupted = torch.zeros_like(present), torch.zeros_like(present)
    values = {name: stream.value.clone() for name, stream in streams.items()}
    masks = {name: stream.mask.clone() for name, stream in streams.items()}
    names = list(streams)
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        draw, place = torch.rand(2, generator=generator).tolist()
        candidates = present[row].nonzero().flatten().tolist()
        if len(candidates) < 2 or draw >= drop + noise:
            continue
        first = min(int(place * len(candidates)), len(candidates) - 1)
        if draw < drop:
            for column in _lost(candidates, first, most, generator):
                dropped[row, column] = True
                values[names[column]][row] = 0.0
                masks[names[column]][row] = False
        else:
            column = candidates[first]
            name = names[column]
            corrupted[row, column] = True
            real = masks[name][row]
            shape = (int(real.sum()), values[name].shape[2])
            values[name][row, real] = torch.randn(shape, generator=generator)
    return Augmented(
        {name: Stream(values[name], masks[name]) for name in names}, dropped, corrupted
    )


def _lost(candidates: list[int], first: int, most: int, generator: torch.Generator) -> list[int]:
    """Draw which modalities go: the one at `first`, and as many others as are drawn."""
    most = min(most, len(candidates) - 1)
    if most == 1:
        return [candidates[first]]
    others = candidates[:first] + candidates[first + 1 :]
    count = int(torch.randint(most, (1,), generator=generator))
    order = torch.randperm(len(others), generator=generator)[:count]
    return [candidates[first], *(others[each] for each in order.tolist())]


def _disturbed(
    streams: Mapping[str, Stream], strength: Mapping[str, float], generator: torch.Generator
) -> dict[str, Stream]:
    changed = dict(streams)
    for name, stream in streams.items():
        rows = stream.value[stream.mask]
        if len(rows) and name in strength:
            others = torch.randint(len(rows), (len(rows),), generator=generator)
            value = stream.value.clone()
            value[stream.mask] = rows + strength[name] * rows[others]
            changed[name] = replace(stream, value=value)
    return changed
