"""The hierarchical dynamic gate: weights over modalities inside each expert, then over experts.

Both levels read the same context, a description of each stream pooled over its rows. Rows are
looked at one by one before they are pooled: noise of the right mean and variance looks like the
real thing on average, and like nothing real row by row. An absent modality has a weight of exactly
zero; with nothing present all modality weights are zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fuse.config import LEVELS
from fuse.streams import Stream, masked_deviation, masked_mean, masked_softmax


class StreamDescription(nn.Module):
    """Describe a stream by the mean and deviation, over time, of what each row looks like."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.describe = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.GELU())

    def forward(self, stream: Stream) -> Tensor:
        """Return [batch, hidden]; zeros where the modality is absent."""
        looks = nn.functional.gelu(self.look(stream.value))
        mean = masked_mean(looks, stream.mask)
        pooled = torch.cat([mean, masked_deviation(looks, stream.mask, mean)], dim=1)
        return self.describe(pooled) * stream.present.unsqueeze(1).to(pooled.dtype)


@dataclass(frozen=True)
class GateWeights:
    """What the gate decided for a batch.

    `experts` [batch, experts] sums to one; `modalities` [batch, experts, modalities] sums to one in
    each expert (all zeros where nothing is present).
    """

    experts: Tensor
    modalities: Tensor

    @property
    def effective(self) -> Tensor:
        """Weight of each modality through all experts, [batch, modalities]."""
        return torch.einsum("be,bem->bm", self.experts, self.modalities)


class HierarchicalGate(nn.Module):
    """Two-level gate over `modalities` inside each of `experts`, then over the experts.

    A level that is not in `dynamic` is a plain mean (the ablation): equal weights over the present
    modalities, or over the experts.
    """

    def __init__(
        self,
        experts: Sequence[str],
        modalities: Sequence[str],
        dim: int,
        hidden: int = 32,
        temperature: float = 1.0,
        dynamic: Collection[str] = LEVELS,
    ) -> None:
        super().__init__()
        self.experts = tuple(experts)
        self.modalities = tuple(modalities)
        self.temperature = temperature
        self.dynamic = frozenset(dynamic)
        if not self.dynamic:
            return
        self.describe = nn.ModuleDict(
            {name: StreamDescription(dim, hidden) for name in self.modalities}
        )
        context = hidden * len(self.modalities)
        if "modalities" in self.dynamic:
            self.modality_level = nn.ModuleDict(
                {name: nn.Linear(hidden + context, len(self.experts)) for name in self.modalities}
            )
        if "experts" in self.dynamic:
            self.expert_level = nn.Sequential(
                nn.Linear(context, hidden), nn.GELU(), nn.Linear(hidden, len(self.experts))
            )

    def forward(self, streams: Mapping[str, Stream]) -> GateWeights:
        """Weigh a batch of projected streams, `[batch, time, dim]` each."""
        ordered = [streams[name] for name in self.modalities]
        present = torch.stack([stream.present for stream in ordered], dim=1)
        like, experts = ordered[0].value, len(self.experts)
        expert_logits = like.new_zeros(len(present), experts)
        modality_logits = like.new_zeros(len(present), experts, len(self.modalities))
        if self.dynamic:
            described = [
                self.describe[name](stream)
                for name, stream in zip(self.modalities, ordered, strict=True)
            ]
            context = torch.cat(described, dim=1)
            if "modalities" in self.dynamic:
                each = [
                    self.modality_level[name](torch.cat([own, context], dim=1))
                    for name, own in zip(self.modalities, described, strict=True)
                ]
                modality_logits = torch.stack(each, dim=2)
            if "experts" in self.dynamic:
                expert_logits = self.expert_level(context)
        return GateWeights(
            experts=(expert_logits / self.temperature).softmax(dim=-1),
            modalities=masked_softmax(
                modality_logits / self.temperature, present.unsqueeze(1).expand_as(modality_logits)
            ),
        )


def balance_loss(weights: GateWeights, mean: Tensor | None = None) -> Tensor:
    """Return how far the batch's mean expert weights are from uniform; keeps every expert alive.

    The squared coefficient of variation of the mean weights (importance loss of Shazeer et al.,
    arXiv 1701.06538), a scalar that is zero when the experts are used equally.

    Args:
        weights: the gate's decision.
        mean: of the expert weights, [experts], where the batch is more than what is given here.
    """
    mean = weights.experts.mean(dim=0) if mean is None else mean
    return mean.var(unbiased=False) / mean.mean().square()


def reliability_loss(weights: GateWeights, corrupted: Tensor, count: float | None = None) -> Tensor:
    """Return the penalty for attending to modalities that are known to be corrupted.

    Args:
        weights: the gate's decision.
        corrupted: [batch, modalities] bool, true where training replaced the input by noise.
        count: of corrupted entries, where the batch is more than what is given here.

    The mean of -log(1 - w) over the corrupted entries, zero when there is none. An utterance whose
    only present modality is corrupted cannot turn it down and must not be counted by the caller.
    """
    kept = (1.0 - weights.effective).clamp(min=1e-4)
    hit = corrupted.to(kept.dtype)
    total = hit.sum().clamp(min=1.0) if count is None else max(count, 1.0)
    return -(kept.log() * hit).sum() / total


def entropy_loss(weights: GateWeights, present: Tensor, count: float | None = None) -> Tensor:
    """Return how decided the gate is about single utterances; keeps it from staking all on one.

    One minus the entropy of the weights as a share of the largest possible, averaged over
    utterances (and, for the modality level, over experts), and summed over the two levels: zero for
    equal weights, such as those of a level that is not learned, one a level where all weight is on
    one. An utterance with one modality has no choice there, and none to be charged for.

    Args:
        weights: the gate's decision.
        present: [batch, modalities] bool.
        count: of utterances, where the batch is more than what is given here.
    """
    number = present.sum(dim=1)
    largest = number.clamp(min=2).to(weights.modalities.dtype).log().unsqueeze(1)
    decided = (1.0 - _entropy(weights.modalities) / largest).mean(dim=1)
    loss = (decided * (number > 1).to(decided.dtype)).sum()
    if (experts := weights.experts.shape[1]) > 1:
        loss = loss + (1.0 - _entropy(weights.experts) / math.log(experts)).sum()
    return loss / (len(present) if count is None else max(count, 1.0))


def _entropy(weights: Tensor) -> Tensor:
    """Return the entropy over the last dimension, in nats; a weight of zero adds nothing."""
    return -(weights * weights.clamp(min=1e-12).log()).sum(dim=-1)
