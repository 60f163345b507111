"""Pre-training without labels, before the first step of training.

Reads the rows of the split `unlabelled`, where there is one, and the training rows without their
labels; never validation or test rows. It is a function of the seed alone: a run that stopped before
its first checkpoint does it again and comes to the same weights, and a checkpoint holds what it
came to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fuse.fusion import Fusion
from fuse.streams import Stream
from fuse.variants.self_supervision import SelfSupervision, hide_segments
from pipeline.augment import disturb
from pipeline.checkpoints import Progress
from pipeline.divergence import skip
from pipeline.items import Utterance
from pipeline.optimizer import decayed_groups
from pipeline.runs import RunFolder
from pipeline.sampler import derive_seed, epoch_batches
from pipeline.settings import TrainSettings

if TYPE_CHECKING:
    from pipeline.training import Part

COUNTER = 3_000_000
"""Where the counters of its seeds begin, apart from those of training."""


def pretraining_rows(part: Part) -> list[Utterance]:
    """Return what is pre-trained on: training rows, and unlabelled ones of their languages."""
    train = part.utterances["train"]
    languages = {each.language for each in train}
    unlabelled = part.utterances.get("unlabelled", ())
    return [*train, *(each for each in unlabelled if each.language in languages)]


def pretrain(
    fusion: Fusion,
    parts: Sequence[Part],
    settings: TrainSettings,
    folder: RunFolder,
    seed: int,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Pre-train an `emo-caps` fusion in place for `settings.pretrain_epochs`.

    Args:
        fusion: freshly built.
        parts: the datasets; each batch comes from one of them.
        settings: of the run.
        folder: whose log gets one line an epoch.
        seed: everything random follows from it.
        progress: of the run, which takes the seconds and the steps that were skipped.
        say: called with a line for people at the start and after every epoch.

    Raises:
        DivergenceError: the gradient is not finite for too long.
    """
    started = time.monotonic()
    rows = [pretraining_rows(part) for part in parts]
    count = sum(map(len, rows))
    unlabelled = sum(each.split == "unlabelled" for own in rows for each in own)
    say(f"pre-training on {count - unlabelled:,} training rows and {unlabelled:,} unlabelled ones")
    torch.manual_seed(derive_seed(seed, COUNTER))
    heads = SelfSupervision(fusion.config.inputs, fusion.config.dim)
    heads.to(next(fusion.parameters()).device)
    parameters = [*fusion.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(
        decayed_groups(parameters, settings.fusion_lr, settings.weight_decay)
    )
    fusion.train()
    for epoch in range(1, settings.pretrain_epochs + 1):
        torch.manual_seed(derive_seed(seed, COUNTER + epoch))
        generator = torch.Generator().manual_seed(derive_seed(seed, 2 * COUNTER + epoch))
        batches = [
            (part, batch)
            for part, own in zip(parts, rows, strict=True)
            for batch in epoch_batches(own, settings.batch_size, seed, COUNTER + epoch)
        ]
        total, steps = torch.zeros(2), 0
        for index in torch.randperm(len(batches), generator=generator).tolist():
            part, batch = batches[index]
            losses = _losses(fusion, heads, part, batch, settings.feature_noise, generator)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(losses.sum())
            norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
            if not norm.isfinite():
                when = f"in epoch {epoch} of pre-training"
                skip(progress, folder, epoch, settings, folder.append_log, when)
                continue
            optimizer.step()
            progress.skipped_in_a_row = 0
            total += losses.detach().cpu()
            steps += 1
        reconstruction, contrast = (total / steps).tolist()  # no number where all were skipped
        folder.append_log(
            {
                "kind": "pretrain",
                "step": 0,
                "epoch": epoch,
                "reconstruction": reconstruction,
                "contrast": contrast,
                "rows": count,
                "unlabelled": unlabelled,
                "seconds": time.monotonic() - started,
            }
        )
        say(
            f"pre-training epoch {epoch}: reconstruction {reconstruction:.3f}, "
            f"contrast {contrast:.3f}"
        )
    progress.skipped_in_a_row = 0  # training begins with an optimizer of its own
    progress.seconds += time.monotonic() - started


def _losses(
    fusion: Fusion,
    heads: SelfSupervision,
    part: Part,
    batch: Sequence[Utterance],
    noise: Mapping[str, float],
    generator: torch.Generator,
) -> Tensor:
    """Return both losses of a batch, [2]; neighbouring turns play no part."""
    streams, _ = part.inputs.batch(batch)
    streams, _ = disturb(streams, None, noise, generator)
    hidden = hide_segments(streams, generator)
    device = next(fusion.parameters()).device
    there = {n: Stream(s.value.to(device), s.mask.to(device)) for n, s in streams.items()}
    return torch.stack(heads(fusion, there, {n: each.to(device) for n, each in hidden.items()}))
