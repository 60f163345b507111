"""Learning without labels: rebuild a hidden segment, and tell which modalities belong together.

Two losses on the same pass. *Masked-segment reconstruction*: in one modality of each utterance a
run of rows is replaced by a learned blank, and its features are predicted from the encoded rows
around it and from the fused vector, which knows the other modalities; a stream of a single row is
thereby predicted from the others alone. *Cross-modal contrast* (InfoNCE, arXiv 1807.03748): the
pooled modalities of an utterance must find each other among those of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fuse.streams import Stream
from fuse.variants.emo_caps import EmoCapsFusion

if TYPE_CHECKING:
    from fuse.fusion import Fusion

HIDDEN_SHARE = 0.3
"""Share of a stream's rows that is hidden, at least one."""

TEMPERATURE = 0.1
"""Of the contrast's cosine similarities."""


def hide_segments(
    streams: Mapping[str, Stream], generator: torch.Generator, share: float = HIDDEN_SHARE
) -> dict[str, Tensor]:
    """Choose a run of rows in one present modality of each utterance.

    Args:
        streams: on the CPU; real rows come first.
        generator: the only source of randomness.
        share: of the modality's rows, at least one.

    Returns:
        By modality a mask [batch, time] bool of what is to be hidden.
    """
    present = torch.stack([stream.present for stream in streams.values()], dim=1)
    keys = torch.rand(present.shape, generator=generator).masked_fill(~present, -1.0)
    chosen = keys.argmax(dim=1)
    starts = torch.rand(len(present), generator=generator)
    hidden = {}
    for place, (name, stream) in enumerate(streams.items()):
        length = stream.mask.sum(dim=1)
        size = (share * length).round().clamp(min=1)
        start = (starts * (length - size + 1)).floor().unsqueeze(1)
        steps = torch.arange(stream.mask.shape[1])
        segment = (steps >= start) & (steps < start + size.unsqueeze(1)) & stream.mask
        hidden[name] = segment & (chosen == place).unsqueeze(1)
    return hidden


class SelfSupervision(nn.Module):
    """What pre-training needs beside the fusion, and what is thrown away after it."""

    def __init__(self, inputs: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.blanks = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(size)) for name, size in inputs.items()}
        )
        self.rebuild = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, size))
                for name, size in inputs.items()
            }
        )
        self.compare = nn.ModuleDict({name: nn.Linear(dim, dim) for name in inputs})

    def forward(
        self, fusion: Fusion, streams: Mapping[str, Stream], hidden: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the two losses of a batch, reconstruction and contrast; scalars.

        Args:
            fusion: an `emo-caps` fusion.
            streams: standardised features, [batch, time, size] each.
            hidden: what is to be rebuilt; see `hide_segments`.
        """
        core = core_of(fusion)
        shown = {
            name: Stream(
                torch.where(hidden[name].unsqueeze(-1), self.blanks[name], stream.value),
                stream.mask,
            )
            for name, stream in streams.items()
        }
        encoded = core.encode(fusion.project(shown))
        fused = core.combine(encoded)
        return self._reconstruction(encoded, fused, streams, hidden), self._contrast(core, encoded)

    def _reconstruction(
        self,
        encoded: Mapping[str, Stream],
        fused: Tensor,
        streams: Mapping[str, Stream],
        hidden: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the mean squared error over the hidden rows, each modality's by itself."""
        losses = []
        for name, rows in hidden.items():
            if rows.any():
                around = encoded[name].value
                known = torch.cat([around, fused.unsqueeze(1).expand_as(around)], dim=2)
                wrong = self.rebuild[name](known[rows]) - streams[name].value[rows]
                losses.append(wrong.square().mean())
        return torch.stack(losses).mean() if losses else fused.sum() * 0.0

    def _contrast(self, core: EmoCapsFusion, encoded: Mapping[str, Stream]) -> Tensor:
        """Return InfoNCE over every pair of modalities, in both directions."""
        marks = {
            name: nn.functional.normalize(self.compare[name](vector), dim=1)
            for name, vector in core.pool(encoded).items()
        }
        losses = []
        for left, right in combinations(marks, 2):
            both = encoded[left].present & encoded[right].present
            if both.sum() > 1:  # one alone has nothing to be told from
                losses.append(info_nce(marks[left][both], marks[right][both]))
        return torch.stack(losses).mean() if losses else next(iter(marks.values())).sum() * 0.0


def info_nce(left: Tensor, right: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return how badly the rows of two [n, dim] of unit vectors find each other; a scalar."""
    logits = left @ right.T / temperature
    same = torch.arange(len(left), device=left.device)
    there = nn.functional.cross_entropy(logits, same)
    return (there + nn.functional.cross_entropy(logits.T, same)) / 2


def core_of(fusion: Fusion) -> EmoCapsFusion:
    """Return the part of an `emo-caps` fusion that is pre-trained.

    Raises:
        ValueError: the fusion is another variant.
    """
    core = getattr(fusion.core, "fuse", None)
    if not isinstance(core, EmoCapsFusion):
        raise ValueError(f"only emo-caps is pre-trained, not {fusion.config.variant}")
    return core
