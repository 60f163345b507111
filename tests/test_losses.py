"""Class weights, label smoothing and batches grouped by length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from extract.table import read_table, write_table
from generate.backbone import LoraSettings, load_language_model
from generate.language_model import LanguageModel, PromptTokens
from generate.prompts import Prompt
from pipeline.fitting import task_of
from pipeline.items import Utterance
from pipeline.sampler import epoch_batches, steps_of
from pipeline.settings import TrainSettings
from pipeline.sources import Source, open_corpus
from tests.test_training import SETTINGS, request, result_of, run

WORDS = ("anger", "joy", "joyless")


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{**SETTINGS.model_dump(), "epochs": 2, **changes})


@pytest.fixture(scope="module")
def model(toy_llm: Path) -> LanguageModel:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    loaded = load_language_model(str(toy_llm), lora=LoraSettings(), device=cpu, dtype=torch.float32)
    return loaded.eval()


@pytest.fixture(scope="module")
def batch(model: LanguageModel) -> tuple[list[PromptTokens], list[str], torch.Tensor]:
    """Three prompts of unequal length; the last one's answer follows Chinese punctuation."""
    texts = ("Emotion:", "What a day it was! Emotion:", "情感：")
    prompts = [model.tokenize(Prompt("Signals: ", f"\n{text}")) for text in texts]
    generator = torch.Generator().manual_seed(1)
    pseudo = torch.randn(3, 2, model.embedding_dim, generator=generator)
    return prompts, ["joy", "anger", "joyless"], pseudo


Batch = tuple[list[PromptTokens], list[str], torch.Tensor]


def loss_of(model: LanguageModel, batch: Batch, row: int, answer: str) -> tuple[float, float]:
    """Return the loss of one answer to one prompt by itself, and its number of tokens."""
    prompts, _, pseudo = batch
    loss, tokens = model.answer_loss([prompts[row]], [answer], pseudo[row : row + 1])
    return loss.item(), tokens


@torch.no_grad()
def test_weights_multiply_each_item_in_both_sums(model: LanguageModel, batch: Batch) -> None:
    prompts, answers, pseudo = batch
    weights = [0.5, 2.0, 0.0]
    alone = [loss_of(model, batch, row, answer) for row, answer in enumerate(answers)]
    loss, tokens = model.answer_loss(prompts, answers, pseudo, torch.tensor(weights))
    assert loss.item() == pytest.approx(
        sum(w * x for w, (x, _) in zip(weights, alone, strict=True)), rel=1e-5
    )
    assert tokens == pytest.approx(sum(w * n for w, (_, n) in zip(weights, alone, strict=True)))
    same, count = model.answer_loss(prompts, answers, pseudo, torch.ones(3))
    plain, plain_count = model.answer_loss(prompts, answers, pseudo)
    assert (same.item(), count) == (pytest.approx(plain.item(), rel=1e-6), plain_count)


@torch.no_grad()
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_smoothing_spreads_its_share_over_the_permitted_answers(
    model: LanguageModel, batch: Batch, weights: tuple[float, ...] | None
) -> None:
    """Against every answer's loss computed by itself; the answers share a prefix."""
    prompts, answers, pseudo = batch
    factors = weights or (1.0, 1.0, 1.0)
    expected = 0.0
    for row, answer in enumerate(answers):
        every = [loss_of(model, batch, row, word)[0] for word in WORDS]
        true = every[WORDS.index(answer)]
        expected += factors[row] * (0.7 * true + 0.3 * sum(every) / len(WORDS))
    given = None if weights is None else torch.tensor(weights)
    found, tokens = model.smoothed_answer_loss(prompts, answers, [WORDS] * 3, pseudo, 0.3, given)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert tokens == pytest.approx(model.answer_loss(prompts, answers, pseudo, given)[1])


def test_balanced_weights_are_inverse_frequencies(toy: Path) -> None:
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = read_table(path)
    table["label"] = ["anger" if row % 4 == 0 else "joy" for row in range(len(table))]
    write_table(table, path)
    source = Source("toy", toy / "cache", (), {}, toy / "toy.yaml")
    corpus = open_corpus(source, (), lambda line: None)
    assert task_of(corpus, balanced=True).label_weights == pytest.approx(
        {"anger": 64 / (2 * 16), "joy": 64 / (2 * 48)}
    )
    assert task_of(corpus).label_weights == {}


def test_both_settings_and_length_groups_train(toy: Path, toy_llm: Path) -> None:
    wanted = settings(class_weights="balanced", label_smoothing=0.1, length_window=2, epochs=6)
    result = result_of(run(request(toy, toy_llm, settings=wanted)))
    assert result["test"]["accuracy"] >= 0.9
    assert result["steps"] == 24


def utterances(count: int) -> list[Utterance]:
    return [Utterance(str(n), "train", "en", "x", None, None) for n in range(count)]


@pytest.mark.parametrize("count", [1, 8, 95, 96])
def test_length_groups_are_a_function_of_seed_and_epoch(count: int) -> None:
    rows = utterances(count)
    lengths = [(7 * n) % 41 for n in range(count)]

    def epoch(seed: int, number: int) -> list[list[str]]:
        batches = epoch_batches(rows, 8, seed, number, lengths, window=4)
        return [[each.id for each in batch] for batch in batches]

    batches = epoch(1, 1)
    assert len(batches) == steps_of(count, 8)
    assert sorted(id for batch in batches for id in batch) == sorted(each.id for each in rows)
    assert epoch(1, 1) == batches
    if count > 8:
        assert epoch(1, 2) != batches
        assert epoch(2, 1) != batches


def test_length_groups_need_less_padding() -> None:
    rows = utterances(512)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 80, (512,), generator=generator).tolist()

    def padded(window: int | None) -> int:
        grouped = () if window is None else (lengths, window)
        batches = epoch_batches(rows, 16, 1, 1, *grouped)
        return sum(len(each) * max(lengths[int(row.id)] for row in each) for each in batches)

    assert padded(8) < 0.65 * padded(None)
    assert padded(8) < 1.15 * sum(lengths)
