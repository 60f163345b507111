"""Other architectures than the tiny model's own: the same numbers alone, padded, shared, in a tree.

Each is a small random model in a Hugging Face directory, loaded through the path of the big ones.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from generate.backbone import LoraSettings, load_backbone
from generate.errors import GenerateError
from generate.language_model import LanguageModel
from generate.tiny import make_tiny_llm
from tests.test_exactness import (
    LABELS,
    TOLERANCE,
    alone,
    answer_ids,
    brute_force,
    by_token,
    captured,
    prompts_of,
    pseudo_for,
    sharing,
)

WINDOW = 150
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "glm4": {"head_dim": 8},
    "gemma": {"head_dim": 8, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW},
    "gemma3_text": {"head_dim": 8, "sliding_window": WINDOW},
    "mistral": {"sliding_window": WINDOW},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
REACH = {"gemma2": 0, "gemma3_text": WINDOW, "mistral": WINDOW, "lfm2": 0}
NO_DROPOUT = LoraSettings(rank=2, dropout=0.0)
CPU = torch.device("cpu")


def save(kind: str, tokenizer: Any, folder: Path) -> str:
    """Write a random model whose weights are large enough for every token to matter."""
    config = AutoConfig.for_model(
        kind,
        **KINDS[kind],
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / kind)
    tokenizer.save_pretrained(folder / kind)
    return str(folder / kind)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("llm") / "tiny"
    make_tiny_llm(folder, [*LABELS["en"], *LABELS["zh"]], vocabulary=300, hidden=32, layers=1)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=sorted(KINDS))
def named(
    request: pytest.FixtureRequest, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, LanguageModel]:
    source = save(request.param, tokenizer, tmp_path_factory.mktemp("models"))
    torch.manual_seed(0)
    loaded = load_backbone(source, device=CPU, dtype=torch.float32).adapt(NO_DROPOUT)
    for name, parameter in loaded.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return request.param, loaded.eval()


TEXTS = ["abc de. " * 9, "b", ""]
ANSWERS = ["sadly so", "sad", "joyless"]


def test_alone_padded_behind_a_shared_start_and_by_token(
    named: tuple[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = named
    prompts, pseudo = prompts_of(model, "en", TEXTS), pseudo_for(model, 3, 2)
    with torch.no_grad():
        passes: dict[bool, torch.Tensor] = {}
        for share in {False, model.shares_prefix}:
            with sharing(model, share, monkeypatch), captured(model) as found:
                model.answer_loss(prompts, ANSWERS, pseudo)
            assert len(found) == 1 + share
            passes[share] = found[-1]
        for row, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
            ids = answer_ids(model, prompt, answer)
            expected = alone(model, prompt, pseudo[row : row + 1], ids)
            for each in passes.values():
                torch.testing.assert_close(each[row, : len(ids) + 1], expected, **TOLERANCE)
        ids = answer_ids(model, prompts[0], "joyless")
        fed = by_token(model, prompts, pseudo, ids)
        for row, prompt in enumerate(prompts):
            expected = alone(model, prompt, pseudo[row : row + 1], ids)
            torch.testing.assert_close(fed[row], expected, **TOLERANCE)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_scores_are_those_of_every_answer_by_itself(
    named: tuple[str, LanguageModel], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts within a window and beyond it, in training (one pass) and out of it."""
    kind, model = named
    assert model.reach == REACH.get(kind, math.inf)
    answers = LABELS[language]
    for texts in (["b", ""], TEXTS):
        prompts, pseudo = prompts_of(model, language, texts), pseudo_for(model, len(texts), 2)
        with torch.no_grad():
            expected = torch.tensor(
                [
                    [brute_force(model, prompt, pseudo[row : row + 1], each) for each in answers]
                    for row, prompt in enumerate(prompts)
                ]
            )
            for share in {False, model.shares_prefix}:
                with sharing(model, share, monkeypatch), captured(model) as passes:
                    scores = model.answer_scores(prompts, answers, pseudo)
                torch.testing.assert_close(scores, expected, **TOLERANCE)
                within = max(each.length(2) for each in prompts) + 20 < model.reach
                assert len(passes) == (1 + share if within else len(answers))
        with sharing(model, False, monkeypatch), captured(model) as passes:
            scores = model.answer_scores(prompts, answers, pseudo)
        torch.testing.assert_close(scores, expected, **TOLERANCE)
        assert len(passes) == 1


def test_the_window_is_left_by_the_longer_prompts_alone(named: tuple[str, LanguageModel]) -> None:
    """What the test above takes for granted of its texts."""
    _, model = named
    short, long = prompts_of(model, "en", ["b", TEXTS[0]])
    assert short.length(2) + 20 < WINDOW < long.length(2)


def test_pseudo_tokens_are_as_large_as_embedded_words(named: tuple[str, LanguageModel]) -> None:
    _, model = named
    ids = torch.arange(len(model.tokenizer))
    with torch.no_grad():
        embedded = model.model.get_input_embeddings()(ids)
    expected = float(embedded.square().mean().sqrt())
    assert model.embedding_rms == pytest.approx(expected, rel=1e-4)


def test_writing_does_not_depend_on_padding(named: tuple[str, LanguageModel]) -> None:
    _, model = named
    prompts, pseudo = prompts_of(model, "en", TEXTS), pseudo_for(model, 3, 2)
    together = model.write(prompts, ("sad",), pseudo)
    apart = [
        model.write([prompt], ("sad",), pseudo[row : row + 1])[0]
        for row, prompt in enumerate(prompts)
    ]
    assert together == apart


@pytest.mark.parametrize("lora", [LoraSettings(), LoraSettings(dropout=0.0, kind="dora")])
def test_experts_that_cannot_be_adapted_are_said_with_the_remedy(
    tokenizer: Any, tmp_path: Path, lora: LoraSettings
) -> None:
    source = save("qwen3_moe", tokenizer, tmp_path)
    backbone = load_backbone(source, device=CPU, dtype=torch.float32)
    with pytest.raises(GenerateError, match=r"Qwen3Moe.* --set lora_dropout=0"):
        backbone.adapt(lora)
