"""Started by torchrun: trains with the command; the first process alone runs out of memory."""

from __future__ import annotations

from itertools import count
from typing import Any
from unittest.mock import patch

import torch

from pipeline import training
from pipeline.commands.train import main
from pipeline.distributed import this_process

add_gradients, steps = training.add_gradients, count(1)


def run_out_of_memory(*arguments: Any) -> Any:
    """Fail in the second step, when the other process is about to add up its gradients."""
    if this_process().main and next(steps) == 2:
        raise torch.OutOfMemoryError("no memory is left")
    return add_gradients(*arguments)


if __name__ == "__main__":
    with patch.object(training, "add_gradients", run_out_of_memory):
        main()
