"""What training will take, told before it starts: memory and time, from one step tried out.

Memory is what the parameters need, a gradient and AdamW's two moments for each that trains, and
what the step keeps for its gradient. A GPU tells the most that was in use; elsewhere it is counted
as autograd keeps it, which misses what gradient checkpointing keeps: say "at least" there. What a
device needs beside that (its libraries, fragments, optimizer temporaries) is not in it: say
"about".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from generate.sharding import held
from pipeline.batching import make_batch, share_of
from pipeline.checkpoints import trainable
from pipeline.distributed import this_process
from pipeline.model import Egmf
from pipeline.objective import add_gradients, counts_of
from pipeline.parts import Part
from pipeline.sampler import joint_batches
from pipeline.settings import TrainSettings

_BRIEF = 1.0


@dataclass(frozen=True)
class Forecast:
    """Memory in bytes, at least so much where not `whole`, and seconds that a step takes."""

    memory: int
    step_seconds: float
    whole: bool = True

    def line(self, steps: int) -> str:
        """Say what an epoch of `steps` steps takes."""
        seconds = self.step_seconds * steps
        duration = f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{max(seconds, 1):.0f} s"
        bound = "about" if self.whole else "at least"
        return f"{bound} {self.memory / 2**30:.2g} GiB, and {duration} an epoch without validation"


def forecast(model: Egmf, parts: Sequence[Part], settings: TrainSettings, seed: int) -> Forecast:
    """Try the first step of a run; nothing of it stays but the time that it took.

    It is tried twice where that is a matter of a moment: the first time is slower than any later.
    All processes that train together try it, each its share.
    """
    rows = [part.utterances["train"] for part in parts]
    place, utterances = next(
        joint_batches(rows, settings.batch_size, seed, 1, temperature=settings.joint_temperature)
    )
    share = share_of(parts[place], utterances, seed, this_process())
    kept = _Kept(model)

    def attempt() -> float:
        started = time.monotonic()
        batch = make_batch(share, share.read(settings))
        counts = counts_of(batch, model.language)
        own, common = add_gradients(model, batch, counts, settings, lambda each: each.detach())
        float(own + common)  # waits for the device
        for each in parameters:
            each.grad = None
        return time.monotonic() - started

    parameters = trainable(model)
    moments = 2 * sum(each.numel() * each.element_size() for each in parameters)
    model.train()
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    with nullcontext() if on_gpu else saved_tensors_hooks(kept.keep, _Token.tensor_of):
        seconds = attempt()
    if this_process().broadcast(seconds < _BRIEF):
        seconds = attempt()
    if on_gpu:
        return Forecast(torch.cuda.max_memory_allocated(model.device) + moments, seconds)
    fixed = sum(held(each).numel() * each.element_size() for each in model.parameters())
    gradient = moments // 2
    whole = not settings.gradient_checkpointing
    return Forecast(fixed + gradient + moments + kept.most, seconds, whole)


class _Token:
    """Stands for a tensor that autograd keeps; gone as soon as autograd lets go of it.

    Detached, for the tensor itself would hold the graph that holds this: a step that breaks off,
    such as for lack of memory, would then never be let go of.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()

    def tensor_of(self) -> Tensor:
        """Return the tensor."""
        return self.tensor


@dataclass(frozen=True)
class _Storage:
    """Bytes that autograd keeps, and what it keeps them for."""

    size: int
    users: list[ref[_Token]]

    @property
    def kept(self) -> bool:
        return any(user() is not None for user in self.users)


class _Kept:
    """Counts the bytes that autograd keeps at once, each storage once, without the parameters'.

    What was let go of is found by looking, for a finaliser would run inside of autograd's own
    code, where an interrupt by the user is lost.
    """

    def __init__(self, model: Egmf) -> None:
        self._parameters = {held(p).untyped_storage().data_ptr() for p in model.parameters()}
        self._storages: dict[int, _Storage] = {}
        self._newest: ref[_Token] | None = None
        self._now = self.most = 0

    def now(self) -> int:
        """Look what is still kept; returns its bytes."""
        self._storages = {place: each for place, each in self._storages.items() if each.kept}
        self._now = sum(each.size for each in self._storages.values())
        return self._now

    def keep(self, tensor: Tensor) -> _Token:
        """Count a tensor that is kept."""
        if self._newest is not None and self._newest() is None:  # a backward pass has begun
            self.now()
        token = _Token(tensor)
        self._newest = user = ref(token)
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        # The layers of a cut model are put together anew for every pass.
        weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        if place in self._storages:
            self._storages[place].users.append(user)
        elif not weight and place not in self._parameters:
            self._storages[place] = _Storage(storage.nbytes(), [user])
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
        return token
