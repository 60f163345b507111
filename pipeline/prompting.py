"""Prompts of whole batches: rendered, shortened where they do not fit, tokenised once."""

from __future__ import annotations

from collections.abc import Mapping

from generate.language_model import LanguageModel, PromptTokens
from pipeline.context import Context
from pipeline.items import Question, QuestionKey, Utterance

ELLIPSIS = "…"
KEPT_PROMPTS = 1 << 14
"""Tokenised prompts that are kept; those of a larger corpus are tokenised whenever needed."""


class Prompter:
    """Turns questions about utterances into tokens.

    Where text is no modality of the run, neither transcript nor history is ever shown. A prompt of
    more than `max_tokens` loses its oldest turns, then the end of its transcript, and is counted in
    `shortened`; task, question and pseudo tokens are never cut.
    """

    def __init__(
        self,
        language: LanguageModel,
        questions: Mapping[QuestionKey, Question],
        context: Context,
        *,
        reads_text: bool,
        max_tokens: int,
    ) -> None:
        self._language = language
        self._questions = questions
        self._context = context
        self._reads_text = reads_text
        self._max_tokens = max_tokens
        self._kept: dict[tuple[str, str], PromptTokens] = {}
        self.shortened: set[str] = set()

    def question(self, task: str, utterance: Utterance) -> Question:
        """Return what is asked about an utterance for a task."""
        return self._questions[task, utterance.language]

    def tokens(self, task: str, utterance: Utterance, *, hide_text: bool = False) -> PromptTokens:
        """Return the tokenised prompt; `hide_text` leaves out transcript and history."""
        question = self.question(task, utterance)
        if hide_text or not self._reads_text:
            # All text-free prompts of a question are one prompt.
            return self._keep((f"{task}/{utterance.language}", ""), question, None, [])
        history = self._context.history(utterance)
        return self._keep((task, utterance.id), question, utterance.text, history)

    def _keep(
        self, key: tuple[str, str], question: Question, text: str | None, history: list[str]
    ) -> PromptTokens:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._fit(key[1], question, text, history)
            if len(self._kept) < KEPT_PROMPTS:
                self._kept[key] = kept
        return kept

    def _fit(
        self, name: str, question: Question, text: str | None, history: list[str]
    ) -> PromptTokens:
        tokens = self._tokenize(question, text, history)
        while _length(tokens) > self._max_tokens and (history or text):
            self.shortened.add(name)
            if history:
                history = history[1:]
            else:
                text = _cut(text or "", _length(tokens) - self._max_tokens)
            tokens = self._tokenize(question, text, history)
        return tokens

    def _tokenize(self, question: Question, text: str | None, history: list[str]) -> PromptTokens:
        return self._language.tokenize(question.prompt(text, history))


def _length(tokens: PromptTokens) -> int:
    return len(tokens.before) + len(tokens.after)


def _cut(text: str, too_many: int) -> str | None:
    """Drop at least as many characters from the end as there are tokens too many."""
    kept = text.removesuffix(ELLIPSIS)[: -max(1, too_many)].rstrip()
    return kept + ELLIPSIS if kept else None
