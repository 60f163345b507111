"""The start that several prompts share, encoded once for all of them.

A task description takes more tokens than most utterances. Its keys and values depend on nothing
that follows, so one pass over a single row serves every row of a batch, and in evaluation every
batch. Gradients flow through them: with LoRA the start is trained like the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

WORTH = 128
"""Positions that sharing must save; below, an extra pass of the model costs more than it spares."""


class SharedLayer(DynamicLayer):
    """Keeps the first keys and values it is given and puts them before those of every later pass.

    Nothing is added later, so one encoded start serves any number of batches of any size.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values, [batch, heads, start + length, dim], of start and batch."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        size = (len(key_states), -1, -1, -1)
        keys = torch.cat([self.keys.expand(size), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(size), value_states], dim=-2)


@dataclass(frozen=True)
class Prefix:
    """The tokens that prompts begin with, and what the model's layers keep of them."""

    tokens: tuple[int, ...]
    cache: Cache

    def __len__(self) -> int:
        return len(self.tokens)


def empty_cache() -> Cache:
    """Return a cache for one start; the model's layers fill it as it is encoded."""
    return Cache(layer_class_to_replicate=SharedLayer)


def common_start(sequences: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], int]:
    """Return the longest start that all sequences have in common, and how many there are."""
    start: tuple[int, ...] = ()
    count = 0
    for count, each in enumerate(sequences, start=1):
        if count == 1:
            start = each
        elif each[: len(start)] != start:
            pairs = enumerate(zip(start, each, strict=False))
            start = start[: next((at for at, pair in pairs if pair[0] != pair[1]), len(each))]
    return start, count


def reach(config: Any) -> float:
    """Return how long a text may be so that each token sees exactly what it is told to.

    Infinite for plain attention, and the width of the narrowest window. Zero where that cannot be
    told: layers with a state of their own (convolutions, recurrences) read their neighbours
    whatever the mask says, ALiBi counts columns and no positions, and attention other than that of
    `torch.nn.functional.scaled_dot_product_attention` takes other masks.
    """
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return 0.0
    if config._attn_implementation != "sdpa" or getattr(config, "alibi", False):
        return 0.0
    window = getattr(config, "sliding_window", None)
    return math.inf if window is None else float(window)
