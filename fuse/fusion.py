"""The fusion of a run: project the streams, fuse them by one of the variants, write pseudo tokens.

What the variants share lies here, so that a comparison between them compares the fusion alone: the
projection of the streams, the neighbouring turns, the pseudo-token projector, the auxiliary head
and what stands in for an utterance without any modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fuse.config import FusionConfig
from fuse.gates import GateWeights
from fuse.projector import PseudoTokenProjector
from fuse.streams import Stream, StreamProjection, Turns
from fuse.variants import make_core


@dataclass(frozen=True)
class Fused:
    """What the fusion returns for a batch.

    `pseudo_tokens` [batch, tokens, embedding_dim]; `vector` [batch, dim], what they were made of;
    `gate`, both levels' weights, None for a variant without a gate; `targets` [batch, targets], the
    auxiliary head's outputs.
    """

    pseudo_tokens: Tensor
    vector: Tensor
    gate: GateWeights | None
    targets: Tensor


class Fusion(nn.Module):
    """A fusion variant between the projected streams of a batch and its pseudo tokens."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.projections = nn.ModuleDict(
            {n: StreamProjection(size, dim, config.dropout) for n, size in config.inputs.items()}
        )
        self.core = make_core(config)
        self.nothing = nn.Parameter(torch.zeros(dim))
        if config.tokens:
            self.projector = PseudoTokenProjector(
                dim, config.tokens, config.embedding_dim, config.embedding_rms, config.dropout
            )
        if config.targets:
            self.head = nn.Linear(dim, config.targets)

    def forward(self, streams: Mapping[str, Stream], turns: Turns | None = None) -> Fused:
        """Fuse a batch of streams, `[batch, time, dim]` each, keyed as in `config.inputs`.

        An utterance with no modality of its own gets `nothing`, whatever its neighbours have: what
        others said or showed is context for a signal, not a signal.
        """
        projected = self.project(streams)
        near = None if turns is None else self._project_turns(turns)
        present = torch.stack([stream.present for stream in projected.values()], dim=1)
        vector, gate = self.core(projected, near)
        some = present.any(dim=1, keepdim=True).to(vector.dtype)
        vector = vector * some + self.nothing * (1 - some)
        batch = vector.shape[0]
        return Fused(
            pseudo_tokens=self.projector(vector)
            if self.config.tokens
            else vector.new_zeros(batch, 0, self.config.embedding_dim),
            vector=vector,
            gate=gate,
            targets=self.head(vector) if self.config.targets else vector.new_zeros(batch, 0),
        )

    def project(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """Bring every stream to the fusion's width."""
        return {name: self.projections[name](streams[name]) for name in self.config.inputs}

    def _project_turns(self, turns: Turns) -> Turns:
        # A turn is one row: its place is its offset, not a position in time.
        streams = {
            name: Stream(
                cast(StreamProjection, self.projections[name]).embed(stream.value), stream.mask
            )
            for name, stream in turns.streams.items()
        }
        return Turns(streams, turns.offset, turns.speaker)
