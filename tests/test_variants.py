"""Every fusion variant alike: masks, absence, padding, any number of modalities, learning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fuse.config import VARIANTS, FusionConfig
from fuse.fusion import Fusion
from fuse.streams import Stream, Turns, last_row
from fuse.variants import UNGATED
from fuse.variants.capsules import CapsuleRouting, route, squash
from fuse.variants.mse_adapter import LastState, MultiScaleMixer
from tests.test_fuse import DIMS, make_fusion, make_streams, run

ALL = ("text", "audio", "visual", "pulse")
ungated = pytest.mark.parametrize("variant", UNGATED)
every = pytest.mark.parametrize("variant", VARIANTS)


def some_streams(names: tuple[str, ...] = ALL[:3], pad: int = 0) -> dict[str, Stream]:
    lengths = {"text": [3, 1, 2], "audio": [4, 2, 1], "visual": [2, 3, 5], "pulse": [1, 2, 3]}
    return make_streams(names, {name: lengths[name] for name in names}, pad)


def absent(stream: Stream, row: int, noise: float = 0.0) -> Stream:
    """Take a row's modality away; `noise` is left where it was."""
    mask = stream.mask.clone()
    mask[row] = False
    value = stream.value.clone()
    value[row] = noise
    return Stream(value, mask)


def test_every_variant_can_be_built() -> None:
    assert {"egmf", *UNGATED} == set(VARIANTS)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variant must be one of .*got 'mutl'"):
        make_fusion(("text",), variant="mutl")


@every
@pytest.mark.parametrize("names", [("text",), ("audio",), ("text", "audio"), ALL[:3], ALL])
def test_shapes_for_any_modalities(variant: str, names: tuple[str, ...]) -> None:
    fused = run(make_fusion(names, variant=variant), some_streams(names))
    assert fused.pseudo_tokens.shape == (3, 3, 12)
    assert fused.vector.shape == (3, 16)
    assert fused.pseudo_tokens.isfinite().all()
    assert (fused.gate is None) == (variant != "egmf")
    assert (fused.vector[0] - fused.vector[1]).abs().max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(
    variant=st.sampled_from(sorted(UNGATED)),
    names=st.lists(st.sampled_from(sorted(DIMS)), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_padding_and_batch_mates_change_nothing(
    variant: str, names: list[str], data: st.DataObject
) -> None:
    order = tuple(names)
    rows = data.draw(st.integers(1, 3))
    lengths = {
        name: data.draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows)) for name in order
    }
    fusion = make_fusion(order, variant=variant)
    together = run(fusion, make_streams(order, lengths, data.draw(st.integers(0, 4))))
    assert together.vector.isfinite().all()
    exact = make_streams(order, lengths)
    for row in range(rows):
        ends = {name: max(1, lengths[name][row]) for name in order}
        alone = {
            name: Stream(
                stream.value[row : row + 1, : ends[name]], stream.mask[row : row + 1, : ends[name]]
            )
            for name, stream in exact.items()
        }
        single = run(fusion, alone)
        torch.testing.assert_close(single.vector[0], together.vector[row], atol=2e-5, rtol=1e-4)


@every
def test_what_is_masked_is_never_read(variant: str) -> None:
    fusion = make_fusion(ALL[:3], variant=variant)
    streams = some_streams(pad=2)
    spoiled = {
        name: Stream(stream.value + 9.0 * (~stream.mask).unsqueeze(-1), stream.mask)
        for name, stream in streams.items()
    }
    torch.testing.assert_close(run(fusion, spoiled).vector, run(fusion, streams).vector)


@every
def test_the_order_of_a_batch_does_not_matter(variant: str) -> None:
    fusion = make_fusion(ALL[:3], variant=variant)
    streams = some_streams()
    streams["audio"] = absent(streams["audio"], 1)
    order = torch.tensor([2, 0, 1])
    shuffled = {n: Stream(s.value[order], s.mask[order]) for n, s in streams.items()}
    expected, found = run(fusion, streams).vector[order], run(fusion, shuffled).vector
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@every
@pytest.mark.parametrize("left", ALL[:3])
def test_the_only_modality_present_is_read(variant: str, left: str) -> None:
    fusion = make_fusion(ALL[:3], variant=variant)
    streams = some_streams()
    for name in streams:
        if name != left:
            for row in range(len(streams[name].value)):
                streams[name] = absent(streams[name], row)
    vectors = run(fusion, streams).vector
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-4)


