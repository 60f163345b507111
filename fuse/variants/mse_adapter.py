"""MSE-Adapter's mixer, the predecessor of EGMF (arXiv 2502.12478).

Each non-text modality goes through a one-layer LSTM whose last state stands for it, text is
averaged and guides them by a Hadamard product, and multilayer perceptrons of three scales are
integrated by a small convolution.

Three choices are ours. The paper's fusion returns the guided modalities alone, since its language
model reads the transcript anyway; here features may be all there is of the text, so the guide is
carried along, and an utterance with text alone is not empty. Without text the guide is the mean of
the modalities that are there. The scales are H/8, H/32 and H/16 of the language model's width H in
the paper, which is 2, 1/2 and 1 times its mixer's width of 256 at H = 4096; they are kept in
proportion to the mixer, since an eighth of a small language model's width would starve it.

Beyond the mixer egmf compares like with like: as for every variant the language model is tuned with
LoRA (the paper's is frozen; `--ablate lora` freezes it) and text comes from an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from fuse.config import FusionConfig
from fuse.streams import Stream, masked_mean

TEXT = "text"


class LastState(nn.Module):
    """The last state of a one-layer LSTM over the real rows, brought to the mixer's width.

    The state has a quarter of the width, as the paper's 64 of 256.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // 4)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.out = nn.Linear(hidden, dim)

    def forward(self, stream: Stream) -> Tensor:
        """Return [batch, dim]; zeros where the modality is absent."""
        # An LSTM must not step over padding, so the real rows are brought to the front.
        order = (~stream.mask).to(torch.uint8).argsort(dim=1, stable=True)
        rows = stream.value.gather(1, order.unsqueeze(-1).expand_as(stream.value))
        lengths = stream.mask.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        result: Tensor = self.out(state[-1])
        return result * stream.present.unsqueeze(1).to(result.dtype)


class MultiScaleMixer(nn.Module):
    """Multilayer perceptrons with bottlenecks of three widths, integrated by a convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, dim))
            for width in (2 * dim, max(1, dim // 2), dim)
        )
        self.integrate = nn.Conv1d(len(self.scales), 1, kernel_size=1)

    def forward(self, vector: Tensor) -> Tensor:
        """Map [batch, dim] to the same shape."""
        scales = torch.stack([scale(vector) for scale in self.scales], dim=1)
        integrated: Tensor = self.integrate(scales)
        return integrated.squeeze(1)


class MseAdapterFusion(nn.Module):
    """Text-guided mixing of the other modalities' last states, then the multi-scale mixer."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.states = nn.ModuleDict(
            {name: LastState(config.dim) for name in config.inputs if name != TEXT}
        )
        if TEXT in config.inputs:
            self.guide = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.mix = MultiScaleMixer(config.dim)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return the fused vector, [batch, dim]."""
        states = {name: state(streams[name]) for name, state in self.states.items()}
        guide = self._guide(streams, states)
        mixed = guide + sum(guide * state for state in states.values())
        return self.norm(self.mix(self.dropout(mixed)))

    def _guide(self, streams: Mapping[str, Stream], states: Mapping[str, Tensor]) -> Tensor:
        """Return what guides the mixing: the text, or where it is absent the mean of the rest."""
        like = next(iter(streams.values())).value
        guide = like.new_zeros(len(like), like.shape[2])
        if states:
            count = torch.stack([streams[name].present for name in states]).sum(dim=0)
            total = torch.stack(list(states.values())).sum(dim=0)
            guide = total / count.clamp(min=1).unsqueeze(1).to(total.dtype)
        if TEXT not in streams:
            return guide
        text = streams[TEXT]
        average = self.guide(masked_mean(text.value, text.mask))
        return torch.where(text.present.unsqueeze(1), average, guide)
