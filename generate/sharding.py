"""A frozen language model cut over several processes: each keeps its part of every weight.

What trains is small and stays whole; what fills the memory is the frozen model. Every layer's
weights are put together from all processes just before it runs and dropped behind it (FSDP2,
`torch.distributed.fsdp.fully_shard`, after ZeRO stage 3, arXiv 1910.02054). So all processes have
to run the model equally often, and one that has nothing left to run runs it for nothing.

The embeddings stay whole, and with them an output layer that is tied to them: prompts are embedded
outside the model's own pass, around their pseudo tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from generate.errors import GenerateError


class Peers(Protocol):
    """The processes that a model is cut over."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def call(self) -> None:
        """Ask those that wait for the first process to run the model once."""
        ...

    def most(self, number: int) -> int:
        """Return the largest number that any process named; called by all."""
        ...


class Sharding:
    """A cut model, and what keeps the processes' passes through it together.

    Steps of training know beforehand how many passes there are (`missing`). Elsewhere each pass is
    announced before it begins: to processes that score as well (`together`), or else by the first
    process, which scores alone, to those that wait for it.
    """

    def __init__(self, model: Any, device: torch.device, peers: Peers) -> None:
        """Cut `model`, which may lie elsewhere, and move each part to `device`.

        Raises:
            GenerateError: its layers are not known.
        """
        _shard(model, device, peers.count)
        self._model = model
        self._peers = peers
        self._together = False
        self._idle = False
        # Before FSDP's own hook, which waits for all processes.
        model.base_model.register_forward_pre_hook(self._announce, prepend=True)

    def missing(self, passes: int) -> int:
        """Return how many passes others have beyond this process's own; called by all."""
        return self._peers.most(passes) - passes

    def idle(self, passes: int = 1) -> None:
        """Run the model over one token for nothing, and back where gradients are computed."""
        for _ in range(passes):
            self._idle_pass()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all processes score at once; at the end they wait for one another."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
        with torch.no_grad():
            while self._peers.most(0):
                self.idle()

    def _idle_pass(self) -> None:
        weight = self._model.get_input_embeddings().weight
        needed = torch.is_grad_enabled()
        token = torch.zeros(1, 1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        self._idle = True
        try:
            logits = self._model(
                inputs_embeds=token.requires_grad_(needed), use_cache=False, logits_to_keep=1
            ).logits
        finally:
            self._idle = False
        if needed:
            torch.autograd.backward(logits.sum() * 0.0)

    def _announce(self, *_: object) -> None:
        if self._idle or torch.is_grad_enabled():
            return
        if self._together:
            self._peers.most(1)
        else:
            self._peers.call()


def held(parameter: Tensor) -> Tensor:
    """Return what this process keeps of a parameter: all of it, or its part."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _shard(model: Any, device: torch.device, count: int) -> None:
    """Cut layer by layer, so that `device` never holds more than one whole layer.

    Raises:
        GenerateError: the model does not say what its layers are.
    """
    names = set(model._no_split_modules or ())  # what transformers and accelerate go by
    layers = [each for each in model.modules() if type(each).__name__ in names]
    if not layers:
        raise GenerateError(
            f"{type(model).__name__} does not say what its layers are, so that it cannot be cut; "
            "train with --set shard_llm=false"
        )
    mesh = init_device_mesh(device.type, (count,))
    embedding: nn.Module = model.get_input_embeddings().to(device)
    whole = set(embedding.parameters())
    for each in layers:
        fully_shard(each, mesh=mesh, reshard_after_forward=True)
    output = model.get_output_embeddings()
    if whole.isdisjoint(output.parameters()):
        fully_shard(output, mesh=mesh, reshard_after_forward=True)
    fully_shard(model.base_model, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
