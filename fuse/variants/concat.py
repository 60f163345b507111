"""Concatenation: the mean of each stream, side by side, through a multilayer perceptron.

The plainest fusion there is, and the one that any other has to beat at equal size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fuse.config import FusionConfig
from fuse.streams import Stream, masked_mean


class ConcatFusion(nn.Module):
    """Mean-pool each modality, concatenate, and mix."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.layers * config.dim
        self.mix = nn.Sequential(
            nn.Linear(dim * len(config.inputs), hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, dim),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return the fused vector, [batch, dim]; an absent modality enters as zeros."""
        pooled = [masked_mean(stream.value, stream.mask) for stream in streams.values()]
        return self.norm(self.mix(torch.cat(pooled, dim=1)))
