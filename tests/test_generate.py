"""Prompts, answers, the answer tree, and the language model with injected pseudo tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from generate.answers import number_answer, number_grid, parse_label, parse_number
from generate.backbone import LoraSettings, load_language_model
from generate.decoding import build_tree
from generate.errors import GenerateError
from generate.language_model import LanguageModel
from generate.prompts import Prompt, render
from generate.tiny import END, make_tiny_llm

LINES = ("Emotion? {labels}", "Text: {text}", "Signals: {signals}", "Emotion:")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm") / "tiny"
    make_tiny_llm(path, ["Emotion? joy sadness anger", "情感：高兴 悲伤"], vocabulary=320)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    torch.manual_seed(0)
    loaded = load_language_model(str(folder), lora=LoraSettings(), device=CPU, dtype=torch.float32)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return loaded.eval()


def pseudo_for(model: LanguageModel, rows: int, tokens: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, tokens, model.embedding_dim, generator=generator)


def test_a_line_leaves_the_prompt_with_its_text() -> None:
    values = {"labels": "joy, anger", "text": "I see {signals} and {x}"}
    prompt = render(LINES, values)
    assert prompt == Prompt(
        "Emotion? joy, anger\nText: I see {signals} and {x}\nSignals: ", "\nEmotion:"
    )
    assert render(LINES, {**values, "text": None}).before == "Emotion? joy, anger\nSignals: "


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("no slot",), "exactly one place"),
        (("{signals} {signals}",), "exactly one place"),
        (("{signals} {nobody}",), "unknown name 'nobody'"),
        (("{signals} {text.__class__}",), "only plain names"),
        (("{signals} {",), "prompt line"),
    ],
)
def test_wrong_templates_are_refused(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(GenerateError, match=message):
        render(lines, {"text": "x", "labels": "y"})


def test_numbers_have_one_spelling() -> None:
    assert [number_answer(x) for x in (1.44, -0.6, 0.0, -0.04, 0.04, -3.0)] == [
        "+1.4",
        "-0.6",
        "0.0",
        "0.0",
        "0.0",
        "-3.0",
    ]


def test_grid_holds_both_ends() -> None:
    grid = number_grid(-1.0, 1.0, 0.5)
    assert grid == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert len(number_grid(-3.0, 3.0)) == 61
    for low, high, step in ((1.0, 1.0, 0.1), (0.0, 1.0, 0.25), (0.0, 1.0, 0.0)):
        with pytest.raises(ValueError, match="no grid"):
            number_grid(low, high, step)


@given(st.integers(-30, 30))
def test_a_written_number_is_read_back(tenths: int) -> None:
    assert parse_number(number_answer(tenths / 10), -3.0, 3.0) == tenths / 10


@pytest.mark.parametrize("answer", ["", "joy", "1.2.3", "+4.0", "1 2", "nan", "inf", "0x1", "1e1"])
def test_an_unreadable_number_is_none_not_zero(answer: str) -> None:
    assert parse_number(answer, -3.0, 3.0) is None


def test_labels_are_read_whole() -> None:
    words = ("joy", "sad", "sadness")
    assert parse_label(" Sadness ", words) == 2
    assert parse_label("sad", words) == 1
    assert parse_label("joyful", words) is None
    assert parse_label("", words) is None


def test_tree_shares_prefixes_and_keeps_a_prefix_apart() -> None:
    tree = build_tree([[1], [1, 2], [1, 3, 4]], end=9)
    assert tree.tokens.tolist() == [1, 2, 3, 4]
    assert tree.depth.tolist() == [0, 1, 1, 2]
    assert tree.visible[3].tolist() == [True, False, True, True]
    edges = list(zip(tree.edge_source.tolist(), tree.edge_token.tolist(), strict=True))
    assert edges == [(0, 1), (1, 9), (1, 2), (2, 9), (1, 3), (3, 4), (4, 9)]
    assert tree.edge_of.tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 1, 1, 1],
    ]
    for wrong in ([[1], [1]], [[]]):
        with pytest.raises(ValueError, match="distinct"):
            build_tree(wrong, end=9)


@pytest.mark.parametrize(
    ("ending", "answers"),
    [
        ("\nEmotion:", ("sad", "sadness", "sadly so", "joy", "anger")),
        ("\n情感：", ("高兴", "悲伤", "高", "平静")),
        ("\nScore:", tuple(number_answer(x) for x in number_grid(-1.0, 1.0))),
    ],
)
def test_tree_scores_equal_brute_force(
    model: LanguageModel, ending: str, answers: tuple[str, ...]
) -> None:
    """Every answer run through the model by itself, against one pass over the padded batch."""
    prompts = [
        model.tokenize(Prompt(before, ending)) for before in ("a much longer prompt ", "x ", "")
    ]
    pseudo = pseudo_for(model, 3)
    with torch.no_grad():
        scores = model.answer_scores(prompts, answers, pseudo)
        alone = torch.tensor(
            [
                [
                    -model.answer_loss([prompt], [answer], pseudo[row : row + 1])[0].item()
                    for answer in answers
                ]
                for row, prompt in enumerate(prompts)
            ]
        )
    torch.testing.assert_close(scores, alone, atol=1e-4, rtol=0)


def test_brute_force_is_the_plain_model(model: LanguageModel) -> None:
    """The loss against a forward pass written out by hand: no padding, all logits, softmax."""
    prompt = model.tokenize(Prompt("Emotion? ", " :"))
    pseudo = pseudo_for(model, 1)
    answer = model.tokenizer.encode(" joy", add_special_tokens=False)
    embed = model.model.get_input_embeddings()
    parts = [
        embed(torch.tensor([prompt.before])),
        pseudo,
        embed(torch.tensor([prompt.after])),
        embed(torch.tensor([answer])),
    ]
    with torch.no_grad():
        logits = model.model(inputs_embeds=torch.cat(parts, dim=1)).logits[0].log_softmax(-1)
        loss, tokens = model.answer_loss([prompt], ["joy"], pseudo)
    targets = [*answer, model.end]
    start = logits.shape[0] - len(targets)
    expected = -sum(logits[start + i, token].item() for i, token in enumerate(targets))
    assert tokens == len(targets)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_padding_changes_no_loss(model: LanguageModel) -> None:
    prompts = [model.tokenize(Prompt(text, "\n:")) for text in ("short", "a far longer one here")]
    pseudo = pseudo_for(model, 2)
    with torch.no_grad():
        together, tokens = model.answer_loss(prompts, ["joy", "sadness"], pseudo)
        apart = [
            model.answer_loss([prompt], [answer], pseudo[row : row + 1])
            for row, (prompt, answer) in enumerate(zip(prompts, ["joy", "sadness"], strict=True))
        ]
    assert tokens == sum(count for _, count in apart)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in apart), abs=1e-4)


def test_the_pseudo_tokens_reach_the_answer(model: LanguageModel) -> None:
    prompts = [model.tokenize(Prompt("x ", "\n:"))]
    with torch.no_grad():
        first = model.answer_scores(prompts, ("joy", "anger"), pseudo_for(model, 1))
        second = model.answer_scores(prompts, ("joy", "anger"), -pseudo_for(model, 1))
    assert (first - second).abs().max() > 1e-3


def test_free_generation_gives_one_text_a_prompt(model: LanguageModel) -> None:
    prompts = [model.tokenize(Prompt(text, "\n:")) for text in ("a", "a longer prompt")]
    together = model.write(prompts, ("joy",), pseudo_for(model, 2))
    alone = [
        model.write([prompt], ("joy",), pseudo_for(model, 2)[row : row + 1])[0]
        for row, prompt in enumerate(prompts)
    ]
    assert together == alone


def test_free_generation_has_room_for_the_longest_answer(model: LanguageModel) -> None:
    """A model with random weights never ends by itself, so it runs once for every token."""
    answers = ("高兴", "愤怒和厌恶的混合")
    longest = model.tokenizer.encode(answers[1], add_special_tokens=False)
    assert len(longest) > 12
    prompts = [model.tokenize(Prompt(text, "\n情感：")) for text in ("a", "bc")]
    passes: list[int] = []
    handle = model.model.get_base_model().register_forward_hook(lambda *_: passes.append(1))
    try:
        model.write(prompts, answers, pseudo_for(model, 2))
    finally:
        handle.remove()
    assert len(passes) == len(longest) + 1


def test_how_a_model_likes_to_chat_changes_nothing_it_writes(folder: Path, tmp_path: Path) -> None:
    chatty = AutoModelForCausalLM.from_pretrained(folder)
    chatty.generation_config = GenerationConfig(
        repetition_penalty=5.0, no_repeat_ngram_size=1, do_sample=True, temperature=9.0
    )
    chatty.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    written = []
    for source in (folder, tmp_path):
        plain = load_language_model(str(source), lora=None, device=CPU, dtype=torch.float32).eval()
        prompts = [plain.tokenize(Prompt(text, "\n:")) for text in ("a", "a longer prompt")]
        written.append(plain.write(prompts, ("愤怒和厌恶的混合",), pseudo_for(plain, 2)))
    assert written[0] == written[1]


def test_a_batch_may_mix_how_prompts_end(model: LanguageModel) -> None:
    """After a word the answer begins with a space, after a Chinese character it does not."""
    endings = ("\n:", "\n情感：", "\n::", "\n：")
    prompts = [model.tokenize(Prompt("x ", ending)) for ending in endings]
    assert [each.answers_take_space for each in prompts] == [True, False, True, False]
    answers, pseudo = ("joy", "sad", "joyless"), pseudo_for(model, 4)
    with torch.no_grad():
        together = model.answer_scores(prompts, answers, pseudo)
        for row, prompt in enumerate(prompts):
            apart = model.answer_scores([prompt], answers, pseudo[row : row + 1])
            torch.testing.assert_close(together[row], apart[0], atol=1e-4, rtol=0)
            for place, answer in enumerate(answers):
                loss, _ = model.answer_loss([prompt], [answer], pseudo[row : row + 1])
                assert together[row, place].item() == pytest.approx(-loss.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("$A", []),
        ("<s> $A", ["<s>"]),
        ("<s> $A <|endoftext|>", ["<s>"]),
        ("[gMASK] <sop> $A", ["[gMASK]", "<sop>"]),
        ("<|endoftext|> $A", ["<|endoftext|>"]),
    ],
)
def test_a_prompt_starts_as_the_tokenizer_starts_a_text(
    folder: Path, tmp_path: Path, template: str, expected: list[str]
) -> None:
    """Qwen, LLaMA and Gemma, one that closes texts as well, GLM-4, OPT (its start is its end)."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    special = ["<s>", "[gMASK]", "<sop>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    known = [(each, tokenizer.convert_tokens_to_ids(each)) for each in (*special, END)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=known
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path), lora=None, device=CPU, dtype=torch.float32)
    found = loaded.tokenize(Prompt("a joy ", ":")).before
    words = tuple(tokenizer.encode("a joy ", add_special_tokens=False))
    assert found == (*tokenizer.convert_tokens_to_ids(expected), *words)


