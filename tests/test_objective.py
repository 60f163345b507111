"""The objective by hand, cut into passes, and the gate's terms."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fuse.gates import GateWeights, entropy_loss
from fuse.streams import Stream
from pipeline.augment import augment
from pipeline.batching import Batch, make_batch, share_of
from pipeline.distributed import Processes
from pipeline.fitting import Assembly, assemble, open_material
from pipeline.model import Egmf
from pipeline.objective import Counts, add_gradients, counts_of, passes
from pipeline.request import Bench
from pipeline.settings import TrainSettings
from pipeline.sources import open_corpus
from tests.helpers_toy import no_progress
from tests.test_training import request, settings_of

PLAIN = settings_of(dropout=0.0, lora_dropout=0.0, entropy_weight=0.1)


@pytest.fixture
def assembly(toy: Path, toy_llm: Path) -> Assembly:
    return assembled(toy, toy_llm, PLAIN)


def assembled(
    toy: Path, toy_llm: Path, settings: TrainSettings, context: tuple[int, int] = (0, 0)
) -> Assembly:
    """Build what a run with these settings trains."""
    from pipeline.model import open_backbone

    wanted = request(toy, toy_llm, settings=settings, context=context)
    corpus = open_corpus(wanted.source, (), lambda line: None)
    bench = Bench(
        lambda: open_backbone(str(toy_llm), wanted.device), no_progress, lambda line: None
    )
    return assemble(wanted, [open_material(wanted, corpus)], 1, bench)


def batch_of(assembly: Assembly, rank: int = 0, count: int = 1, size: int = 16) -> Batch:
    """Return the share of one of several processes of a step of `size` utterances."""
    part = assembly.parts[0]
    share = share_of(part, part.utterances["train"][:size], 5, Processes(rank, count))
    return make_batch(share, share.read(PLAIN))


def gradients(
    model: Egmf, batch: Batch, settings: TrainSettings = PLAIN
) -> tuple[float, dict[str, Tensor]]:
    model.train().zero_grad()
    counts = counts_of(batch, model.language)
    own, common = add_gradients(model, batch, counts, settings, lambda each: each.detach())
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(own + common), found


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> None:
    assert first.keys() == second.keys()
    largest = max(each.abs().max().item() for each in first.values())
    for name, each in first.items():
        assert (each - second[name]).abs().max().item() <= share * largest, name


def test_loss_and_gradients_are_those_of_the_formula(assembly: Assembly) -> None:
    """Against one graph from streams to loss, with every mean written out."""
    model, batch = assembly.model.train(), batch_of(assembly)
    loss, found = gradients(model, batch)
    model.zero_grad()
    items, targets = batch.items, batch.auxiliary
    fused = model.fuse(batch.streams, batch.turns)
    gate = fused.gate
    assert gate is not None
    summed, tokens = model.language.answer_loss(
        items.prompts, items.answers, fused.pseudo_tokens[torch.tensor(items.rows)]
    )
    cross = torch.nn.functional.cross_entropy(fused.targets[:, :-1], targets.label)
    square = (fused.targets[:, -1] - targets.score).square().mean()
    mean = gate.experts.mean(dim=0)
    balance = 3 * (mean - 1 / 3).square().sum()
    assert batch.corrupted.any()
    reliability = -(1 - gate.effective[batch.corrupted]).log().mean()
    experts = -(gate.experts * gate.experts.log()).sum(dim=1) / math.log(3)
    chosen = gate.modalities.clamp(min=1e-30)
    number = torch.stack([each.present for each in batch.streams.values()]).sum(dim=0)
    assert set(number.tolist()) == {2, 3}
    modalities = -(chosen * chosen.log()).sum(dim=2) / number.log().unsqueeze(1)
    decided = (1 - experts).mean() + (1 - modalities).mean()
    expected = (
        summed / tokens
        + PLAIN.auxiliary_weight * (cross + square)
        + PLAIN.balance_weight * balance
        + PLAIN.reliability_weight * reliability
        + PLAIN.entropy_weight * decided
    )
    torch.autograd.backward(expected)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_close(by_hand, {name: found[name] for name in by_hand}, 1e-6)
    assert not any(each.any() for name, each in found.items() if name not in by_hand)


@pytest.mark.parametrize("context", [(0, 0), (1, 1)])
def test_every_process_sees_the_noise_of_the_whole_step(
    toy: Path, toy_llm: Path, context: tuple[int, int]
) -> None:
    noisy = settings_of(feature_noise={"audio": 1.0, "text": 0.5}, modality_noise=0.5)
    part = assembled(toy, toy_llm, noisy, context).parts[0]
    step = part.utterances["train"][:7]

    def seen(processes: Processes) -> list[dict[str, list[Tensor]]]:
        """Return the real rows of each utterance, its own and its neighbours'."""
        changed, turns = share_of(part, step, 5, processes).read(noisy)
        both = [changed.streams, *([turns.streams] if turns else [])]
        return [
            {
                name: [each.value[row][each.mask[row]] for each in (s[name] for s in both)]
                for name in both[0]
            }
            for row in range(len(changed.dropped))
        ]

    whole, shares = seen(Processes()), [seen(Processes(rank, 2)) for rank in range(2)]
    assert [len(each) for each in shares] == [4, 3]
    for place, expected in enumerate(whole):
        found = shares[place % 2][place // 2]
        for name, rows in expected.items():
            assert len(rows) == (2 if any(context) else 1)
            assert all(torch.equal(*pair) for pair in zip(rows, found[name], strict=True))


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.1}])
def test_passes_add_up_to_the_whole_batch(assembly: Assembly, changes: dict[str, float]) -> None:
    model, batch = assembly.model, batch_of(assembly)
    whole = settings_of(**{**PLAIN.model_dump(), **changes})
    longest = max(each.length(4) for each in batch.items.prompts)
    cut = settings_of(**{**whole.model_dump(), "max_batch_tokens": 3 * longest})
    calls = []
    model.language.model.register_forward_hook(lambda *_: calls.append(1))
    loss, expected = gradients(model, batch, whole)
    at_once = len(calls)
    split, found = gradients(model, batch, cut)
    assert len(calls) - at_once >= 10
    assert split == pytest.approx(loss, rel=1e-6)
    assert_close(expected, found, 1e-6)


