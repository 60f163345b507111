"""The fusion variants, behind one interface.

A core maps projected streams (`[batch, time, dim]` each) and the projected neighbouring turns, if
any, to one vector an utterance, `[batch, dim]`, and to the gate's weights, None where it has no
gate. To add a variant: write its core in a module of its own here, and name it in `make_core` and
in `fuse.config.VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from fuse.config import FusionConfig
from fuse.context import TurnAttention
from fuse.egmf import EgmfCore
from fuse.streams import Stream, Turns
from fuse.variants.concat import ConcatFusion
from fuse.variants.emo_caps import EmoCapsFusion
from fuse.variants.mse_adapter import MseAdapterFusion
from fuse.variants.mult import MultFusion

Variant = Callable[[FusionConfig], nn.Module]

UNGATED: dict[str, Variant] = {
    "concat": ConcatFusion,
    "mse-adapter": MseAdapterFusion,
    "mult": MultFusion,
    "emo-caps": EmoCapsFusion,
}
"""Variants that map streams to a vector; `forward(streams) -> [batch, dim]`."""


def make_core(config: FusionConfig) -> nn.Module:
    """Build the part of the fusion that its variant is about."""
    if config.variant == "egmf":
        return EgmfCore(config)
    return UngatedCore(config)


class UngatedCore(nn.Module):
    """A variant without a gate, and the block that shows it the neighbouring turns."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.fuse = UNGATED[config.variant](config)
        if config.reach:
            self.turns = TurnAttention(
                tuple(config.inputs), config.dim, config.heads, config.reach, config.dropout
            )

    def forward(self, streams: Mapping[str, Stream], turns: Turns | None) -> tuple[Tensor, None]:
        """Return the fused vector, [batch, dim], and no gate."""
        vector = self.fuse(streams)
        return (vector if turns is None else self.turns(vector, turns)), None
