"""The whole model: fusion and language model, how they are built, saved and loaded.

A saved model is a folder: the peft adapter (safetensors, loads with `PeftModel.from_pretrained`),
`fusion.safetensors`, and `model.json` with what is needed to build the fusion again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fuse.config import EXPERTS, LEVELS, FusionConfig
from fuse.fusion import Fused, Fusion
from fuse.sizing import match_size
from fuse.streams import Stream, Turns
from generate.backbone import Backbone, LoraSettings, load_backbone
from generate.errors import first_line
from generate.language_model import LanguageModel
from pipeline.distributed import this_process
from pipeline.errors import PipelineError
from pipeline.llm import find_llm
from pipeline.settings import TrainSettings

MODEL_FILE = "model.json"
FUSION_FILE = "fusion.safetensors"


class Egmf(nn.Module):
    """Fusion and language model, trained together; the language model's own weights stay frozen."""

    def __init__(self, fusion: Fusion, language: LanguageModel) -> None:
        super().__init__()
        self.fusion = fusion
        self.language = language

    @property
    def device(self) -> torch.device:
        """Where the fusion's weights are."""
        return next(self.fusion.parameters()).device

    def fuse(self, streams: Mapping[str, Stream], turns: Turns | None = None) -> Fused:
        """Fuse a batch of streams and neighbouring turns wherever they lie."""
        device = self.device
        if turns is not None:
            near = _to_device(turns.streams, device)
            turns = Turns(near, turns.offset.to(device), turns.speaker.to(device))
        return self.fusion(_to_device(streams, device), turns)

    def save(self, folder: Path) -> None:
        """Write adapter, fusion and what is needed to build them again into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.language.save_adapter(folder)
        weights = {n: w.detach().cpu().contiguous() for n, w in self.fusion.state_dict().items()}
        save_file(weights, folder / FUSION_FILE)
        (folder / MODEL_FILE).write_text(json.dumps(asdict(self.fusion.config), indent=1))

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters of the fusion and of the adapter."""
        return {
            "fusion": [p for p in self.fusion.parameters() if p.requires_grad],
            "lora": [p for p in self.language.parameters() if p.requires_grad],
        }


def open_backbone(
    llm: str,
    device: torch.device,
    dtype: str = "auto",
    load_in_4bit: bool = False,
    shard: bool = False,
) -> Backbone:
    """Load a language model, a directory or hub id; see `pipeline.settings` for its precision.

    Raises:
        PipelineError: there is no such model, or the hub cannot be reached.
        GenerateError: it cannot be loaded.
    """
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    precision = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    processes = this_process()
    return load_backbone(
        find_llm(llm),
        device=device,
        dtype=precision,
        load_in_4bit=load_in_4bit,
        peers=processes if shard and processes.count > 1 else None,
    )


def build_model(
    backbone: Backbone,
    inputs: Mapping[str, int],
    targets: int,
    settings: TrainSettings,
    *,
    variant: str,
    ablate: Sequence[str],
    reach: int,
) -> Egmf:
    """Build a fresh model; one that had the backbone before is of no use any more.

    Args:
        backbone: the frozen language model.
        inputs: feature dimension of each modality, in order.
        targets: outputs of the auxiliary head.
        settings: of the run.
        variant: of the fusion; see `fuse.config.VARIANTS`.
        ablate: parts to leave out; see `pipeline.settings.ABLATIONS`.
        reach: largest distance of a context turn, 0 for none.
    """
    lora = LoraSettings(
        settings.lora_rank, settings.lora_alpha, settings.lora_dropout, settings.lora_kind
    )
    language = backbone.adapt(
        None if "lora" in ablate else lora, checkpointing=settings.gradient_checkpointing
    )
    config = FusionConfig(
        inputs=dict(inputs),
        embedding_dim=language.embedding_dim,
        embedding_rms=language.embedding_rms,
        variant=variant,
        dim=settings.dim,
        heads=settings.heads,
        layers=settings.layers,
        kernels=settings.kernels,
        rank=settings.rank,
        tokens=0 if "pseudo-tokens" in ablate else settings.pseudo_tokens,
        dropout=settings.dropout,
        gate_temperature=settings.gate_temperature,
        gate_levels=tuple(level for level in LEVELS if not {"gate", f"gate-{level}"} & set(ablate)),
        experts=tuple(name for name in EXPERTS if name not in ablate),
        targets=targets if settings.auxiliary_weight else 0,
        reach=reach,
    )
    if settings.match_size:
        config = match_size(config)
    return Egmf(Fusion(config).to(backbone.device), language)


def load_model(folder: Path, backbone: Backbone) -> Egmf:
    """Load what `Egmf.save` wrote, for prediction.

    Raises:
        PipelineError: the fusion's files are missing or damaged.
        GenerateError: the adapter cannot be loaded.
    """
    try:
        fields = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        fields |= {key: tuple(each) for key, each in fields.items() if isinstance(each, list)}
        fusion = Fusion(FusionConfig(**fields))
        fusion.load_state_dict(load_file(folder / FUSION_FILE))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise PipelineError(
            f"{folder}: the saved model cannot be read ({first_line(error)}); train the run again "
            "with --fresh"
        ) from error
    adapter = folder if (folder / "adapter_config.json").is_file() else None
    return Egmf(fusion.to(backbone.device), backbone.adapt(None, adapter)).eval()


def _to_device(streams: Mapping[str, Stream], device: torch.device) -> dict[str, Stream]:
    return {n: Stream(s.value.to(device), s.mask.to(device)) for n, s in streams.items()}
