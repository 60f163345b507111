"""AdamW with rates of their own for fusion and adapter, a warm-up and a cosine."""

from __future__ import annotations

import math

import torch

from pipeline.model import Egmf
from pipeline.settings import TrainSettings


def make_optimizer(
    model: Egmf, settings: TrainSettings, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Return the optimizer and the schedule of a run of at most `steps` steps.

    Vectors (biases, norms) are not decayed.
    """
    rates = {"fusion": settings.fusion_lr, "lora": settings.lora_lr}
    groups = []
    for name, parameters in model.trainable().items():
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decayed]
            decay = settings.weight_decay if decayed else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": rates[name], "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups)
    warmup = max(1, round(settings.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * share))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
