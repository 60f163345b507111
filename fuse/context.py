"""Neighbouring turns for the fusion variants that have no place of their own for them.

EGMF's global expert reads the turns itself. So that a comparison with context compares fusions and
not who may look around, every other variant gets this one block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fuse.streams import Turns


class TurnAttention(nn.Module):
    """Let the fused vector of an utterance look at its neighbouring turns."""

    def __init__(
        self, modalities: tuple[str, ...], dim: int, heads: int, reach: int, dropout: float
    ) -> None:
        super().__init__()
        self.reach = reach
        self.kinds = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(dim) * 0.02) for name in modalities}
        )
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.offsets = nn.Embedding(2 * reach + 1, dim)
        self.speakers = nn.Embedding(3, dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, vector: Tensor, turns: Turns) -> Tensor:
        """Return `vector` [batch, dim] with what the turns add to it; the same shape."""
        place = self.offsets(turns.offset.clamp(-self.reach, self.reach) + self.reach)
        place = place + self.speakers(turns.speaker)
        # The start row is always real, so attention is defined where there are no turns.
        rows = [self.start.to(vector.dtype).expand(len(vector), 1, -1)]
        masks = [torch.ones(len(vector), 1, dtype=torch.bool, device=vector.device)]
        for name, stream in turns.streams.items():
            rows.append(stream.value + self.kinds[name] + place)
            masks.append(stream.mask)
        keys, mask = torch.cat(rows, dim=1), torch.cat(masks, dim=1)
        seen, _ = self.attention(
            vector.unsqueeze(1), keys, keys, key_padding_mask=~mask, need_weights=False
        )
        return self.norm(vector + seen.squeeze(1))