@every
@pytest.mark.parametrize("gone", ALL[:3])
def test_an_absent_modality_changes_its_own_row_alone(variant: str, gone: str) -> None:
    fusion = make_fusion(ALL[:3], variant=variant)
    streams = some_streams()
    full = run(fusion, streams).vector
    without = run(fusion, streams | {gone: absent(streams[gone], 1)}).vector
    noisy = run(fusion, streams | {gone: absent(streams[gone], 1, noise=50.0)}).vector
    torch.testing.assert_close(without[[0, 2]], full[[0, 2]])
    assert (without[1] - full[1]).abs().max() > 1e-3
    torch.testing.assert_close(noisy, without)


@ungated
def test_all_absent_is_the_learned_nothing(variant: str) -> None:
    fusion = make_fusion(ALL[:2], variant=variant)
    fusion.nothing.data.normal_()
    fused = run(fusion, make_streams(ALL[:2], {"text": [0, 2], "audio": [0, 0]}))
    torch.testing.assert_close(fused.vector[0], fusion.nothing.data)
    assert fused.vector.isfinite().all()


def all_gradients(fusion: Fusion, streams: dict[str, Stream], turns: Turns | None = None) -> None:
    fused = fusion(streams, turns)
    (fused.pseudo_tokens.square().sum() + fused.vector.sum() + fused.targets.sum()).backward()


@ungated
@pytest.mark.parametrize("names", [("text",), ("visual",), ALL[:3], ALL])
def test_gradients_reach_every_parameter(variant: str, names: tuple[str, ...]) -> None:
    fusion = make_fusion(names, variant=variant, dropout=0.0).train()
    all_gradients(fusion, some_streams(names))
    dead = [name for name, p in fusion.named_parameters() if p.grad is None and name != "nothing"]
    assert dead == []


@ungated
def test_gradients_are_finite_where_modalities_are_absent(variant: str) -> None:
    fusion = make_fusion(ALL[:3], variant=variant).train()
    streams = some_streams()
    for row, name in enumerate(streams):
        streams[name] = absent(streams[name], row)
    streams["text"] = absent(streams["text"], 1)
    streams["visual"] = absent(streams["visual"], 1)
    all_gradients(fusion, streams)
    wrong = [n for n, p in fusion.named_parameters() if not p.grad.isfinite().all()]
    assert wrong == []


@ungated
def test_the_turns_are_seen(variant: str) -> None:
    fusion = make_fusion(("text", "audio"), variant=variant, reach=2)
    streams = some_streams(("text", "audio"))
    near = make_streams(("text", "audio"), {"text": [2, 1, 0], "audio": [1, 1, 0]}, seed=5)
    near = {n: Stream(s.value[:, :1], s.mask[:, :1]) for n, s in near.items()}
    turns = Turns(near, torch.full((3, 1), -1), torch.ones(3, 1, dtype=torch.long))
    with torch.no_grad():
        alone, seen = fusion(streams).vector, fusion(streams, turns).vector
    assert (seen[0] - alone[0]).abs().max() > 1e-3
    later = Turns(near, torch.full((3, 1), -2), turns.speaker)
    with torch.no_grad():
        assert (fusion(streams, later).vector[0] - seen[0]).abs().max() > 1e-5
    fusion.train()
    all_gradients(fusion, streams, turns)
    dead = [n for n, p in fusion.core.turns.named_parameters() if p.grad is None]
    assert dead == []


