"""The shape of a fusion, whichever variant it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXPERTS = ("local", "semantic", "global")
LEVELS = ("modalities", "experts")
"""The gate's levels: over modalities inside each expert, then over the experts."""

VARIANTS = ("egmf", "concat", "mse-adapter", "mult", "emo-caps")


@dataclass(frozen=True)
class FusionConfig:
    """Shape of the fusion.

    `variant` is one of `VARIANTS`; `inputs` maps each modality, in order, to its feature dimension;
    `reach` is the largest distance of a context turn; `tokens` counts the pseudo tokens, `targets`
    the auxiliary head's outputs (either may be 0). `gate_levels` says which levels of EGMF's gate
    are learned, `experts` which of its experts there are: a variant without them has none.
    """

    inputs: Mapping[str, int]
    embedding_dim: int
    embedding_rms: float
    variant: str = "egmf"
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
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {self.variant!r}")
        unknown = set(self.experts) - set(EXPERTS)
        if unknown or not self.experts:
            raise ValueError(f"experts must be some of {EXPERTS}, got {self.experts}")

    @property
    def gated_experts(self) -> tuple[str, ...]:
        """The experts that the gate weighs; none for a variant without a gate."""
        return self.experts if self.variant == "egmf" else ()
