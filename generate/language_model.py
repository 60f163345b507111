"""A causal language model with LoRA that reads pseudo tokens inside its prompt.

Prompts of a batch are padded at the left, so that all end in the same column and answers start
there together; positions count real tokens only, and padding is masked. What all prompts begin
with is encoded once (`generate.prefix`). Logits are computed where an answer token is predicted and
nowhere else: the vocabulary projection of a whole prompt is often the largest part of a step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from generate.decoding import AnswerTree, answer_log_probabilities, build_tree, tree_attention
from generate.padding import Padded
from generate.prefix import WORTH, Prefix, common_start, empty_cache, reach
from generate.prompts import Prompt
from generate.sharding import Sharding

LOGITS_BYTES = 1 << 28
"""Logits of answer trees that exist at a time, outside training."""
_ROWS_AT_ONCE = 1 << 14
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class PromptTokens:
    """A tokenised prompt; the pseudo tokens go between the two parts."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    answers_take_space: bool

    def length(self, pseudo_tokens: int) -> int:
        """Return the number of positions, pseudo tokens included."""
        return len(self.before) + pseudo_tokens + len(self.after)


class LanguageModel(nn.Module):
    """A loaded model and tokenizer, ready to read pseudo tokens and to write answers."""

    def __init__(self, model: Any, tokenizer: Any, sharding: Sharding | None = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.sharding = sharding
        self.end = int(tokenizer.eos_token_id)
        self.embedding_dim = int(model.get_input_embeddings().weight.shape[1])
        self.embedding_rms = _embedding_rms(model.get_input_embeddings())
        self.reach = reach(model.config)
        self.shares_prefix = math.isinf(self.reach)
        self._start = _start(tokenizer)
        self._tree = lru_cache(maxsize=64)(self._build_tree)
        self._encode_again = lru_cache(maxsize=64)(self._encode)
        self._ids: dict[int, int] = {}

    def tokenize(self, prompt: Prompt) -> PromptTokens:
        """Tokenise a rendered prompt, behind what the tokenizer begins every text with.

        An answer that follows ASCII text is separated by a space, as words are; one that follows
        Chinese punctuation is not. What is spelt like a special token is read as ordinary text.
        """
        return PromptTokens(
            before=self._start + self._encode(prompt.before),
            after=self._encode_again(prompt.after),
            answers_take_space=prompt.after[-1:].isascii(),
        )

    def encode_prefix(self, prompts: Iterable[PromptTokens]) -> Prefix | None:
        """Encode what all prompts begin with; None where sharing it would gain nothing.

        Serves any of these prompts as long as the weights stay as they are. Gradient checkpointing
        knows no keys and values from elsewhere, so that nothing is shared beside it; nor in a step
        of training that runs a cut model, which has to be one pass whatever its prompts.
        """
        if not self.shares_prefix or (self.sharding and torch.is_grad_enabled()):
            return None
        # Something must be left in every row to predict the answer's first token.
        starts = (each.before if each.after else each.before[:-1] for each in prompts)
        tokens, count = common_start(starts)
        if len(tokens) * (count - 1) < WORTH or self._checkpoints():
            return None
        prefix = Prefix(tokens, empty_cache())
        ids = torch.tensor([tokens], device=self.model.get_input_embeddings().weight.device)
        batch = Padded(self._embed(ids), torch.ones_like(ids, dtype=torch.bool), None)
        self._logits(batch.embeddings, batch.mask, batch.positions, 1, prefix)
        return prefix

    def answer_loss(
        self,
        prompts: Sequence[PromptTokens],
        answers: Sequence[str],
        pseudo: Tensor,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, float]:
        """Return the summed negative log-likelihood of the answers and the number of their tokens.

        Args:
            prompts: one for each item of the batch.
            answers: what the model should write, without the end token.
            pseudo: pseudo tokens, [batch, tokens, embedding_dim].
            weights: of each item in both sums, [batch]; all one where None.
        """
        count = self.count_tokens(prompts, answers, weights)
        if weights is None:
            return self._token_losses(prompts, answers, pseudo, "sum"), count
        each = self._token_losses(prompts, answers, pseudo, "none").sum(dim=1)
        return (weights.to(each) * each).sum(), count

    def count_tokens(
        self,
        prompts: Sequence[PromptTokens],
        answers: Sequence[str],
        weights: Tensor | None = None,
    ) -> float:
        """Return the number of tokens that the answers have, each counted by its item's weight."""
        factors = [1.0] * len(prompts) if weights is None else weights.tolist()
        targets = self._targets(prompts, answers)
        return sum(factor * len(ids) for factor, ids in zip(factors, targets, strict=True))

    def smoothed_answer_loss(
        self,
        prompts: Sequence[PromptTokens],
        answers: Sequence[str],
        permitted: Sequence[tuple[str, ...]],
        pseudo: Tensor,
        smoothing: float,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, float]:
        """Return `answer_loss` with a share `smoothing` of each target spread over `permitted`.

        Items that share their permitted answers are scored in one pass over their tree.
        """
        groups: dict[tuple[tuple[str, ...], bool], list[int]] = defaultdict(list)
        for row, (prompt, known) in enumerate(zip(prompts, permitted, strict=True)):
            groups[known, prompt.answers_take_space].append(row)
        loss = pseudo.sum() * 0.0
        for (known, _), rows in groups.items():
            chosen = torch.tensor(rows, device=pseudo.device)
            scores = self.answer_scores([prompts[row] for row in rows], known, pseudo[chosen])
            target = torch.full_like(scores, smoothing / len(known))
            for place, row in enumerate(rows):
                target[place, known.index(answers[row])] += 1.0 - smoothing
            each = -(target * scores).sum(dim=1)
            loss = loss + (each if weights is None else weights.to(each)[chosen] * each).sum()
        return loss, self.count_tokens(prompts, answers, weights)

    def answer_scores(
        self,
        prompts: Sequence[PromptTokens],
        answers: Sequence[str],
        pseudo: Tensor,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Return log p(answer | prompt) of every permitted answer, [batch, answers].

        One pass over prompt and answer tree for all prompts that end alike (with a space before
        the answer, or without); normalise over the answers with a softmax. A model that cannot
        tell the tree's branches apart reads every answer by itself: slower, and the same numbers.

        Args:
            prompts: one for each item of the batch.
            answers: all that may be written.
            pseudo: pseudo tokens, [batch, tokens, embedding_dim].
            prefix: what these prompts, and maybe others, begin with; found here where None.
        """
        longest = max(prompt.length(pseudo.shape[1]) for prompt in prompts)
        if longest + self._longest(prompts, answers) > self.reach:
            return self._scores_apart(prompts, answers, pseudo)
        prefix = self.encode_prefix(prompts) if prefix is None else prefix
        groups: dict[bool, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            groups[prompt.answers_take_space].append(row)
        scores = []
        for take_space, rows in groups.items():
            tree = self._tree(tuple(answers), take_space)
            row_bytes = 4 * (len(tree) + 1) * self.model.config.get_text_config().vocab_size
            # The gradient needs all logits anyway.
            size = len(rows) if torch.is_grad_enabled() else max(1, LOGITS_BYTES // row_bytes)
            for some in _cut(rows, size):
                chosen = [prompts[row] for row in some]
                scores.append(self._tree_scores(chosen, tree, pseudo[some], prefix))
        order = torch.tensor([row for rows in groups.values() for row in rows])
        return torch.cat(scores)[order.argsort().to(pseudo.device)]

    @torch.no_grad()
    def write(
        self, prompts: Sequence[PromptTokens], answers: Sequence[str], pseudo: Tensor
    ) -> list[str]:
        """Let the model write freely (greedy), no longer than the longest permitted answer.

        Returns its raw answers, stripped.
        """
        padded = self._pad(prompts, pseudo)
        written = self.model.generate(
            inputs_embeds=padded.embeddings,
            attention_mask=padded.mask.long(),
            max_new_tokens=self._longest(prompts, answers) + 1,
            do_sample=False,
            pad_token_id=self.end,
            eos_token_id=self.end,
            synced_gpus=False,  # `generate.sharding` keeps passes together
        )
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [str(text).strip() for text in texts]

    def together(self) -> AbstractContextManager[None]:
        """Let all processes that a cut model is cut over score at once."""
        return nullcontext() if self.sharding is None else self.sharding.together()

    def save_adapter(self, folder: Path) -> None:
        """Write the LoRA weights as safetensors that `PeftModel.from_pretrained` loads.

        Does nothing where the model has no adapter.
        """
        if isinstance(self.model, PeftModel):
            self.model.save_pretrained(str(folder))

    def _checkpoints(self) -> bool:
        layers = self.model.modules()
        return self.training and any(getattr(e, "gradient_checkpointing", False) for e in layers)

    def _encode(self, text: str) -> tuple[int, ...]:
        # A transcript that spells a special token must not end or steer the prompt.
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        # Prompts are kept for a whole run: one object a token id, not one an occurrence.
        return tuple(self._ids.setdefault(each, each) for each in ids)

    def _answer_ids(self, answer: str, take_space: bool) -> tuple[int, ...]:
        return self._encode(f" {answer}" if take_space else answer)

    def _targets(self, prompts: Sequence[PromptTokens], answers: Sequence[str]) -> list[list[int]]:
        """Return the tokens that are to be written, with the end token."""
        return [
            [*self._answer_ids(answer, prompt.answers_take_space), self.end]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def _longest(self, prompts: Sequence[PromptTokens], answers: Sequence[str]) -> int:
        """Return the number of tokens of the longest answer, without its end."""
        spaces = {prompt.answers_take_space for prompt in prompts}
        return max(len(self._answer_ids(each, space)) for each in answers for space in spaces)

    def _token_losses(
        self,
        prompts: Sequence[PromptTokens],
        answers: Sequence[str],
        pseudo: Tensor,
        reduction: Literal["sum", "none"],
    ) -> Tensor:
        """Return the answers' negative log-likelihood: summed, or of each token [batch, tokens]."""
        targets = self._targets(prompts, answers)
        keep = max(len(ids) for ids in targets)
        device = pseudo.device
        labels = torch.full((len(targets), keep), -100, device=device)
        for row, ids in enumerate(targets):
            labels[row, : len(ids)] = torch.tensor(ids, device=device)
        padded = self._pad(prompts, pseudo, self.encode_prefix(prompts))
        # The end token is predicted, never read.
        given = labels[:, :-1]
        embeddings = self._embed(given.clamp(min=0)).to(padded.embeddings.dtype)
        batch = Padded(
            torch.cat([padded.embeddings, embeddings], dim=1),
            torch.cat([padded.mask, given != -100], dim=1),
            padded.prefix,
        )
        logits = self._logits(batch.embeddings, batch.seen, batch.positions, keep, batch.prefix)
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction=reduction, ignore_index=-100
        )
        return loss if reduction == "sum" else loss.view_as(labels)

    def _scores_apart(
        self, prompts: Sequence[PromptTokens], answers: Sequence[str], pseudo: Tensor
    ) -> Tensor:
        """Score every answer behind a copy of its prompt; in training all of them in one pass."""
        pairs = [(row, answer) for row in range(len(prompts)) for answer in answers]
        scores = []
        for some in _cut(pairs, len(pairs) if torch.is_grad_enabled() else len(prompts)):
            rows, written = [row for row, _ in some], [answer for _, answer in some]
            chosen = [prompts[row] for row in rows]
            scores.append(-self._token_losses(chosen, written, pseudo[rows], "none").sum(dim=1))
        return torch.cat(scores).view(len(prompts), len(answers))

    def _build_tree(self, answers: tuple[str, ...], take_space: bool) -> AnswerTree:
        return build_tree([self._answer_ids(answer, take_space) for answer in answers], self.end)

    def _tree_scores(
        self,
        prompts: Sequence[PromptTokens],
        tree: AnswerTree,
        pseudo: Tensor,
        prefix: Prefix | None,
    ) -> Tensor:
        padded = self._pad(prompts, pseudo, prefix)
        device = pseudo.device
        nodes = self._embed(tree.tokens.to(device)).to(padded.embeddings.dtype)
        embeddings = torch.cat(
            [padded.embeddings, nodes.unsqueeze(0).expand(len(prompts), -1, -1)], dim=1
        )
        positions = torch.cat([padded.positions, padded.ends + tree.depth.to(device)], dim=1)
        attention = tree_attention(padded.seen, tree)[:, :, -embeddings.shape[1] :]
        logits = self._logits(embeddings, attention, positions, len(tree) + 1, prefix)
        return answer_log_probabilities(logits, tree)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def _pad(
        self, prompts: Sequence[PromptTokens], pseudo: Tensor, prefix: Prefix | None = None
    ) -> Padded:
        """Embed prompts around their pseudo tokens, without their prefix, and pad at the left."""
        count, device = pseudo.shape[1], pseudo.device
        if prefix is not None:
            start = len(prefix)
            prompts = [replace(prompt, before=prompt.before[start:]) for prompt in prompts]
        longest = max(prompt.length(count) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.end)
        slot = torch.zeros(len(prompts), longest, dtype=torch.bool)
        mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            at = longest - prompt.length(count)
            mask[row, at:] = True
            ids[row, at : at + len(prompt.before)] = torch.tensor(prompt.before, dtype=torch.long)
            at += len(prompt.before)
            slot[row, at : at + count] = True
            if prompt.after:
                ids[row, -len(prompt.after) :] = torch.tensor(prompt.after)
        embeddings = self._embed(ids.to(device))
        where = slot.to(device).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(where, pseudo.to(embeddings.dtype))
        return Padded(embeddings, mask.to(device), prefix)

    def _logits(
        self,
        embeddings: Tensor,
        mask: Tensor,
        positions: Tensor,
        keep: int,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Run the model; a prefix that is not encoded yet is encoded by this."""
        # As indices, what is kept lies in one piece, and is one matrix product for all rows; as a
        # number it would be a view, whose product reads the vocabulary's weights for each row.
        length = embeddings.shape[1]
        kept = torch.arange(length - keep, length, device=embeddings.device)
        output = self.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=None if prefix is None else prefix.cache,
            use_cache=prefix is not None,
            logits_to_keep=kept,
        )
        return output.logits


def _start(tokenizer: Any) -> tuple[int, ...]:
    """Return what the tokenizer itself puts before a text: `<s>`, `[gMASK]<sop>`, or nothing."""
    word = tokenizer.encode("a", add_special_tokens=False)
    text = tokenizer.encode("a")
    at = next((at for at in range(len(text)) if text[at : at + len(word)] == word), 0)
    return tuple(text[:at])


def _embedding_rms(embedding: nn.Module) -> float:
    """Return the root mean square of embedded tokens, which Gemma's module scales on their way."""
    weight = cast(Tensor, embedding.weight).detach()
    some = torch.arange(min(len(weight), 1024), device=weight.device)
    with torch.no_grad():
        scale = _rms(embedding(some)) / _rms(weight[some])
    return _rms(weight) * scale


def _rms(values: Tensor) -> float:
    """Return the root mean square of a matrix, of a few rows at a time: a copy may not fit."""
    parts = torch.split(values, _ROWS_AT_ONCE)
    squares = [part.float().square().mean() * (len(part) / len(values)) for part in parts]
    return float(torch.stack(squares).sum().sqrt())


def _cut(items: list[_Item], size: int) -> list[list[_Item]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
