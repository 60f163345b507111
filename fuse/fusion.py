"""EGMF's fusion: project the streams, ask the experts, gate them, write pseudo tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fuse.experts import GlobalExpert, LocalExpert, SemanticExpert
from fuse.gates import LEVELS, GateWeights, HierarchicalGate
from fuse.projector import PseudoTokenProjector
from fuse.streams import Stream, StreamProjection, Turns

EXPERTS = ("local", "semantic", "global")


@dataclass(frozen=True)
class FusionConfig:
    """Shape of the fusion.

    `inputs` maps each modality, in order, to its feature dimension; `reach` is the largest distance
    of a context turn; `tokens` counts the pseudo tokens, `targets` the auxiliary head's outputs
    (either may be 0); `gate_levels` says which levels of the gate are learned.
    """

    inputs: Mapping[str, int]
    embedding_dim: int
    embedding_rms: float
    dim: int = 64
    heads: int = 4
    layers: int = 2
    kernels: tuple[int, ...] = (1, 3, 5)
    rank: int = 16
    tokens: int = 4
    dropout: float = 0.1
    gate_temperature: float = 1.0
    gate_levels: tuple[str, ...] = LEVELS
    experts: tuple[str, ...] = EXPERTS
    targets: int = 0
    reach: int = 0

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("a fusion needs at least one modality")
        unknown = set(self.experts) - set(EXPERTS)
        if unknown or not self.experts:
            raise ValueError(f"experts must be some of {EXPERTS}, got {self.experts}")


@dataclass(frozen=True)
class Fused:
    """What the fusion returns for a batch.

    `pseudo_tokens` [batch, tokens, embedding_dim]; `vector` [batch, dim], what they were made of;
    `gate`, both levels' weights; `targets` [batch, targets], the auxiliary head's outputs.
    """

    pseudo_tokens: Tensor
    vector: Tensor
    gate: GateWeights
    targets: Tensor


class Fusion(nn.Module):
    """Experts, gate and projector over the streams of one batch."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        names, dim = tuple(config.inputs), config.dim
        self.projections = nn.ModuleDict(
            {n: StreamProjection(size, dim, config.dropout) for n, size in config.inputs.items()}
        )
        makers: dict[str, Callable[[], nn.Module]] = {
            "local": lambda: LocalExpert(names, dim, config.kernels, config.dropout),
            "semantic": lambda: SemanticExpert(
                names, dim, config.heads, config.rank, config.dropout
            ),
            "global": lambda: GlobalExpert(
                names, dim, config.heads, config.layers, config.dropout, config.reach
            ),
        }
        self.experts = nn.ModuleDict({name: makers[name]() for name in config.experts})
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in config.experts})
        self.gate = HierarchicalGate(
            config.experts,
            names,
            dim,
            temperature=config.gate_temperature,
            dynamic=config.gate_levels,
        )
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
        projected = {name: self.projections[name](streams[name]) for name in self.config.inputs}
        near = None if turns is None else self._project_turns(turns)
        present = torch.stack([stream.present for stream in projected.values()], dim=1)
        gate = self.gate(projected)
        outputs = torch.stack(
            [
                self.norms[name](expert(projected, near) if name == "global" else expert(projected))
                for name, expert in self.experts.items()
            ],
            dim=1,
        )
        vector = torch.einsum("be,bem,bemd->bd", gate.experts, gate.modalities, outputs)
        vector = vector + self.nothing * (~present.any(dim=1, keepdim=True)).to(vector.dtype)
        batch = vector.shape[0]
        return Fused(
            pseudo_tokens=self.projector(vector)
            if self.config.tokens
            else vector.new_zeros(batch, 0, self.config.embedding_dim),
            vector=vector,
            gate=gate,
            targets=self.head(vector) if self.config.targets else vector.new_zeros(batch, 0),
        )

    def _project_turns(self, turns: Turns) -> Turns:
        # A turn is one row: its place is its offset, not a position in time.
        streams = {
            name: Stream(
                cast(StreamProjection, self.projections[name]).embed(stream.value), stream.mask
            )
            for name, stream in turns.streams.items()
        }
        return Turns(streams, turns.offset, turns.speaker)
