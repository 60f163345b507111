"""Emotion capsules for each modality, each pair and all together, joined by routing by agreement.

After EmoCaps (arXiv 2203.13504), which encodes each modality by a transformer but calls its
concatenation a capsule, and Multimodal Routing (arXiv 2004.14198), which routes uni-, bi- and
trimodal features: here transformers encode each modality, cross-modal attention in both directions
makes the pairs, and squashed capsules of all of them vote for output capsules. The encoders can be
pre-trained without labels; see `fuse.variants.self_supervision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from fuse.config import FusionConfig
from fuse.experts import PairAttention
from fuse.streams import AttentivePooling, Stream
from fuse.variants.capsules import CapsuleRouting

OUTPUTS = 8
"""Output capsules. They stand for no class: the language model gives the answer."""


class EmoCapsFusion(nn.Module):
    """Encode each modality, make primary capsules, and route them to one vector.

    The capsules of an absent modality, of its pairs and of all together are exactly zero.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        names, dim, heads = tuple(config.inputs), config.dim, config.heads
        self.encoders = nn.ModuleDict({name: _encoder(config) for name in names})
        self.pooling = nn.ModuleDict({name: AttentivePooling(dim) for name in names})
        self.pairs = list(combinations(names, 2))
        self.attention = nn.ModuleDict(
            {
                f"{target}<{source}": PairAttention(dim, heads, config.rank, config.dropout)
                for pair in self.pairs
                for target, source in (pair, pair[::-1])
            }
        )
        sources = [*names, *map(_joined, self.pairs)]
        if len(names) > 2:
            sources.append(_joined(names))
            self.together = nn.Linear(len(self.pairs) * dim, dim)
        self.primary = nn.ModuleDict({name: nn.Linear(dim, dim) for name in sources})
        self.routing = CapsuleRouting(sources, heads, dim // heads, OUTPUTS)
        self.out = nn.Linear(OUTPUTS * (dim // heads), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return the fused vector, [batch, dim]."""
        return self.combine(self.encode(streams))

    def encode(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """Let each modality's rows see each other; the same shapes."""
        encoded = {}
        for name, stream in streams.items():
            value = self.encoders[name](stream.value, src_key_padding_mask=stream.key_padding)
            encoded[name] = Stream(value * stream.mask.unsqueeze(-1).to(value.dtype), stream.mask)
        return encoded

    def pool(self, encoded: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Pool each encoded modality to [batch, dim]; zeros where it is absent."""
        return {name: self.pooling[name](each.value, each.mask) for name, each in encoded.items()}

    def combine(self, encoded: Mapping[str, Stream]) -> Tensor:
        """Route the capsules of encoded streams to the fused vector, [batch, dim]."""
        routed: Tensor = self.routing(self.primary_capsules(encoded))
        return self.norm(self.out(routed.flatten(1)))

    def primary_capsules(self, encoded: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Return the capsules of each source side by side, [batch, dim], before the squash."""
        vectors = self.pool(encoded)
        present = {name: each.present for name, each in encoded.items()}
        paired = []
        for left, right in self.pairs:
            name = _joined((left, right))
            both = self.attention[f"{left}<{right}"](encoded[left], encoded[right])
            both = both + self.attention[f"{right}<{left}"](encoded[right], encoded[left])
            vectors[name], present[name] = both, present[left] & present[right]
            paired.append(both)
        if len(encoded) > 2:
            name = _joined(tuple(encoded))
            vectors[name] = self.together(torch.cat(paired, dim=1))
            present[name] = torch.stack([each.present for each in encoded.values()]).all(dim=0)
        return {
            name: self.primary[name](vector) * present[name].unsqueeze(1).to(vector.dtype)
            for name, vector in vectors.items()
        }


def _encoder(config: FusionConfig) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.dim,
        config.heads,
        2 * config.dim,
        config.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(
        layer, config.layers, norm=nn.LayerNorm(config.dim), enable_nested_tensor=False
    )


def _joined(names: tuple[str, ...]) -> str:
    return "+".join(names)
