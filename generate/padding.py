"""Prompts of unequal length in one batch, padded at the left, so that all end in one column."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from generate.prefix import Prefix


@dataclass(frozen=True)
class Padded:
    """A left-padded batch: `embeddings` [batch, length, dim] and `mask` [batch, length] bool.

    Before its first column lies `prefix`, where there is one.
    """

    embeddings: Tensor
    mask: Tensor
    prefix: Prefix | None

    @property
    def ends(self) -> Tensor:
        """Number of real tokens in each row, prefix included, [batch, 1]."""
        return self.mask.long().sum(dim=1, keepdim=True) + self._before

    @property
    def positions(self) -> Tensor:
        """Place of every token among the real ones, [batch, length]."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0) + self._before

    @property
    def seen(self) -> Tensor:
        """Which columns are real, those of the prefix included, [batch, prefix + length]."""
        return nn.functional.pad(self.mask, (self._before, 0), value=True)

    @property
    def _before(self) -> int:
        return 0 if self.prefix is None else len(self.prefix)
