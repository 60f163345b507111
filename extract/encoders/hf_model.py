"""Model directories of `transformers`: found and described without loading, then loaded.

What a file lacks would be drawn at random by the library, so a model with missing weights is
refused; only parts that no row is made of may be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.encoders.options import Layer
from extract.encoders.weights import (
    Memo,
    digest_of_files,
    find_model_folder,
    has_random_weights,
    read_config,
    slug_of,
)
from extract.errors import ExtractError

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_WEIGHTS = ["model*.safetensors", "pytorch_model*.bin"]
_LAST = 4  # layers in the mean of `@last4`


@dataclass(frozen=True)
class HfModel:
    """A model directory: its configuration and which weights it holds."""

    folder: Path
    config: dict[str, Any]
    digest: str
    slug: str
    random_weights: bool

    def number(self, *names: str) -> int | None:
        """Return the first of the configuration's fields that is a number."""
        values = (self.config.get(name) for name in names)
        return next((value for value in values if isinstance(value, int)), None)


def find_hf_model(
    name: str,
    layer: Layer,
    spec: str,
    companions: Sequence[str],
    memo: Memo,
    *,
    also: Sequence[str] = (),
) -> HfModel:
    """Find the model that a directory or a hub id names.

    Args:
        name: The directory or id.
        layer: Which of its hidden states is wanted.
        spec: The whole spec, for messages.
        companions: Patterns of the files that go with the weights (tokenizer, preprocessor).
        memo: Remembers digests.
        also: Companions without which the model cannot be used.

    Raises:
        ExtractError: there is no such model or layer, or it is not a `transformers` model.
    """
    folder = find_model_folder(name, f"encoder {spec}", [*companions, *_WEIGHTS], CONFIG, also=also)
    config = read_config(folder / CONFIG, spec)
    if not isinstance(config.get("model_type"), str):
        raise ExtractError(
            f"encoder {spec}: {folder / CONFIG} names no model_type: not a model of transformers"
        )
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise ExtractError(f"encoder {spec}: {folder} holds no weights (model.safetensors)")
    suffix = "" if layer is None else f"-{layer}" if layer == "last4" else f"-layer{layer}"
    beside = {path for pattern in companions for path in folder.glob(pattern)}
    model = HfModel(
        folder=folder,
        config=config,
        digest=digest_of_files([*weights, *beside], memo),
        slug=slug_of(Path(name).name + suffix),
        random_weights=has_random_weights(folder),
    )
    layers = model.number("num_hidden_layers", "num_layers", "n_layer")
    if isinstance(layer, int) and layers is not None and not -layers - 1 <= layer <= layers:
        raise ExtractError(f"encoder {spec}: there is no layer {layer}; the model has {layers}")
    return model


def load_hf_model(
    location: str,
    spec: str,
    *,
    masked: bool,
    unused: Collection[str] = (),
) -> Any:
    """Load a model's `AutoModel` in single precision.

    Args:
        location: Its directory.
        spec: The spec, for messages.
        masked: Whether its batches come with masks. The fused form of attention leaves a mask away
            when a whole batch needs none, and a row's last bits would depend on its neighbours:
            masked batches therefore take the plain form, others the library's choice.
        unused: Parts of names of weights that may be missing, because no row is made of them.

    Raises:
        ExtractError: it does not load, or lacks weights.
    """
    import torch
    from transformers import AutoModel, logging

    logging.set_verbosity_error()  # it reports heads that are left unused, as is meant here
    logging.disable_progress_bar()
    try:
        model, loading = AutoModel.from_pretrained(
            location,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="eager" if masked else None,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers and safetensors, each its own
        raise not_loadable(spec, location, error) from error
    missing = sorted(
        key for key in loading["missing_keys"] if not any(part in key for part in unused)
    )
    if missing:
        raise ExtractError(
            f"encoder {spec}: {location} lacks {len(missing)} of the model's weights "
            f"(such as {missing[0]}): the files are incomplete, or of another model"
        )
    return model.eval()


def not_loadable(spec: str, location: str, error: Exception) -> ExtractError:
    """Return the error of a directory that is not what `transformers` expects."""
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ExtractError(
        f"encoder {spec}: {location} does not load as a transformers model: {cause}"
    )


def states_of(output: Any, layer: Layer) -> Any:
    """Return the wanted states [batch, tokens, dim] of a model's output."""
    if layer is None:
        return output.last_hidden_state
    if layer == "last4":
        import torch

        return torch.stack(output.hidden_states[-_LAST:]).mean(dim=0)
    return output.hidden_states[layer]
