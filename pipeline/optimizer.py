"""AdamW with rates of their own for fusion and adapter, a warm-up and a cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.model import Egmf
from pipeline.settings import TrainSettings


def make_optimizer(
    model: Egmf, settings: TrainSettings, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Return the optimizer and the schedule of a run of at most `steps` steps.

    Vectors (biases, norms) are not decayed.
    """
    rates = {"fusion": settings.fusion_lr, "lora": settings.lora_lr}
    optimizer = torch.optim.AdamW(
        [
            group
            for name, parameters in model.trainable().items()
            for group in decayed_groups(parameters, rates[name], settings.weight_decay)
        ]
    )
    warmup = max(1, round(settings.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * share))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def decayed_groups(
    parameters: Sequence[nn.Parameter], rate: float, decay: float
) -> list[dict[str, Any]]:
    """Return the parameter groups of one learning rate: matrices are decayed, vectors are not."""
    groups = []
    for decayed in (True, False):
        chosen = [each for each in parameters if (each.ndim > 1) == decayed]
        if chosen:
            weight_decay = decay if decayed else 0.0
            groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay})
    return groups
