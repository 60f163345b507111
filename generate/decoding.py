"""Constrained decoding: the probability of every permitted answer in one forward pass.

All answers share the prompt, and many share their first tokens, so they are laid out as a prefix
tree behind the prompt. Each node attends to the prompt and to its own ancestors and to nothing
else, and has the position that it would have by itself; one pass of the model then yields exactly
the numbers that running every answer separately would. The end-of-answer token belongs to every
answer, so that a label that begins another one does not steal its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NORMALISED_BYTES = 1 << 24


@dataclass(frozen=True)
class AnswerTree:
    """A prefix tree over the token sequences of the permitted answers.

    `tokens` [nodes] and `depth` [nodes] (0 for a first token); `visible` [nodes, nodes] bool, true
    where a row's node sees a column's (its ancestors and itself). The edges say where each token's
    probability is read: `edge_source` [edges], 0 for the prompt's end and i + 1 for node i;
    `edge_token` [edges]; `edge_of` [answers, edges], one where an answer uses an edge.
    """

    tokens: Tensor
    depth: Tensor
    visible: Tensor
    edge_source: Tensor
    edge_token: Tensor
    edge_of: Tensor

    def __len__(self) -> int:
        return int(self.tokens.numel())


def build_tree(answers: Sequence[Sequence[int]], end: int) -> AnswerTree:
    """Lay out token sequences, each closed by `end`, as a prefix tree.

    Raises:
        ValueError: an answer is empty, or two are equal.
    """
    if len({tuple(answer) for answer in answers}) != len(answers) or not all(answers):
        raise ValueError("answers must be distinct and not empty")
    nodes: dict[tuple[int, ...], int] = {}
    edges: dict[tuple[int, int], int] = {}
    used: list[list[int]] = []
    for answer in answers:
        path, source = [], 0
        for length, token in enumerate([*answer, end], start=1):
            path.append(edges.setdefault((source, token), len(edges)))
            if length <= len(answer):
                source = nodes.setdefault(tuple(answer[:length]), len(nodes)) + 1
        used.append(path)
    visible = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
    for prefix, node in nodes.items():
        for length in range(1, len(prefix) + 1):
            visible[node, nodes[prefix[:length]]] = True
    edge_of = torch.zeros(len(answers), len(edges))
    for row, path in enumerate(used):
        edge_of[row, path] = 1.0
    return AnswerTree(
        tokens=torch.tensor([prefix[-1] for prefix in nodes]),
        depth=torch.tensor([len(prefix) - 1 for prefix in nodes]),
        visible=visible,
        edge_source=torch.tensor([source for source, _ in edges]),
        edge_token=torch.tensor([token for _, token in edges]),
        edge_of=edge_of,
    )


def tree_attention(prompt_mask: Tensor, tree: AnswerTree) -> Tensor:
    """Return the attention pattern of prompts followed by the tree, true where seen.

    Args:
        prompt_mask: [batch, prompt] bool, false on the padding at the left.
        tree: the answers.

    The result is [batch, 1, prompt + nodes, prompt + nodes]. Padding sees itself alone: a row that
    sees nothing would be NaN and spoil its neighbours.
    """
    batch, prompt = prompt_mask.shape
    nodes = len(tree)
    total = prompt + nodes
    seen = torch.zeros(batch, total, total, dtype=torch.bool, device=prompt_mask.device)
    causal = torch.ones(prompt, prompt, dtype=torch.bool, device=prompt_mask.device).tril()
    seen[:, :prompt, :prompt] = causal & prompt_mask.unsqueeze(1)
    seen[:, prompt:, :prompt] = prompt_mask.unsqueeze(1)
    seen[:, prompt:, prompt:] = tree.visible.to(prompt_mask.device)
    seen |= torch.eye(total, dtype=torch.bool, device=prompt_mask.device)
    return seen.unsqueeze(1)


def answer_log_probabilities(logits: Tensor, tree: AnswerTree) -> Tensor:
    """Sum each answer's token log-probabilities.

    Args:
        logits: at the prompt's last token and at every node, [batch, 1 + nodes, vocabulary].
        tree: the answers.

    Returns:
        log p(answer, end | prompt), [batch, answers]; not normalised over the answers.
    """
    device = logits.device
    source, token = tree.edge_source.to(device), tree.edge_token.to(device)
    # A few rows at a time: what is normalised is as large as the logits, and little of it is kept.
    rows = max(1, _NORMALISED_BYTES // (4 * logits.shape[1] * logits.shape[2]))
    edges = [
        part.float().log_softmax(dim=-1)[:, source, token] for part in torch.split(logits, rows)
    ]
    return torch.cat(edges) @ tree.edge_of.to(device).T
