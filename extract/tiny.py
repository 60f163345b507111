"""Encoders with random weights, made and saved in each library's own format.

They stand in for downloaded models on a machine without a hub, and go through the very code that
loads those: a Hugging Face directory, a Whisper checkpoint, an open_clip directory. They have
learnt nothing; weights are drawn wide enough for a different input to give clearly different rows,
so that what a clip shows can still be read off them. Every folder carries `RANDOM_WEIGHTS`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from extract.encoders.base import RANDOM_MARKER

_TEXT_GAIN = 0.05  # standard deviation of the text encoder's weights: more, and words dissolve
_AUDIO_GAIN = 3.0  # on Whisper's convolutions: the voice must outweigh the position's sine


def make_text_encoder(
    folder: Path,
    texts: Iterable[str],
    *,
    dim: int = 96,
    layers: int = 2,
    heads: int = 4,
    vocabulary: int = 2000,
    max_tokens: int = 512,
    seed: int = 0,
) -> Path:
    """Make a BERT directory whose byte-level BPE tokenizer is learnt from `texts`.

    Any other text falls back to bytes. Returns `folder`; does nothing where it exists.
    """
    if (folder / RANDOM_MARKER).is_file():
        return folder
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, logging

    logging.disable_progress_bar()
    specials = ["[PAD]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in specials[1:]],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
    )
    config = BertConfig(
        vocab_size=len(wrapped),
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        max_position_embeddings=max_tokens,
        initializer_range=_TEXT_GAIN,
        pad_token_id=wrapped.pad_token_id,
    )
    with _seeded(seed):
        model = BertModel(config, add_pooling_layer=False)
    with _new_folder(folder) as partial:
        model.save_pretrained(partial)
        wrapped.save_pretrained(partial)
    return folder


def make_audio_encoder(
    folder: Path,
    *,
    dim: int = 96,
    layers: int = 2,
    heads: int = 4,
    window_seconds: float = 5.0,
    mels: int = 80,
    seed: int = 0,
) -> Path:
    """Make a Whisper checkpoint with a short window and a token decoder of one block.

    Returns the checkpoint's path, named after its folder; does nothing where it exists.
    """
    path = folder / f"{folder.name}.pt"
    if (folder / RANDOM_MARKER).is_file():
        return path
    import torch
    from whisper.model import ModelDimensions, Whisper

    dims = ModelDimensions(
        n_mels=mels,
        n_audio_ctx=round(50 * window_seconds),
        n_audio_state=dim,
        n_audio_head=heads,
        n_audio_layer=layers,
        n_vocab=256,
        n_text_ctx=16,
        n_text_state=32,
        n_text_head=2,
        n_text_layer=1,
    )
    with _seeded(seed):
        model = Whisper(dims)
        # Whisper leaves this one as uninitialised memory, for a checkpoint to fill.
        torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
        with torch.no_grad():
            for convolution in (model.encoder.conv1, model.encoder.conv2):
                convolution.weight.mul_(_AUDIO_GAIN)
    with _new_folder(folder) as partial:
        torch.save(
            {"dims": asdict(dims), "model_state_dict": model.state_dict()}, partial / path.name
        )
    return path


def make_visual_encoder(
    folder: Path,
    *,
    dim: int = 64,
    width: int = 96,
    layers: int = 2,
    image_size: int = 64,
    patch_size: int = 16,
    seed: int = 0,
) -> Path:
    """Make an open_clip directory with a small image tower and the smallest of text towers.

    Returns `folder`; does nothing where it exists.
    """
    if (folder / RANDOM_MARKER).is_file():
        return folder
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "embed_dim": dim,
        "vision_cfg": {
            "image_size": image_size,
            "patch_size": patch_size,
            "width": width,
            "head_width": 32,
            "layers": layers,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 64,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    preprocessing = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    with _seeded(seed):
        model = CLIP(**config)
    with _new_folder(folder) as partial:
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()},
            partial / "open_clip_model.safetensors",
        )
        (partial / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}, indent=1)
        )
    return folder


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw weights from a seed, and leave the caller's random state as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder`, marked as random, when the block ends well."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        (partial / RANDOM_MARKER).write_text(
            "Random weights: for trying the pipeline, not for results.\n"
        )
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
