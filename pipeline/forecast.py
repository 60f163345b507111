"""What training will take, told before it starts: memory and time, from one step tried out.

Memory is what the parameters need, a gradient and AdamW's two moments for each that trains, and
what the step keeps for its gradient, counted as autograd keeps it, so that it holds for any model
and device. What a device needs beside that (its libraries, fragments, optimizer temporaries) is
not in it: say "about".
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Memory in bytes, and seconds that a training step takes."""

    memory: int
    step_seconds: float

    def line(self, steps: int) -> str:
        """Say what an epoch of `steps` steps takes."""
        seconds = self.step_seconds * steps
        duration = f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{max(seconds, 1):.0f} s"
        return f"about {self.memory / 2**30:.2g} GiB, and {duration} an epoch without validation"


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
    model.train()
    with saved_tensors_hooks(kept.keep, _Token.tensor_of):
        seconds = attempt()
    if this_process().broadcast(seconds < _BRIEF):
        seconds = attempt()
    fixed = sum(held(each).numel() * each.element_size() for each in model.parameters())
    moving = 3 * sum(each.numel() * each.element_size() for each in parameters)
    return Forecast(fixed + moving + kept.most, seconds)


class _Token:
    """Stands for a tensor that autograd keeps, and tells when it lets go of it."""

    def __init__(self, tensor: Tensor, forget: Callable[[int], None]) -> None:
        self.tensor = tensor
        self._forget, self._place = forget, tensor.untyped_storage().data_ptr()

    def tensor_of(self) -> Tensor:
        """Return the tensor."""
        return self.tensor

    def __del__(self) -> None:
        self._forget(self._place)


class _Kept:
    """Counts the bytes that autograd keeps at once, each storage once, without the parameters'."""

    def __init__(self, model: Egmf) -> None:
        self._parameters = {held(p).untyped_storage().data_ptr() for p in model.parameters()}
        self._users: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._now = self.most = 0

    def keep(self, tensor: Tensor) -> _Token:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        # The layers of a cut model are put together anew for every pass.
        weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        if not self._users[place] and not weight and place not in self._parameters:
            self._sizes[place] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
        self._users[place] += 1
        return _Token(tensor, self._forget)

    def _forget(self, place: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            self._now -= self._sizes.pop(place, 0)
