"""One utterance alone, in a padded batch, behind a shared start, and token by token: one number.

Every way of running the language model is compared with the plainest: a single row without padding,
mask, position ids or cache, and all of its logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, DynamicCache

from generate.answers import number_answer, number_grid
from generate.backbone import LoraSettings, load_language_model
from generate.language_model import LanguageModel, PromptTokens
from generate.prefix import common_start, reach
from generate.prompts import Prompt
from generate.tiny import make_tiny_llm

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
CPU = torch.device("cpu")
LANGUAGES = {
    "en": (
        "Task: recognise the emotion of the speaker in a short clip.\nEmotions: joy, sadness.\n",
        "\nEmotion:",
        "abc de.",
    ),
    "zh": (
        "任务：识别短视频中说话人的情绪。\n情绪类别：高兴、悲伤。\n",
        "\n情绪：",
        "我很高兴的悲伤。",
    ),
}
LABELS = {
    "en": ("sad", "sadness", "sadly so", "joy", "joyless", "anger"),
    "zh": ("高", "高兴", "高兴极了", "悲伤", "悲", "平静"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("llm") / "tiny"
    texts = [part for parts in LANGUAGES.values() for part in parts]
    make_tiny_llm(folder, [*texts, *LABELS["en"], *LABELS["zh"]], vocabulary=300)
    torch.manual_seed(0)
    lora = LoraSettings(dropout=0.0)
    loaded = load_language_model(str(folder), lora=lora, device=CPU, dtype=torch.float32)
    for name, parameter in loaded.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return loaded.eval()


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, list[str], int]:
    """A language, transcripts of unequal length, and a number of pseudo tokens."""
    language = draw(st.sampled_from(sorted(LANGUAGES)))
    text = st.text(LANGUAGES[language][2], max_size=30)
    return language, draw(st.lists(text, min_size=1, max_size=4)), draw(st.integers(0, 4))


def prompts_of(model: LanguageModel, language: str, texts: list[str]) -> list[PromptTokens]:
    start, end, _ = LANGUAGES[language]
    return [model.tokenize(Prompt(f"{start}{text} ", end)) for text in texts]


def pseudo_for(model: LanguageModel, rows: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 10 + tokens)
    return torch.randn(rows, tokens, model.embedding_dim, generator=generator)


def answer_ids(model: LanguageModel, prompt: PromptTokens, answer: str) -> list[int]:
    written = f" {answer}" if prompt.answers_take_space else answer
    return model.tokenizer.encode(written, add_special_tokens=False)


def embed(model: LanguageModel, ids: list[int] | tuple[int, ...]) -> Tensor:
    return model.model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))


def alone(model: LanguageModel, prompt: PromptTokens, pseudo: Tensor, ids: list[int]) -> Tensor:
    """Logits where the answer's tokens and its end are predicted: the plainest way."""
    parts = [embed(model, prompt.before), pseudo, embed(model, prompt.after), embed(model, ids)]
    logits = model.model(inputs_embeds=torch.cat(parts, dim=1), use_cache=False).logits
    return logits[0, -len(ids) - 1 :]


def brute_force(model: LanguageModel, prompt: PromptTokens, pseudo: Tensor, answer: str) -> float:
    ids = answer_ids(model, prompt, answer)
    scores = alone(model, prompt, pseudo, ids).log_softmax(dim=-1)
    return sum(float(scores[place, token]) for place, token in enumerate([*ids, model.end]))


