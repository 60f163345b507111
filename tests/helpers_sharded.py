"""Started by torchrun: cuts a language model over the processes and says what each one holds."""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor, nn

from generate.backbone import LoraSettings
from generate.sharding import held
from pipeline.distributed import join, leave, this_process
from pipeline.model import open_backbone


def numel_of(model: nn.Module) -> int:
    return sum(held(p).numel() for n, p in model.named_parameters() if "lora" not in n)


def passes(model: nn.Module, count: int) -> list[Tensor]:
    """Run a model `count` times over tokens of this process's own."""
    with torch.no_grad():
        return [model(input_ids=torch.arange(5 + each)[None]).logits for each in range(count)]


def main(llm: str) -> None:
    device = join(cpu=True)
    processes = this_process()
    models = {}
    for cut in (False, True):
        torch.manual_seed(0)
        backbone = open_backbone(llm, device, shard=cut)
        models[cut] = backbone.adapt(LoraSettings(rank=4))
    whole, cut_up = models[False], models[True]
    count = 3 - 2 * processes.rank  # one process runs thrice, the other once
    with cut_up.together():
        found = passes(cut_up.model, count)
    expected = passes(whole.model, count)
    report = {
        "whole": numel_of(whole),
        "embedding": cut_up.model.get_input_embeddings().weight.numel(),
        "held": numel_of(cut_up),
        "apart": max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)),
    }
    reports = processes.gather(report)
    if processes.main:
        print(json.dumps(reports))
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
