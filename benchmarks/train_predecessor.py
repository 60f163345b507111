"""The predecessor's way to train and to evaluate, on what `benchmarks/train.py` works on.

MSE-Adapter (arXiv 2502.12478), as its training loop was published: what it does otherwise than egmf
is told in `train.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from train_material import Bench

from pipeline.items import Utterance

TEXT_TOKENS, GENERATED = 65, 4


def predecessor_loss(bench: Bench, batch: Sequence[Utterance]) -> Tensor:
    """Return the loss of a batch, its gradients added, as the predecessor computes it.

    Logits are computed at every position of prompts that are padded to one length.
    """
    embeddings, mask = _padded_prompts(bench, batch)
    written = [
        [*ids_of(bench, f" {answer}"), bench.language.end] for answer in bench.answers(batch)
    ]
    longest = max(map(len, written))
    target = torch.full((len(batch), longest), -100)
    for row, ids in enumerate(written):
        target[row, : len(ids)] = torch.tensor(ids)
    given = _embed(bench, target.clamp(min=0))
    mask = torch.cat([mask, (target != -100).long()], dim=1)
    labels = torch.cat([torch.full(embeddings.shape[:2], -100), target], dim=1)
    output = bench.language.model(
        inputs_embeds=torch.cat([embeddings, given], dim=1),
        attention_mask=mask,
        position_ids=_positions(mask),
        labels=labels,
    )
    torch.autograd.backward(output.loss)
    loss: Tensor = output.loss.detach()
    return loss


@torch.no_grad()
def predecessor_evaluation(bench: Bench, drawn: Sequence[Sequence[Utterance]]) -> None:
    """Let the model write its answers, batch by batch."""
    bench.model.eval()
    for batch in drawn:
        embeddings, mask = _padded_prompts(bench, batch)
        written = bench.language.model.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            max_new_tokens=GENERATED,
            do_sample=False,
            pad_token_id=bench.language.end,
            eos_token_id=bench.language.end,
        )
        bench.language.tokenizer.batch_decode(written, skip_special_tokens=True)


def _padded_prompts(bench: Bench, batch: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
    """Return embeddings and mask of prompts whose transcripts are padded to `TEXT_TOKENS`."""
    streams, turns = bench.part.inputs.batch(batch)
    pseudo = bench.model.fuse(streams, turns).pseudo_tokens
    template = bench.question.prompt("")
    fixed = len(ids_of(bench, template.before)) + len(ids_of(bench, template.after))
    length = fixed + TEXT_TOKENS + pseudo.shape[1]
    rows, masks = [], []
    for prompt, own in zip(bench.prompts(batch), pseudo, strict=True):
        parts = [_embed(bench, torch.tensor(prompt.before)), own]
        parts.append(_embed(bench, torch.tensor(prompt.after)))
        row = torch.cat(parts)
        missing = length - len(row)
        rows.append(torch.cat([_embed(bench, torch.full((missing,), bench.language.end)), row]))
        masks.append(torch.cat([torch.zeros(missing), torch.ones(len(row))]).long())
    return torch.stack(rows), torch.stack(masks)


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _embed(bench: Bench, ids: Tensor) -> Tensor:
    embedded: Tensor = bench.language.model.get_input_embeddings()(ids)
    return embedded


def ids_of(bench: Bench, text: str) -> list[int]:
    """Return the tokens of a text."""
    ids: list[int] = bench.language.tokenizer.encode(text, add_special_tokens=False)
    return ids
