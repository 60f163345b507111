"""Where and in which precision an encoder computes, the same for all that torch runs.

Weights stay in single precision. In `float16` or `bfloat16`, torch's autocast computes products in
it, and sums that lose by it (norms, softmax) in single precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Unit

if TYPE_CHECKING:
    import torch


def units_in(budget: dict[str, float], cost: float, device: str) -> int:
    """Return how many units of some cost fit a batch's budget on a kind of device, at least one.

    On a CPU a unit takes as long in any batch, and small ones need less filling up.

    Args:
        budget: By kind of device, in the unit of `cost`: seconds of sound, or tokens.
        cost: Of one unit.
        device: Such as `cpu` or `cuda:1`.
    """
    return max(1, int(budget[device.partition(":")[0]] / cost))


class Compute:
    """Moves batches to a device, and back what was computed there."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self._dtype = getattr(torch, info.dtype)

    def to_device(self, units: Sequence[Unit]) -> list[torch.Tensor]:
        """Return each of the units' arrays as one tensor [batch, ...].

        For a GPU they are stacked in pinned memory, from which they travel while the CPU goes on.
        """
        import torch

        tensors = []
        for arrays in zip(*(unit.arrays for unit in units), strict=True):
            if self.device.type == "cpu":
                tensors.append(torch.from_numpy(np.stack(arrays)))
                continue
            dtype = torch.from_numpy(arrays[0]).dtype
            pinned = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype, pin_memory=True)
            np.stack(arrays, out=pinned.numpy())
            tensors.append(pinned.to(self.device, non_blocking=True))
        return tensors

    @contextmanager
    def running(self) -> Iterator[None]:
        """Compute without gradients, in the encoder's precision."""
        import torch

        single = self._dtype == torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self._dtype, enabled=not single),
        ):
            yield

    def to_host(self, rows: torch.Tensor, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Return of rows [batch, rows, dim] those that each unit means."""
        values = rows.float().cpu().numpy()
        return [value[: unit.rows] for value, unit in zip(values, units, strict=True)]
