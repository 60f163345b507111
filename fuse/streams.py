"""The common form in which modality sequences enter the experts.

A *stream* is one modality of a batch: values `[batch, time, dim]` and a mask `[batch, time]` that
is true where a row is real. An utterance without the modality has a mask that is false throughout,
so absence needs no special case further on and every non-empty subset may occur within one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Stream:
    """One modality of a batch: `value` [batch, time, dim], `mask` [batch, time] (true = real)."""

    value: Tensor
    mask: Tensor

    @property
    def present(self) -> Tensor:
        """Return which utterances have the modality at all, [batch] bool."""
        return self.mask.any(dim=1)

    @property
    def key_padding(self) -> Tensor:
        """Return which rows attention must not look at, [batch, time] bool.

        None where the modality is absent: attention over nothing would be NaN, so it sees padding
        there, and whoever asks sets the outcome to zero.
        """
        return ~self.mask & self.present.unsqueeze(1)


@dataclass(frozen=True)
class Turns:
    """The neighbouring turns of a batch, one row a turn and modality.

    `streams` maps each modality to values [batch, turns, dim] with a mask that is false where the
    turn does not exist or lacks the modality. `offset` [batch, turns] says how many turns before
    (negative) or after the utterance; `speaker` [batch, turns] is 0 where unknown, 1 for the
    utterance's own speaker, 2 for another.
    """

    streams: Mapping[str, Stream]
    offset: Tensor
    speaker: Tensor


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Average `value` [batch, time, dim] over the rows that `mask` marks; zeros where none is."""
    weight = mask.unsqueeze(-1).to(value.dtype)
    return (value * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def last_row(value: Tensor, mask: Tensor) -> Tensor:
    """Take the last row of `value` [batch, time, dim] that `mask` marks; zeros where none is."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    index = (mask * place).argmax(dim=1)
    rows = value[torch.arange(len(value), device=value.device), index]
    return rows * mask.any(dim=1, keepdim=True).to(value.dtype)


def masked_deviation(value: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
    """Take the standard deviation over time, [batch, dim]; its gradient is always finite."""
    variance = masked_mean((value - mean.unsqueeze(1)).square(), mask)
    return (variance + 1e-6).sqrt()


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension in which masked entries are exactly zero.

    A row without any unmasked entry gives all zeros, not NaN.
    """
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(dim=-1)
    return weights * mask.to(weights.dtype)


class AttentivePooling(nn.Module):
    """Pool `[batch, time, dim]` to `[batch, dim]` by learned attention over the real rows."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, value: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted mean over time, [batch, dim]; zeros where no row is real."""
        weights = masked_softmax(self.score(value).squeeze(-1), mask)
        return torch.einsum("bt,btd->bd", weights, value)


class StreamProjection(nn.Module):
    """Bring one modality to the experts' width and add a sinusoidal position.

    Time positions are relative row numbers, so a stream may be of any length.
    """

    def __init__(self, input_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        frequency = torch.exp(-torch.arange(0, dim, 2) / dim * torch.log(torch.tensor(10_000.0)))
        self.register_buffer("frequency", frequency, persistent=False)
        self.position_scale = nn.Parameter(torch.tensor(0.1))

    def embed(self, value: Tensor) -> Tensor:
        """Project rows [..., input_dim] to [..., dim] without a position."""
        return self.norm(self.linear(value))

    def forward(self, stream: Stream) -> Stream:
        """Project [batch, time, input_dim] to [batch, time, dim]."""
        value = self.embed(stream.value)
        steps = torch.arange(value.shape[1], device=value.device, dtype=value.dtype)
        angle = steps.unsqueeze(1) * self.get_buffer("frequency").to(value.dtype)
        position = torch.cat([angle.sin(), angle.cos()], dim=1)[:, : value.shape[2]]
        value = self.dropout(value + self.position_scale * position)
        return Stream(value * stream.mask.unsqueeze(-1).to(value.dtype), stream.mask)