@ungated
def test_each_learns_what_no_modality_tells_alone(variant: str) -> None:
    """The label is whether two modalities agree: only their interaction tells it."""
    torch.manual_seed(0)
    config = FusionConfig(
        inputs={"text": 4, "audio": 4},
        embedding_dim=8,
        embedding_rms=1.0,
        variant=variant,
        dim=16,
        heads=2,
        layers=1,
        tokens=0,
        dropout=0.0,
        targets=2,
    )
    fusion = Fusion(config).train()
    signs = torch.randint(0, 2, (64, 2)) * 2 - 1
    direction = torch.tensor([1.0, -1.0, 0.5, 0.0])
    streams = {
        name: Stream(
            signs[:, column].view(-1, 1, 1) * direction + 0.1 * torch.randn(64, 3, 4),
            torch.ones(64, 3, dtype=torch.bool),
        )
        for column, name in enumerate(("text", "audio"))
    }
    labels = (signs[:, 0] == signs[:, 1]).long()
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=1e-2)
    for _ in range(80):
        loss = nn.functional.cross_entropy(fusion(streams).targets, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = run(fusion.eval(), streams).targets.argmax(dim=1) == labels
    assert right.float().mean() > 0.95


def test_last_row_by_hand() -> None:
    value = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]], [[7.0], [8.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    assert last_row(value, mask).squeeze(1).tolist() == [2.0, 6.0, 0.0]


def test_mult_has_one_stack_for_each_directed_pair() -> None:
    fusion = make_fusion(ALL[:3], variant="mult", layers=3)
    pairs = fusion.core.fuse.pairs
    assert set(pairs) == {f"{a}<{b}" for a in ALL[:3] for b in ALL[:3] if a != b}
    assert all(len(pair.blocks) == 3 for pair in pairs.values())
    assert len(make_fusion(("text",), variant="mult").core.fuse.pairs) == 0


def test_mult_a_source_that_is_absent_adds_exactly_nothing() -> None:
    pair = make_fusion(("text", "audio"), variant="mult").core.fuse.pairs["text<audio"]
    target = Stream(torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool))
    source = absent(Stream(torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)), 1)
    other = Stream(torch.randn(2, 4, 16), source.mask)
    found, changed = pair(target, source), pair(target, other)
    assert not torch.allclose(found[0], changed[0])
    torch.testing.assert_close(found[1], changed[1], rtol=0, atol=0)


def test_the_last_state_is_that_of_a_loop_over_the_real_rows() -> None:
    torch.manual_seed(0)
    state = LastState(8)
    value = torch.randn(3, 5, 8)
    mask = torch.tensor(
        [[True] * 5, [True, True, False, False, False], [False, True, False, True, False]]
    )
    found = state(Stream(value, mask))
    for row in range(3):
        _, (hidden, _) = state.lstm(value[row][mask[row]].unsqueeze(0))
        torch.testing.assert_close(found[row], state.out(hidden[-1, 0]))
    nothing = Stream(value, torch.zeros(3, 5, dtype=torch.bool))
    assert state(nothing).abs().sum() == 0


def test_the_scales_are_integrated_by_a_weighted_sum() -> None:
    torch.manual_seed(0)
    mixer = MultiScaleMixer(8)
    assert [scale[0].out_features for scale in mixer.scales] == [16, 4, 8]
    vector = torch.randn(2, 8)
    weights, bias = mixer.integrate.weight[0, :, 0], mixer.integrate.bias
    expected = sum(w * scale(vector) for w, scale in zip(weights, mixer.scales, strict=True)) + bias
    torch.testing.assert_close(mixer(vector), expected)


def test_mse_adapter_is_guided_by_text_or_by_the_mean_of_the_rest() -> None:
    core = make_fusion(ALL[:3], variant="mse-adapter").core.fuse
    value = torch.randn(2, 3, 16)
    text = absent(Stream(value, torch.ones(2, 3, dtype=torch.bool)), 1)
    other = Stream(torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool))
    streams = {"text": text, "audio": other, "visual": absent(other, 0)}
    states = {name: core.states[name](streams[name]) for name in ("audio", "visual")}
    guide = core._guide(streams, states)
    torch.testing.assert_close(guide[0], core.guide(value[0].mean(dim=0)))
    torch.testing.assert_close(guide[1], (states["audio"][1] + states["visual"][1]) / 2)


