"""Stored rows made ready for arithmetic: single precision, successive rows averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_SERIAL = 1 << 15  # torch converts up to so many values in the calling thread


def pool_rows(value: NDArray[Any], count: int) -> NDArray[np.float32]:
    """Average each `count` successive rows of [rows, dim] into one; the last may average fewer."""
    value = _single_precision(value)
    if count == 1 or len(value) == 0:
        return value
    groups, rest = divmod(len(value), count)
    whole = _mean(value[: groups * count].reshape(groups, count, value.shape[1]))
    return np.concatenate([whole, _mean(value[None, -rest:])]) if rest else whole


def _mean(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average [groups, count, dim] over `count`; a sum of slices is faster than a reduction."""
    if groups.shape[1] == 1:
        return groups[:, 0]
    total = groups[:, 1].copy()
    for place in range(2, groups.shape[1]):
        total += groups[:, place]
    total += groups[:, 0]
    total /= groups.shape[1]
    return total


def _single_precision(value: NDArray[Any]) -> NDArray[np.float32]:
    """Convert [rows, dim] to float32; half precision by torch, which is ten times faster.

    In small pieces: this runs beside the training loop, where torch's own threads would not help.
    """
    if value.dtype != np.float16:
        return value.astype(np.float32, copy=False)
    result = np.empty(value.shape, np.float32)
    source, target = torch.from_numpy(value), torch.from_numpy(result)
    step = max(1, _SERIAL // max(1, value.shape[1]))
    for start in range(0, len(value), step):
        target[start : start + step].copy_(source[start : start + step])
    return result
