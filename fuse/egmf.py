"""EGMF's fusion (arXiv 2601.07565): three experts, joined by the hierarchical dynamic gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fuse.config import FusionConfig
from fuse.experts import GlobalExpert, LocalExpert, SemanticExpert
from fuse.gates import GateWeights, HierarchicalGate
from fuse.streams import Stream, Turns


class EgmfCore(nn.Module):
    """The experts' outputs, each normalised, weighed by both levels of the gate."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        names, dim = tuple(config.inputs), config.dim
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

    def forward(
        self, streams: Mapping[str, Stream], turns: Turns | None
    ) -> tuple[Tensor, GateWeights]:
        """Return the fused vector, [batch, dim], and the gate's weights."""
        gate = self.gate(streams)
        outputs = torch.stack(
            [
                self.norms[name](expert(streams, turns) if name == "global" else expert(streams))
                for name, expert in self.experts.items()
            ],
            dim=1,
        )
        return torch.einsum("be,bem,bemd->bd", gate.experts, gate.modalities, outputs), gate
