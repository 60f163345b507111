"""The three experts: local, semantic and global (EGMF, arXiv 2601.07565, abstract).

Every expert maps the projected streams to one vector for each modality, `[batch, modalities, dim]`,
so that the gate can weigh modalities inside an expert and then the experts. Of the paper only the
abstract was available; each expert is the field's standard block for the role that it names:
multi-scale temporal convolutions, pairwise cross-modal attention (after MulT, arXiv 1906.00295)
with a low-rank bilinear term (after LMF, arXiv 1806.00064), and a transformer over all modalities.
Nothing here counts to three: modalities are the keys of a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fuse.streams import AttentivePooling, Stream, Turns, masked_mean

Streams = Mapping[str, Stream]


class MultiScaleConvolution(nn.Module):
    """Depthwise temporal convolutions of several widths, mixed pointwise, with a residual."""

    def __init__(self, dim: int, kernels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim) for kernel in kernels
        )
        self.mix = nn.Linear(dim * len(kernels), dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, value: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, time, dim] to the same shape; masked rows stay zero and leak nowhere."""
        keep = mask.unsqueeze(-1).to(value.dtype)
        channels = (value * keep).transpose(1, 2)
        scales = torch.cat([branch(channels) for branch in self.branches], dim=1).transpose(1, 2)
        mixed = self.dropout(self.mix(nn.functional.gelu(scales)))
        return self.norm(value + mixed) * keep


class LocalExpert(nn.Module):
    """Fine-grained cues: multi-scale convolutions along time, for each modality by itself."""

    def __init__(
        self,
        modalities: Sequence[str],
        dim: int,
        kernels: Sequence[int] = (1, 3, 5),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict(
            {name: MultiScaleConvolution(dim, kernels, dropout) for name in modalities}
        )
        self.pooling = nn.ModuleDict({name: AttentivePooling(dim) for name in modalities})

    def forward(self, streams: Streams) -> Tensor:
        """Return [batch, modalities, dim], modalities in the order of `streams`."""
        pooled = [
            self.pooling[name](self.convolutions[name](stream.value, stream.mask), stream.mask)
            for name, stream in streams.items()
        ]
        return torch.stack(pooled, dim=1)


class PairAttention(nn.Module):
    """One directed pair: the rows of one modality look into another's; pooled with a bilinear term.

    The bilinear term `W((U x) * (V y))` of rank `rank` correlates the two pooled vectors.
    """

    def __init__(self, dim: int, heads: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.left = nn.Linear(dim, rank, bias=False)
        self.right = nn.Linear(dim, rank, bias=False)
        self.out = nn.Linear(rank, dim)

    def forward(self, target: Stream, source: Stream) -> Tensor:
        """Return what `target` learns from `source`, [batch, dim]; zeros where either is absent."""
        both = target.present & source.present
        seen, _ = self.attention(
            target.value,
            source.value,
            source.value,
            key_padding_mask=source.key_padding,
            need_weights=False,
        )
        correlated = self.left(masked_mean(target.value, target.mask)) * self.right(
            masked_mean(source.value, source.mask)
        )
        result = masked_mean(seen, target.mask) + self.out(correlated)
        return result * both.unsqueeze(1).to(result.dtype)


class SemanticExpert(nn.Module):
    """Cross-modal correlation: attention in all directed modality pairs and a bilinear term."""

    def __init__(
        self,
        modalities: Sequence[str],
        dim: int,
        heads: int = 4,
        rank: int = 16,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict(
            {
                f"{target}<{source}": PairAttention(dim, heads, rank, dropout)
                for target in modalities
                for source in modalities
                if target != source
            }
        )
        self.pooling = nn.ModuleDict({name: AttentivePooling(dim) for name in modalities})
        self.norm = nn.LayerNorm(dim)

    def forward(self, streams: Streams) -> Tensor:
        """Return [batch, modalities, dim]: each modality and what the others add to it."""
        pooled = []
        for target, stream in streams.items():
            own = self.pooling[target](stream.value, stream.mask)
            partners = [source for source in streams if source != target]
            if partners:
                gathered = sum(self.pairs[f"{target}<{s}"](stream, streams[s]) for s in partners)
                count = sum((stream.present & streams[s].present).to(own.dtype) for s in partners)
                own = own + gathered / torch.as_tensor(count).clamp(min=1.0).unsqueeze(1)
            pooled.append(self.norm(own))
        return torch.stack(pooled, dim=1)


class GlobalExpert(nn.Module):
    """Long-range dependencies: a transformer over the rows of all modalities and the context.

    Neighbouring turns enter as one row a turn and modality, marked by how far away they are and by
    who speaks. They are looked at and not returned.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        dim: int,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
        reach: int = 0,
    ) -> None:
        """Build the expert; `reach` is the largest distance of a context turn, 0 for none."""
        super().__init__()
        self.kinds = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(dim) * 0.02) for name in modalities}
        )
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.reach = reach
        if reach:
            self.offsets = nn.Embedding(2 * reach + 1, dim)
            self.speakers = nn.Embedding(3, dim)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, streams: Streams, turns: Turns | None = None) -> Tensor:
        """Return [batch, modalities, dim]: each modality's rows, averaged after full attention."""
        first = next(iter(streams.values())).value
        batch = first.shape[0]
        # The start row is always real, so attention is defined where every modality is absent.
        rows = [self.start.to(first.dtype).expand(batch, 1, -1)]
        masks = [torch.ones(batch, 1, dtype=torch.bool, device=first.device)]
        for name, stream in streams.items():
            rows.append(stream.value + self.kinds[name])
            masks.append(stream.mask)
        own = len(rows)
        if turns is not None and self.reach:
            place = self.offsets(turns.offset.clamp(-self.reach, self.reach) + self.reach)
            place = place + self.speakers(turns.speaker)
            for name, stream in turns.streams.items():
                rows.append(stream.value + self.kinds[name] + place)
                masks.append(stream.mask)
        encoded = self.encoder(torch.cat(rows, dim=1), src_key_padding_mask=~torch.cat(masks, 1))
        encoded = self.norm(encoded)
        parts = encoded.split([mask.shape[1] for mask in masks], dim=1)[:own]
        summary = parts[0].squeeze(1)
        pooled = [
            (masked_mean(part, mask) + summary) * mask.any(dim=1, keepdim=True).to(part.dtype)
            for part, mask in zip(parts[1:], masks[1:own], strict=True)
        ]
        return torch.stack(pooled, dim=1)
