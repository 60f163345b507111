"""Text through any `transformers` model: one row a token, special tokens included.

A text is padded to the smallest of a few fixed lengths that holds it, by its own token count
alone, and masked. Encoders, encoder-decoders (their encoder) and causal models alike; a causal
model's rows know only what came before them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.compute import Compute, units_in
from extract.encoders.hf_model import (
    CONFIG,
    find_hf_model,
    load_hf_model,
    not_loadable,
    states_of,
)
from extract.encoders.options import Layer, split_options
from extract.encoders.weights import Memo
from extract.errors import ExtractError

BUCKETS = (16, 32, 64, 128, 256, 512)  # tokens
MAX_TOKENS = BUCKETS[-1]
_COMPANIONS = ("*.json", "*.txt", "*.model")  # configuration and tokenizer
_BATCH_TOKENS = {"cpu": 128.0, "cuda": 4096.0}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the model that `ID_OR_DIR[@layer]` names.

    Raises:
        ExtractError: there is no such model, or it is not a `transformers` model.
    """
    name, options = split_options(reference, spec, ["layer"])
    found = find_hf_model(name, options.layer, spec, _COMPANIONS, memo)
    dim = found.number("hidden_size", "d_model", "n_embd")
    if dim is None:
        raise ExtractError(
            f"encoder {spec}: {found.folder / CONFIG} names no hidden_size: "
            "not a text encoder of transformers"
        )
    return EncoderInfo(
        spec=spec,
        kind="hf-text",
        medium="text",
        slug=found.slug,
        location=str(found.folder),
        digest=found.digest,
        dim=dim,
        rows_per_second=None,
        random_weights=found.random_weights,
        preprocessing={"layer": options.layer, "buckets": BUCKETS},
        dtype=settings.dtype,
    )


class HfText:
    """A loaded text encoder, or the encoder of an encoder-decoder."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(info.location, local_files_only=True)
        except Exception as error:  # of transformers and tokenizers, each its own
            raise not_loadable(info.spec, info.location, error) from error
        model = load_hf_model(info.location, info.spec, masked=True, unused=["pooler"])
        self._longest = _longest_input(self._tokenizer, model.config)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self._model = model.to(device)
        self._compute, self._device = Compute(info, device), device
        self._layer: Layer = info.preprocessing["layer"]
        self._lock = threading.Lock()  # a fast tokenizer must not be used by two threads at once
        self._pad = self._tokenizer.pad_token_id or 0

    def batch_size(self, unit: Unit) -> int:
        """Return how many texts padded to that length make a batch."""
        return units_in(_BATCH_TOKENS, len(unit.arrays[0]), self._device)

    def prepare(self, medium: str) -> Prepared:
        """Tokenise a text and pad it to its bucket."""
        with self._lock:
            tokens = self._tokenizer(medium, verbose=False)["input_ids"]
            flags: tuple[str, ...] = ()
            if len(tokens) > self._longest:
                flags = (f"cut_to_{self._longest}_tokens",)
                tokens = self._tokenizer(medium, truncation=True, max_length=self._longest)
                tokens = tokens["input_ids"]
        count = len(tokens)
        length = min(next(size for size in BUCKETS if size >= count), self._longest)
        ids = np.full(length, self._pad, np.int64)
        ids[:count] = tokens
        mask = (np.arange(length) < count).astype(np.int64)
        unit = Unit((ids, mask), count)
        return Prepared([unit], np.arange(count, dtype=np.float32), flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of equally long token rows."""
        ids, mask = self._compute.to_device(units)
        with self._compute.running():
            output = self._model(
                input_ids=ids, attention_mask=mask, output_hidden_states=self._layer is not None
            )
            return self._compute.to_host(states_of(output, self._layer), units)


def _longest_input(tokenizer: Any, config: Any) -> int:
    # RoBERTa's positions start after the padding index, so two of them are never a token's.
    positions = getattr(config, "max_position_embeddings", None) or MAX_TOKENS
    if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert"}:
        positions -= (config.pad_token_id or 0) + 1
    return int(min(MAX_TOKENS, positions, tokenizer.model_max_length))
