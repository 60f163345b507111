"""The hierarchical dynamic gate: weights over modalities inside each expert, then over experts.

Both levels read the same context, a description of each stream pooled over its rows. Rows are
looked at one by one before they are pooled: noise of the right mean and variance looks like the
real thing on average, and like nothing real row by row. An absent modality has a weight of exactly
zero; with nothing present all modality weights are zero.
"""

from __future__ import annotations

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


def balance_loss(weights: GateWeights) -> Tensor:
    """Return how far the batch's mean expert weights are from uniform; keeps every expert alive.

    The squared coefficient of variation of the mean weights (importance loss of Shazeer et al.,
    arXiv 1701.06538), a scalar that is zero when the experts are used equally.
    """
    mean = weights.experts.mean(dim=0)
    return mean.var(unbiased=False) / mean.mean().square()


def reliability_loss(weights: GateWeights, corrupted: Tensor) -> Tensor:
    """Return the penalty for attending to modalities that are known to be corrupted.

    Args:
        weights: the gate's decision.
        corrupted: [batch, modalities] bool, true where training replaced the input by noise.

    The mean of -log(1 - w) over the corrupted entries, zero when there is none. An utterance whose
    only present modality is corrupted cannot turn it down and must not be counted by the caller.
    """
    kept = (1.0 - weights.effective).clamp(min=1e-4)
    hit = corrupted.to(kept.dtype)
    return -(kept.log() * hit).sum() / hit.sum().clamp(min=1.0)
