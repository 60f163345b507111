"""One or several processes that train one model together (data parallel).

`accelerate launch` or `torchrun` starts the processes; accelerate finds out who this one is, which
device is its own and how to talk to the others. The first process runs the command and writes all
files; the others train along (`pipeline.followers`).

Each process adds up the gradients of its share of a step, and the sums are added over the processes
in one go, rather than by torch's `DistributedDataParallel`: what trains is a few megabytes, a
step may run the language model any number of times, and the sum over processes has to be the sum
over the batch whoever has which utterance.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")

ALONG = "along"
"""What the first process broadcasts to make the others run a cut language model once."""

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: the first one also scores and writes alone."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone unless several were launched."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that runs the command and writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's share of what all of them know: every `count`-th item."""
        return list(items[self.rank :: self.count])

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all of them."""
        if self.count == 1:
            return value
        box = [value if self.main else None]
        dist.broadcast_object_list(box, src=0, group=_messages())
        return box[0]

    def gather(self, value: Item) -> list[Item]:
        """Return the value of every process, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=_messages())
        return found

    def most(self, number: int) -> int:
        """Return the largest of the numbers that the processes name."""
        if self.count == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=_messages())
        return int(largest)

    def call(self) -> None:
        """Ask the others, which wait for the first one, to run a cut language model along."""
        self.broadcast(ALONG)

    def add_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Add up numbers over the processes, without a word to the device."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=_messages())
        return [float(each) for each in total]

    def add(self, value: Tensor) -> Tensor:
        """Add up a tensor over the processes; no gradient goes through."""
        value = value.detach()
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in every one of them.

        A parameter that this process had no use for counts as one with a gradient of zero.
        """
        if self.count == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([each.flatten() for each in gradients])
        dist.all_reduce(flat)
        sizes = [each.numel() for each in gradients]
        for gradient, total in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(total.view_as(gradient))


def launched() -> bool:
    """Tell whether several processes were started to train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(*, cpu: bool) -> torch.device:
    """Meet the other processes; returns this one's own device."""
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    _messages()
    device: torch.device = state.device
    return device


def leave() -> None:
    """Part from the other processes; all of them come here when nothing is left to do.

    None goes before the others have come, and the channel's threads end here: left to the
    interpreter's own end, they abort the process now and then.
    """
    if dist.is_initialized():
        dist.barrier(group=_messages())
        _messages.cache_clear()
        dist.destroy_process_group()


def this_process() -> Processes:
    """Return which process this is; the only one where `join` was not called."""
    if not dist.is_initialized():
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


@cache
def _messages() -> Any:
    """Return the channel for what is no tensor on a device; made by all processes together."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