@pytest.mark.parametrize(("count", "size"), [(2, 16), (3, 2)])
def test_shares_add_up_to_the_whole_batch(assembly: Assembly, count: int, size: int) -> None:
    """The second time a third share is left without utterances."""
    model = assembly.model.train()
    loss, expected = gradients(model, batch_of(assembly, size=size))
    shares = [batch_of(assembly, rank, count, size) for rank in range(count)]
    every = [counts_of(each, model.language) for each in shares]
    whole = Counts(*map(sum, zip(*map(astuple, every), strict=True)))
    assert whole == counts_of(batch_of(assembly, size=size), model.language)
    gates = [model.fuse(each.streams).gate for each in shares if each.counted]
    total = torch.stack([each.experts.sum(dim=0) for each in gates if each]).sum(dim=0).detach()
    model.zero_grad()
    parts = [add_gradients(model, each, whole, PLAIN, lambda _: total) for each in shares]
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert sum(float(own) for own, _ in parts) + float(parts[0][1]) == pytest.approx(loss, rel=1e-6)
    assert_close(expected, found, 1e-6)


def test_passes_stay_below_the_limit_and_lose_nothing() -> None:
    lengths = [5, 9, 30, 2, 9, 5]
    assert passes(lengths, 0) == passes(lengths, 180) == [[0, 1, 2, 3, 4, 5]]
    assert passes(lengths, 20) == [[2], [1, 4], [0, 5, 3]]
    assert passes([], 20) == passes([], 0) == []


def test_entropy_loss_by_hand() -> None:
    experts = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    modalities = torch.tensor([[[0.5, 0.5, 0.0]] * 2, [[1.0, 0.0, 0.0]] * 2])
    weights = GateWeights(experts, modalities)
    present = torch.tensor([[True, True, False], [True, True, True]])
    # The first utterance is undecided on both levels; the second stakes all twice.
    assert entropy_loss(weights, present).item() == pytest.approx((0 + 2) / 2, abs=1e-6)
    alone = torch.tensor([[True, True, False], [True, False, False]])
    assert entropy_loss(weights, alone).item() == pytest.approx((0 + 1) / 2, abs=1e-6)
    assert entropy_loss(weights, present, 8).item() == pytest.approx(2 / 8, abs=1e-6)


def streams(longest: int) -> dict[str, Stream]:
    """Return three modalities of four utterances, padded to `longest` rows; one lacks two."""
    found = {}
    for name, length in (("x", 2), ("y", 3), ("z", 1)):
        value, mask = torch.zeros(4, longest, 5), torch.zeros(4, longest, dtype=torch.bool)
        value[:, :length], mask[:, :length] = 1.0, True
        if name != "x":
            value[3], mask[3] = 0.0, False
        found[name] = Stream(value, mask)
    return found


def test_augmentation_follows_from_an_utterances_own_seed() -> None:
    seen = set()
    for seed in range(20):
        seeds = [seed * 4 + row for row in range(4)]
        given = streams(3)
        whole = augment(given, 0.4, 0.4, seeds)
        assert all((each.value[each.mask] == 1.0).all() for each in given.values())
        part = {n: Stream(s.value[1:3], s.mask[1:3]) for n, s in streams(7).items()}
        alone = augment(part, 0.4, 0.4, seeds[1:3])
        for name, each in whole.streams.items():
            assert torch.equal(each.value[1:3], alone.streams[name].value[:, :3])
            assert not alone.streams[name].value[:, 3:].any()
        assert torch.equal(whole.dropped[1:3], alone.dropped)
        assert torch.equal(whole.corrupted[1:3], alone.corrupted)
        changed = whole.dropped | whole.corrupted
        assert changed.sum(dim=1).max() <= 1
        assert not changed[3].any()  # it has one modality only
        seen |= {("drop", m) for m in whole.dropped.any(dim=0).nonzero().flatten().tolist()}
        seen |= {("noise", m) for m in whole.corrupted.any(dim=0).nonzero().flatten().tolist()}
    assert len(seen) == 6
