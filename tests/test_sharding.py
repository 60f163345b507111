"""A model cut over one process, in this one: the same numbers, and passes that are announced.

What several processes do together is tried in processes of their own (`test_distributed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from generate.backbone import LoraSettings, load_backbone
from generate.errors import GenerateError
from generate.prompts import Prompt
from generate.sharding import Sharding, held

CPU = torch.device("cpu")


class Recorded:
    """One process that is told of three others' passes more, and notes what it is asked."""

    count = 1

    def __init__(self) -> None:
        self.calls = 0
        self.asked: list[int] = []
        self.others: list[int] = []

    def call(self) -> None:
        self.calls += 1

    def most(self, number: int) -> int:
        self.asked.append(number)
        return max(number, self.others.pop(0) if self.others else 0)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_cut_model_gives_the_same_numbers_and_announces_its_passes(
    toy_llm: Path, group: None
) -> None:
    peers = Recorded()
    models = {}
    for cut in (None, peers):
        torch.manual_seed(0)
        backbone = load_backbone(str(toy_llm), device=CPU, dtype=torch.float32, peers=cut)
        models[cut] = backbone.adapt(LoraSettings(rank=2, dropout=0.0)).eval()
    whole, cut_up = models[None], models[peers]
    sharding = cut_up.sharding
    assert sharding is not None
    frozen = [each for each in cut_up.parameters() if isinstance(each, DTensor)]
    assert len(frozen) > 5
    assert all(held(each).numel() == each.numel() for each in frozen)
    assert not isinstance(cut_up.model.get_input_embeddings().weight, DTensor)

    prompts = [whole.tokenize(Prompt(text, "\nEmotion:")) for text in ("a b c", "d")]
    pseudo = torch.randn(2, 3, whole.embedding_dim)
    question = prompts, ("joy", "anger"), pseudo
    with torch.no_grad():
        expected = whole.answer_scores(*question)
        torch.testing.assert_close(cut_up.answer_scores(*question), expected)
        assert (peers.calls, peers.asked) == (1, [])
        # Others run twice more: this process follows with passes that count for nothing.
        peers.others = [0, 1, 1, 0]
        with cut_up.together():
            torch.testing.assert_close(cut_up.answer_scores(*question), expected)
        assert (peers.calls, peers.asked) == (1, [1, 0, 0, 0])

    assert sharding.missing(2) == 0
    peers.others = [5]
    assert sharding.missing(2) == 3
    gradients = []
    for model in (whole, cut_up):
        given = pseudo.clone().requires_grad_()
        loss, _ = model.answer_loss(prompts, ["joy", "anger"], given)
        torch.autograd.backward(loss)
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)
    before = {name: each.grad.clone() for name, each in trained(cut_up)}
    sharding.idle(2)
    assert all(torch.equal(each.grad, before[name]) for name, each in trained(cut_up))
    assert peers.calls == 1, "training knows its passes beforehand"


def trained(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, each) for name, each in model.named_parameters() if each.grad is not None]


def test_a_model_of_unknown_layers_cannot_be_cut(toy_llm: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(toy_llm)
    model._no_split_modules = None
    with pytest.raises(GenerateError, match=r"Qwen2ForCausalLM .* --set shard_llm=false"):
        Sharding(model, CPU, Recorded())
