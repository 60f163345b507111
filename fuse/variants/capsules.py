"""Capsules: the squash and routing by agreement (Sabour et al., arXiv 1710.09829).

A capsule's length says how sure it is that something is there. One that is exactly zero votes for
nothing, so what is absent needs no special case in the routing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

ROUTING_ITERATIONS = 3


def squash(vectors: Tensor) -> Tensor:
    """Shrink vectors [..., width] to a length below one: `|s|^2 / (1 + |s|^2) * s / |s|`.

    Written without the division by |s|, so that zero stays zero and its gradient is finite.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * (length / (1.0 + length.square()))


def route(votes: Tensor, iterations: int = ROUTING_ITERATIONS) -> Tensor:
    """Route votes [batch, inputs, outputs, width] by agreement to [batch, outputs, width].

    Each input shares itself out among the outputs; an output that agrees with its vote gets more
    of it in the next iteration.
    """
    logits = votes.new_zeros(votes.shape[:3])
    outputs = votes.new_zeros(votes.shape[0], *votes.shape[2:])
    for iteration in range(iterations):
        if iteration:
            logits = logits + torch.einsum("biow,bow->bio", votes, outputs)
        shares = logits.softmax(dim=2)
        outputs = squash(torch.einsum("bio,biow->bow", shares, votes))
    return outputs


class CapsuleRouting(nn.Module):
    """Vote from the capsules of several sources for `outputs` capsules, and route the votes.

    A source of width `capsules * width` is as many capsules of that width side by side.
    """

    def __init__(self, sources: Sequence[str], capsules: int, width: int, outputs: int) -> None:
        super().__init__()
        self.capsules = capsules
        self.votes = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn(capsules, outputs, width, width) * width**-0.5)
                for name in sources
            }
        )

    def forward(self, sources: Mapping[str, Tensor]) -> Tensor:
        """Map sources [batch, capsules * width] to [batch, outputs, width]."""
        votes = []
        for name, vector in sources.items():
            capsules = squash(vector.view(len(vector), self.capsules, -1))
            votes.append(torch.einsum("biw,iowv->biov", capsules, self.votes[name]))
        return route(torch.cat(votes, dim=1))