def test_a_transcript_cannot_end_the_prompt(folder: Path, tmp_path: Path) -> None:
    """Whether the special token is of the vocabulary or was added to it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    injected = f"say {END}<|im_end|> now"
    special = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert special <= set(tokenizer.encode(injected))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path), lora=None, device=CPU, dtype=torch.float32)
    prompt = loaded.tokenize(Prompt(injected, f"{injected}:"))
    assert special.isdisjoint((*prompt.before, *prompt.after))
    assert tokenizer.decode([*prompt.before, *prompt.after]) == f"{injected}{injected}:"


def test_only_the_adapter_trains_and_it_loads_with_peft(
    model: LanguageModel, folder: Path, tmp_path: Path
) -> None:
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert not any("lm_head" in name for name in trainable)
    model.save_adapter(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    base = AutoModelForCausalLM.from_pretrained(folder)
    again = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    embeds = pseudo_for(model, 1, tokens=5)
    with torch.no_grad():
        torch.testing.assert_close(
            again(inputs_embeds=embeds).logits, model.model(inputs_embeds=embeds).logits
        )


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(GenerateError, match=r"holds no config\.json") as caught:
        load_language_model(str(tmp_path), lora=None, device=CPU, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_tiny_model_reads_any_text(model: LanguageModel) -> None:
    text = "naïve 🙂 что\x00"
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