def test_squash_by_hand() -> None:
    """A length of 5 becomes 25/26, one of 1 a half, and zero stays zero with a finite gradient."""
    vectors = torch.tensor([[3.0, 4.0], [0.0, -1.0], [0.0, 0.0]], requires_grad=True)
    squashed = squash(vectors)
    expected = torch.tensor([[25 / 26 * 0.6, 25 / 26 * 0.8], [0.0, -0.5], [0.0, 0.0]])
    torch.testing.assert_close(squashed, expected)
    squashed.sum().backward()
    assert vectors.grad.isfinite().all()


def test_routing_by_hand() -> None:
    """One input votes 1 for the first output and 0 for the second; widths are one.

    First iteration: shares 1/2, so s = 0.5 and v = 0.25 / 1.25 = 0.2. Second: logits (0.2, 0),
    share sigmoid(0.2) = 0.549834, v = 0.302318 / 1.302318 = 0.232139. Third: logits 0.432139,
    share sigmoid(0.432139) = 0.606384, v = 0.367702 / 1.367702 = 0.268847.
    """
    votes = torch.tensor([[[[1.0], [0.0]]]])
    found = [route(votes, iterations).flatten().tolist() for iterations in (1, 2, 3)]
    assert [each[0] for each in found] == pytest.approx([0.2, 0.232139, 0.268847], abs=1e-6)
    assert [each[1] for each in found] == [0.0, 0.0, 0.0]
    assert route(votes).flatten().tolist() == found[2]


def test_routing_sends_inputs_to_the_output_on_which_they_agree() -> None:
    agree = torch.tensor([2.0, 0.0])
    votes = torch.stack(
        [
            torch.stack([agree, torch.tensor([0.0, 2.0])]),
            torch.stack([agree, torch.tensor([0.0, -2.0])]),
        ]
    ).unsqueeze(0)
    lengths = [route(votes, n).norm(dim=-1)[0] for n in (1, 3)]
    assert lengths[0][0] > 0.79
    assert lengths[1][0] > lengths[0][0] + 0.05
    assert lengths[1][1] == 0.0


def test_a_capsule_of_zero_votes_for_nothing() -> None:
    torch.manual_seed(0)
    routing = CapsuleRouting(("a", "b"), capsules=2, width=3, outputs=4)
    source = torch.randn(2, 6)
    alone = CapsuleRouting(("a",), capsules=2, width=3, outputs=4)
    alone.votes["a"] = routing.votes["a"]
    found = routing({"a": source, "b": torch.zeros(2, 6)})
    assert found.shape == (2, 4, 3)
    torch.testing.assert_close(found, alone({"a": source}))


def test_emo_caps_has_a_capsule_for_each_modality_pair_and_all() -> None:
    core = make_fusion(ALL[:3], variant="emo-caps").core.fuse
    pairs = ["text+audio", "text+visual", "audio+visual"]
    assert list(core.primary) == [*ALL[:3], *pairs, "text+audio+visual"]
    assert len(make_fusion(ALL, variant="emo-caps").core.fuse.primary) == 4 + 6 + 1
    assert list(make_fusion(ALL[:2], variant="emo-caps").core.fuse.primary) == [
        "text",
        "audio",
        "text+audio",
    ]


def test_emo_caps_the_capsules_of_what_is_absent_are_exactly_zero() -> None:
    fusion = make_fusion(ALL[:3], variant="emo-caps")
    streams = some_streams()
    streams["audio"] = absent(streams["audio"], 1, noise=3.0)
    core = fusion.core.fuse
    capsules = core.primary_capsules(core.encode(fusion.project(streams)))
    for name, capsule in capsules.items():
        assert (capsule[1].abs().sum() == 0.0) == ("audio" in name)
        assert capsule[[0, 2]].abs().sum(dim=1).min() > 0


def test_emo_caps_an_absent_modality_is_as_if_it_had_been_left_out() -> None:
    whole = make_fusion(ALL[:2], variant="emo-caps")
    part = make_fusion(("text",), variant="emo-caps")
    shared = {n: w for n, w in whole.state_dict().items() if n in part.state_dict()}
    part.load_state_dict(shared)
    streams = some_streams(ALL[:2])
    for row in range(3):
        streams["audio"] = absent(streams["audio"], row)
    expected = run(part, {"text": streams["text"]})
    torch.testing.assert_close(run(whole, streams).vector, expected.vector)
