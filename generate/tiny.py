"""A small language model with random weights, made and saved by our own code.

It stands in for a downloaded model on a machine without a hub: a Qwen2 architecture with a
byte-level BPE tokenizer, in an ordinary Hugging Face directory, loaded through the same path as the
big ones. It knows no language; what it can do, LoRA and the pseudo tokens taught it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

MARKER = "RANDOM_WEIGHTS"
END = "<|endoftext|>"
LARGEST_LOGIT = 25.0


def make_tiny_llm(
    folder: Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    vocabulary: int = 2000,
) -> None:
    """Make the model in `folder` unless it is there already.

    The tokenizer's merges are learned from `texts`; any other text falls back to bytes. The output
    layer is drawn wide enough to express certainty: final states have a root mean square of one, so
    no logit can exceed the hidden width times the weights' standard deviation.
    """
    if (folder / MARKER).is_file():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    config = Qwen2Config(
        vocab_size=len(wrapped),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=2048,
        initializer_range=hidden**-0.5,
        tie_word_embeddings=False,
        eos_token_id=wrapped.eos_token_id,
        bos_token_id=None,
        pad_token_id=wrapped.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
        torch.nn.init.normal_(model.lm_head.weight, std=LARGEST_LOGIT / hidden)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(partial)
    wrapped.save_pretrained(partial)
    (partial / MARKER).write_text("Random weights: for trying the pipeline, not for results.\n")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(folder)
