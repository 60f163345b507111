"""Neighbouring turns: who they are, what the prompt shows of them, what the fusion sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fuse.config import FusionConfig
from fuse.fusion import Fusion
from fuse.streams import Stream, Turns
from generate.backbone import load_language_model
from generate.language_model import LanguageModel
from pipeline.context import OTHER_SPEAKER, SAME_SPEAKER, Context, find_context
from pipeline.items import Question, Utterance
from pipeline.prompting import Prompter

QUESTION = Question(
    task="classification",
    language="en",
    lines=("Which emotion?", "Before: {history}", "Said: {text}", "Signals: {signals}", "Answer:"),
    answers=("joy", "anger"),
    values=("joy", "anger"),
    fills={},
)


def turn(number: int, speaker: str | None = "A", **changes: object) -> Utterance:
    fields: dict[str, object] = {
        "id": f"u{number}",
        "split": "train",
        "language": "en",
        "text": f"turn {number}",
        "label": "joy",
        "score": None,
        "group": "d1",
        "order": number,
        "speaker": speaker,
    }
    return Utterance(**{**fields, **changes})  # type: ignore[arg-type]


def test_neighbours_are_counted_by_rank_and_know_their_speaker() -> None:
    turns = [turn(9, "B"), turn(2, "A"), turn(4, "A"), turn(3, "B")]
    context = find_context(turns, before=2, after=1)
    found = [(n.utterance.id, n.offset, n.speaker) for n in context.of(turns[2])]
    assert found == [("u2", -2, SAME_SPEAKER), ("u3", -1, OTHER_SPEAKER), ("u9", 1, OTHER_SPEAKER)]
    assert context.history(turns[2]) == ["A: turn 2", "B: turn 3"]
    assert context.history(turns[1]) == []


def test_other_splits_and_loners_are_no_context() -> None:
    turns = [turn(1), turn(2, split="test"), turn(3, group=None)]
    context = find_context(turns, before=3, after=3)
    assert [list(context.of(each)) for each in turns] == [[], [], []]


def test_turns_without_text_are_no_history() -> None:
    turns = [turn(1, text=None), turn(2, speaker=None), turn(3)]
    assert find_context(turns, 2, 0).history(turns[2]) == ["turn 2"]


@pytest.fixture(scope="module")
def language(toy_llm: Path) -> LanguageModel:
    cpu = torch.device("cpu")
    return load_language_model(str(toy_llm), lora=None, device=cpu, dtype=torch.float32)


def prompter(language: LanguageModel, context: Context, **changes: object) -> Prompter:
    fields: dict[str, object] = {"reads_text": True, "max_tokens": 500}
    questions = {("classification", "en"): QUESTION}
    return Prompter(language, questions, context, **{**fields, **changes})  # type: ignore[arg-type]


def shown(language: LanguageModel, prompter_: Prompter, utterance: Utterance) -> str:
    tokens = prompter_.tokens("classification", utterance)
    return language.tokenizer.decode([*tokens.before, *tokens.after])


def test_the_prompt_shows_history_then_the_transcript(language: LanguageModel) -> None:
    turns = [turn(n) for n in (1, 2, 3)]
    text = shown(language, prompter(language, find_context(turns, 2, 0)), turns[2])
    assert "Before: A: turn 1 / A: turn 2\nSaid: turn 3\n" in text


def test_without_text_neither_transcript_nor_history_is_shown(language: LanguageModel) -> None:
    turns = [turn(n) for n in (1, 2, 3)]
    blind = prompter(language, find_context(turns, 2, 0), reads_text=False)
    assert shown(language, blind, turns[2]) == "Which emotion?\nSignals: \nAnswer:"
    assert blind.tokens("classification", turns[0]) is blind.tokens("classification", turns[2])


def test_a_long_prompt_loses_its_oldest_turns_first(language: LanguageModel) -> None:
    turns = [turn(n, text=f"number {n} " + "x" * 30) for n in range(6)]
    context = find_context(turns, 5, 0)
    full = prompter(language, context)
    fits = prompter(
        language,
        context,
        max_tokens=full.tokens("classification", turns[5]).length(0) - 1,
    )
    text = shown(language, fits, turns[5])
    assert "number 0" not in text
    assert all(f"number {n}" in text for n in range(1, 6))
    assert fits.shortened == {"u5"}


def test_a_long_transcript_is_cut_at_its_end_and_the_question_stays(
    language: LanguageModel,
) -> None:
    long = turn(1, text="begin " + "y" * 400)
    tight = prompter(language, Context(), max_tokens=80)
    tokens = tight.tokens("classification", long)
    text = shown(language, tight, long)
    assert tokens.length(0) <= 80
    assert text.startswith("Which emotion?\nSaid: begin y")
    assert text.endswith("…\nSignals: \nAnswer:")
    assert tight.shortened == {"u1"}


def test_the_fusion_sees_the_turns_that_are_there() -> None:
    torch.manual_seed(0)
    config = FusionConfig(
        inputs={"text": 3}, embedding_dim=4, embedding_rms=1.0, dim=8, reach=2, targets=1
    )
    fusion = Fusion(config).eval()
    own = {"text": Stream(torch.randn(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))}

    def tokens(
        value: torch.Tensor, there: bool, speaker: int = 1, offset: int = -1
    ) -> torch.Tensor:
        streams = {"text": Stream(value.view(1, 1, 3), torch.tensor([[there]]))}
        turns = Turns(streams, torch.tensor([[offset]]), torch.tensor([[speaker]]))
        with torch.no_grad():
            return fusion(own, turns).pseudo_tokens

    value = torch.randn(3)
    with torch.no_grad():
        alone = fusion(own).pseudo_tokens
    torch.testing.assert_close(tokens(value, there=False), alone)
    base = tokens(value, there=True)
    assert (base - alone).abs().max() > 1e-4
    assert (tokens(-value, there=True) - base).abs().max() > 1e-4
    assert (tokens(value, there=True, speaker=2) - base).abs().max() > 1e-5
    assert (tokens(value, there=True, offset=-2) - base).abs().max() > 1e-5
    torch.testing.assert_close(
        tokens(value, there=True, offset=-7), tokens(value, there=True, offset=-2)
    )
