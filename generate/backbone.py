"""The frozen language model: loaded once, given one LoRA adapter after another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from generate.errors import GenerateError, first_line
from generate.language_model import LanguageModel
from generate.sharding import Peers, Sharding


@dataclass(frozen=True)
class LoraSettings:
    """LoRA (arXiv 2106.09685) on every linear layer but the vocabulary projection.

    `kind` is plain `lora`, `dora` (arXiv 2402.09353) or `rslora` (arXiv 2312.03732).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    kind: Literal["lora", "dora", "rslora"] = "lora"


class Backbone:
    """A loaded causal language model and its tokenizer, frozen, for one adapter after another."""

    def __init__(self, model: Any, tokenizer: Any, sharding: Sharding | None = None) -> None:
        self._bare = model.requires_grad_(False)
        # How its makers let it chat (sampling, penalties) is not how it writes answers here.
        self._bare.generation_config = GenerationConfig()
        self._tokenizer = tokenizer
        self._sharding = sharding
        self._adapted: PeftModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        found: torch.device = self._bare.device
        return found

    def adapt(
        self,
        lora: LoraSettings | None,
        adapter: Path | None = None,
        *,
        checkpointing: bool = False,
    ) -> LanguageModel:
        """Return the model with a fresh or a saved adapter; the one before loses its own.

        A fresh adapter draws from the global random state and from nothing else, so that it is the
        same in a new process and after another adapter.

        Args:
            lora: a fresh adapter's settings, or None for the frozen model alone.
            adapter: a saved adapter to load instead of a fresh one.
            checkpointing: in training, compute the layers again for the gradient instead of
                keeping what they came to.

        Raises:
            GenerateError: the saved adapter is damaged or fits another model, or the model takes no
                adapter of this kind.
        """
        if self._adapted is not None:
            self._bare = self._adapted.unload()
            # peft leaves this behind, and warns of a second adapter on a later one.
            vars(self._bare).pop("peft_config", None)
            self._adapted = None
        model = self._bare
        with _peft_of_older_transformers():
            if checkpointing:
                # The reentrant form wants inputs with a gradient and is slower.
                model.gradient_checkpointing_enable({"use_reentrant": False})
            elif model.is_gradient_checkpointing:
                model.gradient_checkpointing_disable()
            if adapter is not None:
                model = self._adapted = _with_adapter(model, adapter)
            elif lora is not None:
                model = self._adapted = _with_fresh_adapter(model, lora)
        return LanguageModel(_on(model, self.device), self._tokenizer, self._sharding)


def load_language_model(
    source: str,
    *,
    lora: LoraSettings | None,
    adapter: Path | None = None,
    device: torch.device,
    dtype: torch.dtype,
) -> LanguageModel:
    """Load a model with one adapter; see `load_backbone` and `Backbone.adapt`."""
    return load_backbone(source, device=device, dtype=dtype).adapt(lora, adapter)


def load_backbone(
    source: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    load_in_4bit: bool = False,
    peers: Peers | None = None,
) -> Backbone:
    """Load a model from a directory or a hub id and freeze it.

    Args:
        source: directory or hub id of any `AutoModelForCausalLM` that needs no remote code.
        device: where the model runs.
        dtype: of the frozen weights; adapters are kept in float32 by peft.
        load_in_4bit: quantise the frozen weights to four bits; `dtype` is then that of the sums.
        peers: the processes to cut the frozen weights over; each keeps all of them where None.

    Raises:
        GenerateError: there is no such model, the hub cannot be reached, or four bits are wanted
            where they cannot be had, or the model cannot be cut.
    """
    options = _four_bits(device, dtype) if load_in_4bit else {}
    if device.type == "cuda" and peers is None:
        options["device_map"] = {"": device}  # not by way of the machine's own memory
    # Loading bars of a library in the middle of our own are noise.
    transformers_logging.disable_progress_bar()
    check_directory(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = _load(source, dtype=dtype, **options)
    except torch.OutOfMemoryError:  # no fault of the model's files
        raise
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own
        raise GenerateError(
            f"cannot load a language model from {source}: {_reason(error)}; give a directory "
            "written by save_pretrained, or a hub id that this machine has or can download"
        ) from error
    if tokenizer.eos_token_id is None:
        raise GenerateError(
            f"the tokenizer of {source} has no end-of-text token, which answers need"
        )
    if not tokenizer.encode("a", add_special_tokens=False):
        raise GenerateError(
            f"the tokenizer of {source} knows no words: its files (tokenizer.json) are missing; "
            "save the tokenizer beside the model"
        )
    model.requires_grad_(False)
    if peers is not None:
        return Backbone(model, tokenizer, Sharding(model, device, peers))
    return Backbone(_on(model, device), tokenizer)


def _load(source: str, **options: Any) -> Any:
    """Load a model with PyTorch's own attention, or its plain one if it knows no other."""
    try:
        return AutoModelForCausalLM.from_pretrained(source, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
    return AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager", **options)


def _four_bits(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what transformers needs to quantise while it loads (QLoRA, arXiv 2305.14314).

    Raises:
        GenerateError: there is no NVIDIA GPU, or no bitsandbytes.
    """
    if device.type != "cuda" or find_spec("bitsandbytes") is None:
        raise GenerateError(
            f"load_in_4bit needs an NVIDIA GPU and bitsandbytes, and this is {device.type}"
            f"{'' if find_spec('bitsandbytes') else ' without bitsandbytes'}; pip install "
            "bitsandbytes on a machine with a GPU, or leave load_in_4bit out"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config}


def _on(model: Any, device: torch.device) -> Any:
    """Move a model; a quantised one was loaded where it stays."""
    return model if getattr(model, "is_loaded_in_4bit", False) else model.to(device)


def check_directory(source: str) -> None:
    """Refuse a path that is no model directory, which transformers would take for a hub id.

    Raises:
        GenerateError: it is none.
    """
    folder = Path(source).expanduser()
    remedy = "give a directory written by save_pretrained, or a hub id"
    if folder.exists() and not (folder / "config.json").is_file():
        raise GenerateError(f"{source} is not a language model: it holds no config.json; {remedy}")
    if not folder.exists() and (source.startswith((".", "~", "/")) or source.count("/") > 1):
        raise GenerateError(f"{source} is not a language model: no such directory; {remedy}")


def _with_fresh_adapter(model: Any, lora: LoraSettings) -> Any:
    """Draw an adapter for the model.

    Raises:
        GenerateError: peft cannot adapt the model this way, such as experts with dropout.
    """
    try:
        return get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                use_dora=lora.kind == "dora",
                use_rslora=lora.kind == "rslora",
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise GenerateError(
            f"{type(model).__name__} takes no such adapter: {first_line(error)}; a mixture of "
            "experts needs --set lora_dropout=0 and knows no --set lora_kind=dora"
        ) from error


def _with_adapter(model: Any, folder: Path) -> Any:
    """Load a saved adapter onto the model.

    Raises:
        GenerateError: its files are damaged or fit another model.
    """
    try:
        # Left to itself, peft reads onto the first GPU, whichever one the model is on.
        return PeftModel.from_pretrained(model, str(folder), torch_device=str(model.device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # peft, safetensors and torch each raise their own
        raise GenerateError(
            f"{folder}: the adapter cannot be loaded: {_reason(error)}; train the run again "
            "with --fresh"
        ) from error


def _reason(error: Exception) -> str:
    """Return why a model cannot be loaded, in few words."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says"
    return first_line(error)


@contextmanager
def _peft_of_older_transformers() -> Iterator[None]:
    """Hide that peft and we call a method which newer transformers rename: no user can mend it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
