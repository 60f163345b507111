"""The training objective: one number a step, whoever computes which part of it.

Every term is a sum over the step's utterances or items divided by a count over the whole step, so
that it is the same however the step is shared out over processes and cut into passes. The balance
of the experts is a function of a mean over the step, which the processes agree on.

The fusion runs once over all utterances; the language model, which needs most of the memory, runs
pass after pass. The gradient that its passes leave on the pseudo tokens goes through the fusion at
the end (gradient caching, Gao et al., arXiv 2101.06983), together with the other terms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from fuse.fusion import Fused
from fuse.gates import balance_loss, entropy_loss, reliability_loss
from generate.language_model import LanguageModel
from pipeline.batching import AuxiliaryTargets, Batch, Items
from pipeline.model import Egmf
from pipeline.settings import TrainSettings


@dataclass(frozen=True)
class Counts:
    """What the terms are divided by: how much there is in a step, or in a share of it.

    `tokens` of answers, weighed by their items; `labels` and `scores` of the auxiliary head;
    `corrupted` entries; `utterances`.
    """

    tokens: float
    labels: float
    scores: float
    corrupted: float
    utterances: float

    def added_up(self, add: Callable[[Sequence[float]], Sequence[float]]) -> Counts:
        """Return the counts of all processes together."""
        return Counts(*add(astuple(self)))


def counts_of(batch: Batch, language: LanguageModel) -> Counts:
    """Count what a batch has; nothing where it counts for nothing."""
    if not batch.counted:
        return Counts(0.0, 0.0, 0.0, 0.0, 0.0)
    items = batch.items
    return Counts(
        language.count_tokens(items.prompts, items.answers, _weights(items)),
        float((batch.auxiliary.label >= 0).sum()),
        float((~batch.auxiliary.score.isnan()).sum()),
        float(batch.corrupted.sum()),
        float(len(batch.corrupted)),
    )


def add_gradients(
    model: Egmf,
    batch: Batch,
    counts: Counts,
    settings: TrainSettings,
    add: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute a share of a step's loss and add its gradients to the parameters'.

    Args:
        model: in training.
        batch: the share.
        counts: of the whole step.
        settings: of the run.
        add: adds up a tensor over all shares.

    Returns:
        The share's part of the loss, to be added up, and the part that all shares have in common.
    """
    fused = model.fuse(batch.streams, batch.turns)
    counted = float(batch.counted)
    pseudo = fused.pseudo_tokens.detach().requires_grad_()
    answers = pseudo.new_zeros(())
    cut = _cut(batch.items, pseudo.shape[1], settings)
    sharding = model.language.sharding
    idle = sharding.missing(len(cut)) if sharding else 0
    for places in cut:
        items = batch.items.take(places)
        loss = _answer_loss(model.language, items, pseudo, settings.label_smoothing)
        loss = loss * (counted / max(counts.tokens, 1e-9))
        torch.autograd.backward(loss)
        answers += loss.detach()
    if sharding:
        sharding.idle(idle)
    # Every parameter of the fusion joins the graph, whatever the terms.
    own = fused.vector.sum() * 0.0 + counted * _own_terms(model, fused, batch, counts, settings)
    common = _balance(fused, counted, counts, settings, add)
    if fused.pseudo_tokens.requires_grad:
        gradient = torch.zeros_like(pseudo) if pseudo.grad is None else pseudo.grad
        torch.autograd.backward([own + common, fused.pseudo_tokens], [None, gradient])
    else:
        torch.autograd.backward(own + common)
    return answers + own.detach(), common.detach()


def passes(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Cut items into passes of at most `limit` padded tokens; all in one where it is 0.

    The longest come first, beside those like them. An item that is longer by itself goes alone.
    """
    if not limit or len(lengths) * max(lengths, default=0) <= limit:
        return [list(range(len(lengths)))] if lengths else []
    cut: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        if cut and lengths[cut[-1][0]] * (len(cut[-1]) + 1) <= limit:
            cut[-1].append(place)
        else:
            cut.append([place])
    return cut


def _cut(items: Items, pseudo_tokens: int, settings: TrainSettings) -> list[list[int]]:
    """Cut items into passes; smoothing scores the answers of one question at a time."""
    groups: dict[object, list[int]] = defaultdict(list)
    for place, (prompt, permitted) in enumerate(zip(items.prompts, items.permitted, strict=True)):
        question = (permitted, prompt.answers_take_space) if settings.label_smoothing else None
        groups[question].append(place)
    return [
        [places[each] for each in chosen]
        for places in groups.values()
        for chosen in passes(
            [items.prompts[each].length(pseudo_tokens) for each in places],
            settings.max_batch_tokens,
        )
    ]


def _weights(items: Items) -> Tensor | None:
    return None if items.weights is None else torch.tensor(items.weights)


def _answer_loss(language: LanguageModel, items: Items, pseudo: Tensor, smoothing: float) -> Tensor:
    own = pseudo[torch.tensor(items.rows, device=pseudo.device)]
    prompts, answers, weights = items.prompts, items.answers, _weights(items)
    if smoothing:
        loss, _ = language.smoothed_answer_loss(
            prompts, answers, items.permitted, own, smoothing, weights
        )
    else:
        loss, _ = language.answer_loss(prompts, answers, own, weights)
    return loss


def _own_terms(
    model: Egmf, fused: Fused, batch: Batch, counts: Counts, settings: TrainSettings
) -> Tensor:
    """Return the terms that are sums over utterances."""
    loss = fused.vector.new_zeros(())
    if settings.auxiliary_weight:
        loss = loss + settings.auxiliary_weight * _auxiliary(fused.targets, batch.auxiliary, counts)
    if fused.gate is None:
        return loss
    if settings.reliability_weight and "modalities" in model.fusion.config.gate_levels:
        hit = batch.corrupted.to(loss.device)
        term = reliability_loss(fused.gate, hit, counts.corrupted)
        loss = loss + settings.reliability_weight * term
    if settings.entropy_weight:
        present = torch.stack([each.present for each in batch.streams.values()], dim=1)
        term = entropy_loss(fused.gate, present.to(loss.device), count=counts.utterances)
        loss = loss + settings.entropy_weight * term
    return loss


def _auxiliary(outputs: Tensor, targets: AuxiliaryTargets, counts: Counts) -> Tensor:
    """Cross-entropy on the label and squared error on the score, where there is one."""
    labels = targets.label.to(outputs.device)
    loss = nn.functional.cross_entropy(
        outputs[:, :-1], labels, ignore_index=-100, reduction="sum"
    ) / max(counts.labels, 1.0)
    scores = targets.score.to(outputs)
    known = ~scores.isnan()
    error = (outputs[known, -1] - scores[known]).square().sum()
    return loss + error / max(counts.scores, 1.0)


def _balance(
    fused: Fused,
    counted: float,
    counts: Counts,
    settings: TrainSettings,
    add: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the balance of the experts over the whole step; its gradient is this share's own."""
    if fused.gate is None or not settings.balance_weight or fused.gate.experts.shape[1] == 1:
        return fused.vector.new_zeros(())
    total = fused.gate.experts.sum(dim=0) * counted
    total = total + (add(total) - total.detach())
    return settings.balance_weight * balance_loss(fused.gate, total / max(counts.utterances, 1.0))
