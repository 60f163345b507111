"""Kinds of LoRA, layers computed again for the gradient, precision of the frozen weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from generate.backbone import Backbone, LoraSettings, load_backbone
from generate.errors import GenerateError
from generate.language_model import LanguageModel
from generate.prompts import Prompt
from pipeline.errors import PipelineError
from pipeline.model import open_backbone
from tests.test_training import request, result_of, run, settings_of

CPU = torch.device("cpu")


@pytest.fixture
def backbone(toy_llm: Path) -> Backbone:
    return load_backbone(str(toy_llm), device=CPU, dtype=torch.float32)


def gradients(language: LanguageModel) -> dict[str, Tensor]:
    """Return the gradients of the loss of one answer; B is drawn, as zeros would hide A."""
    torch.manual_seed(3)
    for name, parameter in language.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    language.train().zero_grad()
    pseudo = torch.randn(1, 2, language.embedding_dim, requires_grad=True)
    torch.manual_seed(4)  # of the dropout
    prompt = language.tokenize(Prompt("Signals: ", "\nEmotion:"))
    loss, _ = language.answer_loss([prompt], ["joy"], pseudo)
    torch.autograd.backward(loss)
    found = {n: p.grad.clone() for n, p in language.named_parameters() if p.grad is not None}
    assert pseudo.grad is not None
    return {**found, "pseudo": pseudo.grad}


def test_checkpointing_changes_memory_not_gradients(backbone: Backbone) -> None:
    lora = LoraSettings(rank=4, dropout=0.2)
    torch.manual_seed(0)
    plain = gradients(backbone.adapt(lora))
    torch.manual_seed(0)
    language = backbone.adapt(lora, checkpointing=True)
    passes = []
    layer = next(m for n, m in language.named_modules() if n.endswith("layers.0.self_attn"))
    layer.register_forward_hook(lambda *_: passes.append(1))
    again = gradients(language)
    assert len(passes) == 2
    assert plain.keys() == again.keys()
    assert all(torch.equal(each, again[name]) for name, each in plain.items())
    torch.manual_seed(0)
    passes.clear()
    gradients(backbone.adapt(lora))
    assert len(passes) == 1, "the next adapter is trained as it was asked for"


def test_kinds_of_lora(backbone: Backbone) -> None:
    lora = backbone.adapt(LoraSettings(rank=4, alpha=8)).model
    scales = {each.scaling["default"] for each in lora.modules() if isinstance(each, LoraLayer)}
    assert scales == {8 / 4}
    assert not any("magnitude" in name for name, _ in lora.named_parameters())
    rslora = backbone.adapt(LoraSettings(rank=4, alpha=8, kind="rslora")).model
    scales = {each.scaling["default"] for each in rslora.modules() if isinstance(each, LoraLayer)}
    assert scales == {8 / math.sqrt(4)}
    dora = backbone.adapt(LoraSettings(rank=4, kind="dora")).model
    lengths = [p for n, p in dora.named_parameters() if "magnitude" in n]
    assert lengths
    assert all(each.requires_grad for each in lengths)


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_a_run_learns_with_each_kind(toy: Path, toy_llm: Path, kind: str) -> None:
    wanted = settings_of(lora_kind=kind, epochs=4, gradient_checkpointing=True, fusion_lr=0.02)
    result = result_of(run(request(toy, toy_llm, settings=wanted, modalities=("audio",))))
    assert result["test"]["accuracy"] > result["baselines"]["majority"]["accuracy"]


def test_half_precision_of_the_frozen_weights_alone(toy_llm: Path) -> None:
    language = open_backbone(str(toy_llm), CPU, "bfloat16").adapt(LoraSettings(rank=4))
    kinds = {(p.requires_grad, p.dtype) for p in language.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    assert all(each.isfinite().all() for each in gradients(language).values())


def test_four_bits_need_a_gpu(toy_llm: Path) -> None:
    with pytest.raises(GenerateError, match="needs an NVIDIA GPU and bitsandbytes"):
        open_backbone(str(toy_llm), CPU, load_in_4bit=True)


def test_a_model_that_is_not_here_is_said_at_once() -> None:
    with pytest.raises(PipelineError, match=r"model no/such: .*; name a directory with --llm"):
        open_backbone("no/such", CPU)
