"""Where stage two computes: the device that a user names, or the best there is."""

from __future__ import annotations

import torch

from extract.errors import is_out_of_memory
from generate.errors import first_line
from pipeline.distributed import join, launched
from pipeline.errors import PipelineError


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`; without a name, the first GPU or else the processor.

    Where several processes train together, each gets a GPU of its own, or all use the processor.

    Raises:
        PipelineError: there is no such device on this machine, or it cannot be used now.
    """
    if launched():
        return join(cpu=name == "cpu")
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # which one depends on how torch was built
        if is_out_of_memory(error):
            raise
        raise PipelineError(
            f"--device {name}: no such device here, or none to be had now "
            f"({first_line(error)}); use --device cpu"
        ) from None
    return device
