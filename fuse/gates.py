"""The hierarchical dynamic gate: weights over modalities inside each expert, then over experts.

Both levels read the same pooled context, the mean and standard deviation of each projected stream,
so a stream that carries noise can be recognised by its statistics and turned down. An absent
modality has a weight of exactly zero; with nothing present all modality weights are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fuse.streams import masked_softmax


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

    With `dynamic=False` both levels are plain means (the ablation): equal weights over the present
    modalities and over the experts.
    """

    def __init__(
        self,
        experts: Sequence[str],
        modalities: Sequence[str],
        dim: int,
        hidden: int = 32,
        temperature: float = 1.0,
        dynamic: bool = True,
    ) -> None:
        super().__init__()
        self.experts = tuple(experts)
        self.modalities = tuple(modalities)
        self.temperature = temperature
        self.dynamic = dynamic
        if dynamic:
            self.describe = nn.ModuleDict(
                {
                    name: nn.Sequential(nn.Linear(2 * dim, hidden), nn.GELU())
                    for name in self.modalities
                }
            )
            context = hidden * len(self.modalities)
            self.modality_level = nn.ModuleDict(
                {name: nn.Linear(hidden + context, len(self.experts)) for name in self.modalities}
            )
            self.expert_level = nn.Sequential(
                nn.Linear(context, hidden), nn.GELU(), nn.Linear(hidden, len(self.experts))
            )

    def forward(self, statistics: Tensor, present: Tensor) -> GateWeights:
        """Weigh a batch.

        Args:
            statistics: mean and standard deviation of each stream, [batch, modalities, 2 * dim].
            present: which modalities each utterance has, [batch, modalities] bool.
        """
        batch = statistics.shape[0]
        mask = present.unsqueeze(1).expand(batch, len(self.experts), len(self.modalities))
        if not self.dynamic:
            equal = mask.to(statistics.dtype)
            equal = equal / equal.sum(dim=-1, keepdim=True).clamp(min=1.0)
            experts = statistics.new_full((batch, len(self.experts)), 1 / len(self.experts))
            return GateWeights(experts, equal)
        described = [
            self.describe[name](statistics[:, i]) * present[:, i : i + 1].to(statistics.dtype)
            for i, name in enumerate(self.modalities)
        ]
        context = torch.cat(described, dim=1)
        logits = torch.stack(
            [
                self.modality_level[name](torch.cat([own, context], dim=1))
                for name, own in zip(self.modalities, described, strict=True)
            ],
            dim=2,
        )
        return GateWeights(
            experts=(self.expert_level(context) / self.temperature).softmax(dim=-1),
            modalities=masked_softmax(logits / self.temperature, mask),
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
