"""Text through any `transformers` model: one row a token, special tokens included.

A text is padded to the smallest of a few fixed lengths that holds it, by its own token count
alone. Attention runs in the `eager` form: the fused form leaves the mask away when a whole batch
needs none, and a row's last bits would depend on its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.weights import (
    Memo,
    digest_of_files,
    find_model_folder,
    has_random_weights,
    read_config,
    slug_of,
)
from extract.errors import ExtractError

BUCKETS = (16, 32, 64, 128, 256, 512)  # tokens
MAX_TOKENS = BUCKETS[-1]
_CONFIG = "config.json"
_COMPANIONS = ("*.json", "*.txt", "*.model")  # configuration and tokenizer
_BATCH = {"cpu": 16, "cuda": 64}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the model that `ID_OR_DIR[@layer]` names.

    Raises:
        ExtractError: there is no such model, or it is not a `transformers` model.
    """
    name, layer = _split_layer(reference)
    folder = find_model_folder(
        name, f"encoder {spec}", [*_COMPANIONS, "model*.safetensors", "pytorch_model*.bin"], _CONFIG
    )
    config = read_config(folder / _CONFIG, spec)
    dim = next((config[key] for key in ("hidden_size", "d_model", "n_embd") if key in config), None)
    if "model_type" not in config or not isinstance(dim, int):
        raise ExtractError(
            f"encoder {spec}: {folder / _CONFIG} names no model_type or no hidden_size: "
            "not a text encoder of transformers"
        )
    layers = config.get("num_hidden_layers")
    if layer is not None and layers is not None and not -layers - 1 <= layer <= layers:
        raise ExtractError(f"encoder {spec}: there is no layer {layer}; the model has {layers}")
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise ExtractError(f"encoder {spec}: {folder} holds no weights (model.safetensors)")
    companions = [path for pattern in _COMPANIONS for path in folder.glob(pattern)]
    label = Path(name).name + ("" if layer is None else f"-layer{layer}")
    return EncoderInfo(
        spec=spec,
        kind="hf-text",
        medium="text",
        slug=slug_of(label),
        location=str(folder),
        digest=digest_of_files([*weights, *companions], memo),
        dim=dim,
        rows_per_second=None,
        random_weights=has_random_weights(folder),
        preprocessing={"layer": layer, "buckets": BUCKETS},
        dtype=settings.dtype,
    )


def _split_layer(reference: str) -> tuple[str, int | None]:
    name, mark, layer = reference.rpartition("@")
    if mark and layer.removeprefix("-").isdigit():
        return name, int(layer)
    return reference, None


class HfText:
    """A loaded text encoder."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer, logging

        logging.set_verbosity_error()  # it reports heads that are left unused, as is meant here
        logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(info.location, local_files_only=True)
            model, loading = AutoModel.from_pretrained(
                info.location,
                local_files_only=True,
                dtype=getattr(torch, info.dtype),
                attn_implementation="eager",
                output_loading_info=True,
            )
        except Exception as error:  # of transformers, tokenizers and safetensors, each its own
            cause = str(error).strip().splitlines()[0]
            raise ExtractError(
                f"encoder {info.spec}: {info.location} does not load as a transformers model: "
                f"{cause}"
            ) from error
        # What a file lacks would be drawn at random; the pooler alone is not used here.
        missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
        if missing:
            raise ExtractError(
                f"encoder {info.spec}: {info.location} lacks {len(missing)} of the model's weights "
                f"(such as {missing[0]}): the files are incomplete, or of another model"
            )
        self._model = model.to(device).eval()
        self._device = device
        self._layer: int | None = info.preprocessing["layer"]
        self._lock = threading.Lock()  # a fast tokenizer must not be used by two threads at once
        self._pad = self._tokenizer.pad_token_id or 0
        self._longest = _longest_input(self._tokenizer, model.config)
        self.batch_size = _BATCH[device.partition(":")[0]]

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
        import torch

        ids, mask = (
            torch.from_numpy(np.stack(arrays)).to(self._device)
            for arrays in zip(*(unit.arrays for unit in units), strict=True)
        )
        with torch.inference_mode():
            output = self._model(
                input_ids=ids, attention_mask=mask, output_hidden_states=self._layer is not None
            )
            states = (
                output.last_hidden_state
                if self._layer is None
                else output.hidden_states[self._layer]
            )
            rows = states.float().cpu().numpy()
        return [row[: unit.rows] for row, unit in zip(rows, units, strict=True)]


def _longest_input(tokenizer: Any, config: Any) -> int:
    # RoBERTa's positions start after the padding index, so two of them are never a token's.
    positions = getattr(config, "max_position_embeddings", None) or MAX_TOKENS
    if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert"}:
        positions -= (config.pad_token_id or 0) + 1
    return int(min(MAX_TOKENS, positions, tokenizer.model_max_length))
