"""Where stage two computes: the device that a user names, or the best there is."""

from __future__ import annotations

import torch

from pipeline.distributed import join, launched
from pipeline.errors import PipelineError


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`; without a name, the first GPU or else the processor.

    Where several processes train together, each gets a GPU of its own, or all use the processor.

    Raises:
        PipelineError: there is no such device on this machine.
    """
    if launched():
        return join(cpu=name == "cpu")
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError):  # what torch raises depends on how it was built
        raise PipelineError(
            f"--device {name}: this machine has no such device; use --device cpu"
        ) from None
    return device
