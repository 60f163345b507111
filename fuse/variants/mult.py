"""MulT: crossmodal transformers between all directed pairs (Tsai et al., arXiv 1906.00295).

Each target modality is enriched by a stack of crossmodal blocks from every other modality; what
they return is put side by side and goes through a transformer over the target's own time, whose
last row stands for the modality. Streams are projected by a linear layer, where the authors use a
convolution over time. As in the paper, each block's source is the projected stream itself, not what
the block before it made of it. The paper's residual block before the answer is left out: the
projector that all variants share is a multilayer perceptron itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fuse.config import FusionConfig
from fuse.streams import Stream, last_row

FEED_FORWARD = 2
"""Hidden width of the feed-forward parts, in widths of their input.

The authors' code has 4; it is 2 in every transformer here, so that at equal size the parameters
make the streams wider.
"""


class CrossmodalBlock(nn.Module):
    """One layer: the target attends to the source, then a feed-forward part; pre-norm, residual."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, FEED_FORWARD * dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(FEED_FORWARD * dim, dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, value: Tensor, source: Stream) -> Tensor:
        """Map [batch, time, dim] to the same shape; an absent source adds nothing to it."""
        keys = self.attention_norm(source.value)
        seen, _ = self.attention(
            self.attention_norm(value),
            keys,
            keys,
            key_padding_mask=source.key_padding,
            need_weights=False,
        )
        there = source.present.view(-1, 1, 1).to(value.dtype)
        value = value + self.dropout(seen) * there
        return value + self.dropout(self.feed_forward(value))


class CrossmodalTransformer(nn.Module):
    """A stack of crossmodal blocks for one directed pair."""

    def __init__(self, dim: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CrossmodalBlock(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, target: Stream, source: Stream) -> Tensor:
        """Return the target's rows and what the source adds to them, nothing where it is absent."""
        value = target.value
        for block in self.blocks:
            value = block(value, source)
        enriched: Tensor = self.norm(value)
        return enriched


class MultFusion(nn.Module):
    """Pairwise crossmodal transformers, then one transformer over time for each target.

    A modality that is alone in the run has no pairs: its transformer reads its own rows.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        names, dim, heads = tuple(config.inputs), config.dim, config.heads
        self.pairs = nn.ModuleDict(
            {
                f"{target}<{source}": CrossmodalTransformer(
                    dim, heads, config.layers, config.dropout
                )
                for target in names
                for source in names
                if target != source
            }
        )
        width = dim * max(1, len(names) - 1)
        self.memories = nn.ModuleDict(
            {name: _memory(width, heads, config.layers, config.dropout) for name in names}
        )
        self.mix = nn.Linear(width * len(names), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return the fused vector, [batch, dim]; an absent modality enters as zeros."""
        last = []
        for target, stream in streams.items():
            enriched = [
                self.pairs[f"{target}<{source}"](stream, streams[source])
                for source in streams
                if source != target
            ]
            rows = torch.cat(enriched or [stream.value], dim=2)
            encoded = self.memories[target](rows, src_key_padding_mask=stream.key_padding)
            last.append(last_row(encoded, stream.mask))
        return self.norm(self.mix(torch.cat(last, dim=1)))


def _memory(width: int, heads: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, FEED_FORWARD * width, dropout, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(
        layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
    )
