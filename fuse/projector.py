"""The projector: a fused vector becomes pseudo tokens in the language model's embedding space.

Source of the idea: MSE-Adapter (arXiv 2502.12478). The tokens are scaled to the root mean square of
the model's own word embeddings, since inputs of another size are what makes frozen models ignore or
be swamped by injected vectors.
"""

from __future__ import annotations

from torch import Tensor, nn


class PseudoTokenProjector(nn.Module):
    """Map [batch, dim] to `tokens` pseudo tokens, [batch, tokens, embedding_dim]."""

    def __init__(
        self, dim: int, tokens: int, embedding_dim: int, embedding_rms: float, dropout: float
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding_rms = embedding_rms
        self.hidden = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, 2 * dim)
        )
        self.out = nn.Linear(2 * dim, tokens * embedding_dim)
        self.norm = nn.RMSNorm(embedding_dim)

    def forward(self, fused: Tensor) -> Tensor:
        """Return the pseudo tokens, [batch, tokens, embedding_dim]."""
        flat = self.out(nn.functional.gelu(self.hidden(fused)))
        return self.norm(flat.unflatten(1, (self.tokens, -1))) * self.embedding_rms
