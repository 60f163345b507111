"""What `benchmarks/train.py` works on: transcripts, random features, a model with random weights.

The language model has the shape of Qwen2.5-0.5B; transcripts are MELD's, or random words of MELD's
lengths; features have the shapes of the `base` encoders.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from generate.backbone import Backbone
from generate.language_model import LanguageModel, PromptTokens
from pipeline.context import Context
from pipeline.features import Features
from pipeline.inputs import Inputs
from pipeline.items import Question, Utterance, questions_of, written_answer
from pipeline.manifest import load_manifest
from pipeline.model import Egmf, build_model
from pipeline.parts import Part, Task
from pipeline.prompting import Prompter
from pipeline.scaling import Scaling
from pipeline.settings import TrainSettings

TASK, SEED = "classification", 1111
SHAPES = {"text": 768, "audio": 512, "visual": 512}

# Words of an utterance in MELD's training split: the minimum, every twentieth part, the maximum.
WORDS = (1, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 9, 10, 11, 13, 15, 17, 20, 69)

SETTINGS = TrainSettings(
    dropout=0.0,
    lora_dropout=0.0,
    length_window=20,
    auxiliary_weight=0.0,
    balance_weight=0.0,
    reliability_weight=0.0,
    modality_dropout=0.0,
    modality_noise=0.0,
)
"""The defaults, without what is random and without the terms that the predecessor does not have."""


class RandomFeatures:
    """Features of the `base` encoders' shapes: drawn from the utterance's id, always the same."""

    def __init__(self, modality: str, rows: Mapping[str, int]) -> None:
        self.dim = SHAPES[modality]
        self._rows = rows

    def reader(self) -> RandomFeatures:
        return self

    def lengths(self) -> dict[str, int]:
        return dict(self._rows)

    def value(self, name: str) -> NDArray[Any]:
        generator = np.random.default_rng(int.from_bytes(name.encode()[-8:]))
        return generator.standard_normal((self._rows[name], self.dim), dtype=np.float32)


@dataclass
class Bench:
    """What both ways run on."""

    model: Egmf
    part: Part
    optimizer: torch.optim.Optimizer

    @property
    def language(self) -> LanguageModel:
        return self.model.language

    @property
    def question(self) -> Question:
        return self.part.task.questions[TASK, "en"]

    def prompts(self, batch: Sequence[Utterance]) -> list[PromptTokens]:
        return [self.part.prompter.tokens(TASK, each) for each in batch]

    def answers(self, batch: Sequence[Utterance]) -> list[str]:
        return [written_answer(self.question, str(each.label)) for each in batch]


def read_meld(folder: Path) -> list[Utterance]:
    """Read labels and transcripts of MELD's CSV files."""
    rows = []
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        with (folder / f"{name}_sent_emo.csv").open(encoding="utf-8") as stream:
            for number, row in enumerate(csv.DictReader(stream)):
                text, label = row["Utterance"], row["Emotion"]
                rows.append(Utterance(f"{split}-{number:05d}", split, "en", text, label, None))
    return rows


def invent_meld() -> list[Utterance]:
    """Make transcripts of random words with MELD's lengths and split sizes."""
    rng = np.random.default_rng(SEED)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(3000)]
    labels = [label.name for label in load_manifest().dataset("meld").labels]
    rows = []
    for split, count in (("train", 9989), ("valid", 1109), ("test", 2610)):
        lengths = np.interp(rng.random(count), np.linspace(0, 1, len(WORDS)), WORDS).round()
        for number, length in enumerate(lengths):
            text = " ".join(rng.choice(words, int(length))).capitalize() + "."
            label = str(rng.choice(labels))
            rows.append(Utterance(f"{split}-{number:05d}", split, "en", text, label, None))
    return rows


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of 16,000 tokens, in place of the real model's tokenizer."""
    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=16_000, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def make_bench(utterances: Sequence[Utterance], layers: int) -> Bench:
    """Build the model with random weights, and what feeds it."""
    entry = load_manifest().dataset("meld")
    questions = questions_of(entry, ["en"])
    question = questions[TASK, "en"]
    texts = [each.text or "" for each in utterances]
    tokenizer = make_tokenizer(
        [*texts, *question.lines * 200, *(f" {a}" for a in question.answers)]
    )
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        attn_implementation="sdpa",
    )
    torch.manual_seed(SEED)
    backbone = Backbone(Qwen2ForCausalLM(config), tokenizer)
    model = build_model(backbone, SHAPES, 0, SETTINGS, variant="egmf", ablate=(), reach=0)
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave lora_A without a gradient
            torch.nn.init.normal_(parameter, std=0.01)
    words = {each.id: len((each.text or "").split()) for each in utterances}
    rows = {
        "text": {name: count + 2 for name, count in words.items()},
        # Half a second and a third of a second a word: Whisper's 50 rows and 4 frames a second.
        "audio": {name: 25 + 17 * count for name, count in words.items()},
        "visual": {name: 2 + round(1.3 * count) for name, count in words.items()},
    }
    scaling = {
        name: Scaling(np.zeros(dim, np.float32), np.ones(dim, np.float32))
        for name, dim in SHAPES.items()
    }
    sets = {name: RandomFeatures(name, rows[name]) for name in SHAPES}
    trained = [each for group in model.trainable().values() for each in group]
    part = Part(
        "meld",
        Inputs(Features(sets, SETTINGS.pool, scaling), Context()),
        Prompter(
            model.language,
            questions,
            Context(),
            reads_text=True,
            max_tokens=SETTINGS.max_prompt_tokens,
        ),
        {},
        Task((TASK,), tuple(map(str, question.values)), 1.0, entry.protocol, questions),
    )
    return Bench(model, part, torch.optim.AdamW(trained, lr=0.0))