def by_token(
    model: LanguageModel, prompts: list[PromptTokens], pseudo: Tensor, ids: list[int]
) -> Tensor:
    """Logits of a padded batch whose answer is fed token by token, as free generation does."""
    padded = model._pad(prompts, pseudo)
    cache, mask, step = DynamicCache(config=model.model.config), padded.mask, padded.embeddings
    positions, found = padded.positions, []
    for token in [*ids, None]:
        output = model.model(
            inputs_embeds=step,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        found.append(output.logits[:, -1])
        if token is not None:
            step = embed(model, [token]).expand(len(prompts), -1, -1)
            mask = torch.nn.functional.pad(mask, (0, 1), value=True)
            positions = positions[:, -1:] + 1
    return torch.stack(found, dim=1)


@contextmanager
def captured(model: LanguageModel) -> Iterator[list[Tensor]]:
    """Logits of every pass of the model."""
    found: list[Tensor] = []
    handle = model.model.register_forward_hook(lambda *each: found.append(each[2].logits))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def sharing(model: LanguageModel, share: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Share starts however short they are, or never."""
    with monkeypatch.context() as patch:
        patch.setattr(model, "shares_prefix", share)
        patch.setattr("generate.language_model.WORTH", 1)
        yield


@pytest.mark.parametrize("share", [False, True])
def test_padding_and_a_shared_start_change_no_logit(model: LanguageModel, share: bool) -> None:
    @settings(max_examples=25, deadline=None)
    @given(batches())
    def check(batch: tuple[str, list[str], int]) -> None:
        language, texts, tokens = batch
        prompts = prompts_of(model, language, texts)
        pseudo = pseudo_for(model, len(texts), tokens)
        answers = [LABELS[language][place] for place in range(len(texts))]
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            with sharing(model, share, patch), captured(model) as passes:
                model.answer_loss(prompts, answers, pseudo)
            assert len(passes) == (2 if share and len(texts) > 1 else 1)
            for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
                ids = answer_ids(model, prompt, answer)
                expected = alone(model, prompt, pseudo[row : row + 1], ids)
                found = passes[-1][row, : len(ids) + 1]
                torch.testing.assert_close(found, expected, **TOLERANCE)

    check()


def test_a_key_value_cache_changes_no_logit(model: LanguageModel) -> None:
    """A padded batch whose answers are fed token by token, as free generation does."""

    @settings(max_examples=15, deadline=None)
    @given(batches(), st.integers(0, 5))
    def check(batch: tuple[str, list[str], int], label: int) -> None:
        language, texts, tokens = batch
        prompts = prompts_of(model, language, texts)
        pseudo = pseudo_for(model, len(texts), tokens)
        ids = answer_ids(model, prompts[0], LABELS[language][label])
        with torch.no_grad():
            found = by_token(model, prompts, pseudo, ids)
            for row, prompt in enumerate(prompts):
                expected = alone(model, prompt, pseudo[row : row + 1], ids)
                torch.testing.assert_close(found[row], expected, **TOLERANCE)

    check()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_tree_scores_equal_every_answer_by_itself(
    model: LanguageModel, language: str, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of unequal token lengths that begin one another, any subset of them in any order."""
    prompt = prompts_of(model, language, [""])[0]
    written = [answer_ids(model, prompt, each) for each in LABELS[language]]
    assert len({len(each) for each in written}) > 1
    assert len({each[0] for each in written}) < len(written)

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(st.sampled_from(LABELS[language]), min_size=1, unique=True),
        st.lists(st.text(LANGUAGES[language][2], max_size=30), min_size=1, max_size=3),
    )
    def check(labels: list[str], texts: list[str]) -> None:
        prompts = prompts_of(model, language, texts)
        pseudo = pseudo_for(model, len(texts), 3)
        with sharing(model, share, monkeypatch), torch.no_grad():
            scores = model.answer_scores(prompts, tuple(labels), pseudo)
            expected = torch.tensor(
                [
                    [brute_force(model, prompt, pseudo[row : row + 1], label) for label in labels]
                    for row, prompt in enumerate(prompts)
                ]
            )
        torch.testing.assert_close(scores, expected, **TOLERANCE)

    check()


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_numbers_and_their_expectation(model: LanguageModel, language: str) -> None:
    grid = number_grid(-1.0, 1.0)
    answers = tuple(number_answer(each) for each in grid)
    prompts = prompts_of(model, language, ["abc", "我"])
    pseudo = pseudo_for(model, 2, 4)
    with torch.no_grad():
        scores = model.answer_scores(prompts, answers, pseudo)
        for row, prompt in enumerate(prompts):
            each = [brute_force(model, prompt, pseudo[row : row + 1], a) for a in answers]
            torch.testing.assert_close(scores[row], torch.tensor(each), **TOLERANCE)
            weights = torch.tensor(each, dtype=torch.float64).exp()
            direct = sum(w * x for w, x in zip(weights.tolist(), grid, strict=True))
            direct /= float(weights.sum())
            expectation = float(scores[row].double().softmax(dim=0) @ torch.tensor(grid).double())
            assert expectation == pytest.approx(direct, abs=1e-4)


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_one_prefix_serves_every_batch(model: LanguageModel, language: str) -> None:
    """Encoded once for an evaluation; batches of any size come after, in any order."""
    texts = ["a", "b", "c", "de", ""] if language == "en" else ["我", "很", "高兴", "的", ""]
    prompts = prompts_of(model, language, [text * 3 for text in texts] * 3)
    pseudo = pseudo_for(model, len(prompts), 3)
    with torch.no_grad():
        prefix = model.encode_prefix(prompts)
        assert prefix is not None
        assert len(prefix) > 15
        kept = [layer.keys.clone() for layer in prefix.cache.layers]
        for rows in (slice(0, 7), slice(7, 8), slice(8, 15), slice(0, 7)):
            with captured(model) as passes:
                found = model.answer_scores(prompts[rows], LABELS[language], pseudo[rows], prefix)
            assert len(passes) == 1
            model.shares_prefix = False
            expected = model.answer_scores(prompts[rows], LABELS[language], pseudo[rows])
            model.shares_prefix = True
            torch.testing.assert_close(found, expected, **TOLERANCE)
        for layer, keys in zip(prefix.cache.layers, kept, strict=True):
            torch.testing.assert_close(layer.keys, keys)


def test_gradients_flow_through_a_shared_start(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(model, "en", ["a", "bc de", "", "cc."])
    answers = ["joy", "sad", "sadness", "anger"]
    gradients = []
    for share in (False, True):
        pseudo = pseudo_for(model, 4, 2).requires_grad_()
        model.zero_grad()
        with sharing(model, share, monkeypatch):
            loss, tokens = model.answer_loss(prompts, answers, pseudo)
        torch.autograd.backward(loss)
        trained = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
        gradients.append(
            [loss.detach(), torch.tensor(tokens), pseudo.grad, *map(torch.clone, trained)]
        )
    assert len(gradients[0]) > 10
    for apart, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, apart, atol=1e-4, rtol=1e-4)


def test_nothing_is_shared_beside_gradient_checkpointing(model: LanguageModel) -> None:
    prompts = prompts_of(model, "en", ["a", "bc de", "", "cc."] * 4)
    assert model.encode_prefix(prompts) is not None
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        model.train()
        assert model.encode_prefix(prompts) is None
        model.eval()
        assert model.encode_prefix(prompts) is not None
    finally:
        model.model.gradient_checkpointing_disable()
        model.eval()


def test_large_batches_are_scored_in_parts(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(model, "en", ["a", "bc de", "", "cc."])
    pseudo = pseudo_for(model, 4, 2)
    with torch.no_grad():
        whole = model.answer_scores(prompts, LABELS["en"], pseudo)
        monkeypatch.setattr("generate.language_model.LOGITS_BYTES", 1)
        with captured(model) as passes:
            parts = model.answer_scores(prompts, LABELS["en"], pseudo)
    assert [len(each) for each in passes[-4:]] == [1, 1, 1, 1]
    torch.testing.assert_close(parts, whole, **TOLERANCE)


@given(st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), min_size=1, max_size=5))
def test_the_common_start_is_the_longest(sequences: list[tuple[int, ...]]) -> None:
    start, count = common_start(iter(sequences))
    assert count == len(sequences)
    assert all(each[: len(start)] == start for each in sequences)
    longer = {each[: len(start) + 1] for each in sequences}
    assert len(longer) > 1 or len(next(iter(longer))) == len(start)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("llama", {}, math.inf),
        ("qwen2", {"sliding_window": 64}, math.inf),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, 64),
        ("mistral", {"sliding_window": 4096}, 4096),
        ("gemma3", {"text_config": {"sliding_window": 512}}, 512),
        ("llama4_text", {}, 0),
        ("qwen3_next", {}, 0),
        ("mamba", {}, 0),
        ("falcon", {"alibi": True}, 0),
        ("llama", {"attn_implementation": "eager"}, 0),
    ],
)
def test_how_far_a_mask_can_be_trusted(kind: str, fields: dict[str, Any], expected: float) -> None:
    config = AutoConfig.for_model(kind, **{"attn_implementation": "sdpa", **fields})
    assert reach(config) == expected
