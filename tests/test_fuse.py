"""Experts, gate and projector: masks, absence, padding, any number of modalities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse.config import EXPERTS, LEVELS, FusionConfig
from fuse.experts import GlobalExpert, LocalExpert, SemanticExpert
from fuse.fusion import Fused, Fusion
from fuse.gates import GateWeights, HierarchicalGate, balance_loss, reliability_loss
from fuse.streams import AttentivePooling, Stream, masked_deviation, masked_mean, masked_softmax

DIMS = {"text": 5, "audio": 7, "visual": 3, "pulse": 2}


def make_fusion(names: tuple[str, ...], **changes: object) -> Fusion:
    torch.manual_seed(0)
    config = FusionConfig(
        inputs={name: DIMS[name] for name in names},
        embedding_dim=12,
        embedding_rms=0.5,
        dim=16,
        targets=2,
        **{"tokens": 3, **changes},  # type: ignore[arg-type]
    )
    return Fusion(config).eval()


def make_streams(
    names: tuple[str, ...], lengths: dict[str, list[int]], pad: int = 0, seed: int = 0
) -> dict[str, Stream]:
    """Streams whose content depends on name, row and seed, not on the padding."""
    streams = {}
    for name in names:
        longest = max(1, *lengths[name]) + pad
        value = torch.zeros(len(lengths[name]), longest, DIMS[name])
        mask = torch.zeros(len(lengths[name]), longest, dtype=torch.bool)
        for row, length in enumerate(lengths[name]):
            generator = torch.Generator().manual_seed(seed * 1000 + row * 10 + len(name))
            value[row, :length] = torch.randn(length, DIMS[name], generator=generator)
            mask[row, :length] = True
        streams[name] = Stream(value, mask)
    return streams


def run(fusion: Fusion, streams: dict[str, Stream]) -> Fused:
    with torch.no_grad():
        return fusion(streams)


def test_masked_statistics_by_hand() -> None:
    value = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [8.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    mean = masked_mean(value, mask)
    assert mean.squeeze().tolist() == [2.0, 0.0]
    deviation = masked_deviation(value, mask, mean)
    assert deviation[0].item() == pytest.approx(1.0, abs=1e-4)
    assert deviation[1].item() == pytest.approx(0.0, abs=2e-3)


def test_masked_softmax_is_exactly_zero_where_masked() -> None:
    logits = torch.tensor([[50.0, 1.0, 1.0], [3.0, 3.0, 3.0]])
    mask = torch.tensor([[False, True, True], [False, False, False]])
    weights = masked_softmax(logits, mask)
    assert weights[0].tolist() == [0.0, 0.5, 0.5]
    assert weights[1].tolist() == [0.0, 0.0, 0.0]


def test_attentive_pooling_ignores_masked_rows() -> None:
    pooling = AttentivePooling(4)
    value = torch.randn(1, 5, 4)
    mask = torch.tensor([[True, True, False, False, False]])
    changed = value.clone()
    changed[0, 2:] = 1e4
    assert torch.equal(pooling(value, mask), pooling(changed, mask))


@pytest.mark.parametrize("kind", [LocalExpert, SemanticExpert, GlobalExpert])
def test_expert_shape_and_absent_modality(kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    names = ("text", "audio", "visual")
    expert = kind(names, 8).eval()
    streams = {
        name: Stream(torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)) for name in names
    }
    gone = torch.ones(2, 4, dtype=torch.bool)
    gone[1] = False
    streams["audio"] = Stream(streams["audio"].value * gone.unsqueeze(-1), gone)
    out = expert(streams)
    assert out.shape == (2, 3, 8)
    assert out.isfinite().all()
    noisy = dict(streams)
    noisy["audio"] = Stream(streams["audio"].value + 5.0 * (~gone).unsqueeze(-1), gone)
    again = expert(noisy)
    torch.testing.assert_close(out[1, [0, 2]], again[1, [0, 2]])


def test_gate_levels_sum_to_one_and_absent_is_zero() -> None:
    fusion = make_fusion(("text", "audio", "visual"))
    streams = make_streams(
        ("text", "audio", "visual"), {"text": [3, 2], "audio": [4, 0], "visual": [2, 5]}
    )
    gate = run(fusion, streams).gate
    torch.testing.assert_close(gate.experts.sum(-1), torch.ones(2))
    torch.testing.assert_close(gate.modalities.sum(-1), torch.ones(2, 3))
    assert gate.modalities[1, :, 1].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(gate.effective.sum(-1), torch.ones(2))


def test_nothing_present_gives_finite_tokens_and_zero_weights() -> None:
    fusion = make_fusion(("text", "audio"))
    fused = run(fusion, make_streams(("text", "audio"), {"text": [0], "audio": [0]}))
    assert fused.pseudo_tokens.isfinite().all()
    assert fused.gate.effective.tolist() == [[0.0, 0.0]]


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(DIMS)), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_padding_and_batch_mates_change_nothing(names: list[str], data: st.DataObject) -> None:
    order = tuple(names)
    rows = data.draw(st.integers(1, 3))
    lengths = {
        name: data.draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows)) for name in order
    }
    pad = data.draw(st.integers(0, 4))
    fusion = make_fusion(order)
    together = run(fusion, make_streams(order, lengths, pad))
    for row in range(rows):
        streams = make_streams(order, lengths)
        alone = {
            name: Stream(
                stream.value[row : row + 1, : max(1, lengths[name][row])],
                stream.mask[row : row + 1, : max(1, lengths[name][row])],
            )
            for name, stream in streams.items()
        }
        single = run(fusion, alone)
        torch.testing.assert_close(
            single.pseudo_tokens[0], together.pseudo_tokens[row], atol=2e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            single.gate.modalities[0], together.gate.modalities[row], atol=2e-5, rtol=1e-4
        )


def test_pseudo_tokens_have_the_embeddings_size() -> None:
    fusion = make_fusion(("text", "audio"))
    tokens = run(fusion, make_streams(("text", "audio"), {"text": [3], "audio": [9]})).pseudo_tokens
    assert tokens.shape == (1, 3, 12)
    torch.testing.assert_close(tokens.square().mean(-1).sqrt(), torch.full((1, 3), 0.5))


@pytest.mark.parametrize("expert", EXPERTS)
def test_an_expert_can_be_left_out(expert: str) -> None:
    kept = tuple(name for name in EXPERTS if name != expert)
    fusion = make_fusion(("text", "audio"), experts=kept)
    fused = run(fusion, make_streams(("text", "audio"), {"text": [3], "audio": [2]}))
    assert fused.gate.experts.shape == (1, 2)
    assert not any(expert in name for name, _ in fusion.core.experts.named_parameters())


def test_a_static_gate_is_a_plain_mean_over_what_is_there() -> None:
    fusion = make_fusion(("text", "audio", "visual"), gate_levels=())
    lengths = {"text": [2, 2], "audio": [3, 0], "visual": [1, 4]}
    gate = run(fusion, make_streams(("text", "audio", "visual"), lengths)).gate
    torch.testing.assert_close(gate.effective[0], torch.full((3,), 1 / 3))
    torch.testing.assert_close(gate.effective[1], torch.tensor([0.5, 0.0, 0.5]))
    assert not list(fusion.core.gate.parameters())


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_can_be_static_alone(level: str) -> None:
    fusion = make_fusion(("text", "audio"), gate_levels=(level,))
    gate = run(fusion, make_streams(("text", "audio"), {"text": [2, 5], "audio": [3, 1]})).gate
    flat = {
        "experts": bool((gate.experts == gate.experts[0, 0]).all()),
        "modalities": bool((gate.modalities == 0.5).all()),
    }
    assert flat == {name: name != level for name in LEVELS}


def test_without_pseudo_tokens_the_fusion_tells_nothing() -> None:
    fusion = make_fusion(("text",), tokens=0)
    assert run(fusion, make_streams(("text",), {"text": [3]})).pseudo_tokens.shape == (1, 0, 12)


def test_a_high_temperature_flattens_the_gate() -> None:
    torch.manual_seed(0)
    mask = torch.ones(6, 3, dtype=torch.bool)
    streams = {name: Stream(torch.randn(6, 3, 4), mask) for name in ("x", "y")}
    sharp = HierarchicalGate(("a", "b"), ("x", "y"), 4)
    flat = HierarchicalGate(("a", "b"), ("x", "y"), 4, temperature=100.0)
    flat.load_state_dict(sharp.state_dict())
    spread = [gate(streams).effective.var().item() for gate in (sharp, flat)]
    assert spread[1] < spread[0] / 100


def test_balance_loss_by_hand() -> None:
    modalities = torch.full((2, 2, 2), 0.5)
    equal = GateWeights(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), modalities)
    assert balance_loss(equal).item() == 0.0
    collapsed = GateWeights(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), modalities)
    assert balance_loss(collapsed).item() == pytest.approx(1.0)


def test_reliability_loss_counts_corrupted_entries_alone() -> None:
    weights = GateWeights(torch.ones(2, 1), torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]]))
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert reliability_loss(weights, none).item() == 0.0
    hit = torch.tensor([[True, False], [False, False]])
    assert reliability_loss(weights, hit).item() == pytest.approx(1.3862944)


def test_training_reaches_every_parameter_that_matters() -> None:
    fusion = make_fusion(("text", "audio"), dropout=0.0).train()
    fused = fusion(make_streams(("text", "audio"), {"text": [3, 4], "audio": [5, 2]}))
    (
        fused.pseudo_tokens.square().sum() + fused.pseudo_tokens.sum() + fused.targets.sum()
    ).backward()
    without = [name for name, p in fusion.named_parameters() if p.grad is None]
    assert without == []


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        FusionConfig(inputs={}, embedding_dim=4, embedding_rms=1.0)
    with pytest.raises(ValueError, match="experts must be some of"):
        FusionConfig(inputs={"text": 2}, embedding_dim=4, embedding_rms=1.0, experts=("locl",))
