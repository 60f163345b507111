"""What training does to its inputs: absence, noise in a modality's place, noise on top of it."""

from __future__ import annotations

import pytest
import torch

from fuse.streams import Stream, Turns
from pipeline.augment import augment, disturb


def streams_of(rows: int = 400) -> dict[str, Stream]:
    mask = torch.ones(rows, 3, dtype=torch.bool)
    mask[:, 2] = False
    value = torch.ones(rows, 3, 5) * mask.unsqueeze(-1)
    return {"text": Stream(value, mask), "audio": Stream(value.clone(), mask)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_share_loses_a_modality_and_another_share_has_it_spoiled() -> None:
    changed = augment(streams_of(), 0.25, 0.25, seeded())
    assert changed.dropped.sum().item() == pytest.approx(100, abs=35)
    assert changed.corrupted.sum().item() == pytest.approx(100, abs=35)
    assert not (changed.dropped | changed.corrupted).all(dim=1).any()
    for index, stream in enumerate(changed.streams.values()):
        assert not stream.mask[changed.dropped[:, index]].any()
        untouched = ~(changed.dropped | changed.corrupted)[:, index]
        assert (stream.value[untouched][:, :2] == 1.0).all()


def test_an_utterance_with_one_modality_keeps_it_as_it_is() -> None:
    text = streams_of(50)["text"]
    changed = augment({"text": text}, 0.5, 0.5, seeded())
    assert torch.equal(changed.streams["text"].value, text.value)


def test_feature_noise_has_its_deviation_and_leaves_padding_and_other_modalities_alone() -> None:
    turn = streams_of()
    turns = Turns(turn, torch.zeros(400, 3, dtype=torch.long), torch.zeros(400, 3).long())
    changed, near = disturb(streams_of(), turns, {"text": 2.0}, seeded())
    assert near is not None
    for disturbed in (changed["text"], near.streams["text"]):
        assert disturbed.value[:, :2].std().item() == pytest.approx(2.0, rel=0.05)
        assert (disturbed.value[:, 2] == 0.0).all()
    assert torch.equal(changed["audio"].value, turn["audio"].value)
    again, _ = disturb(streams_of(), turns, {"text": 2.0}, seeded())
    assert torch.equal(again["text"].value, changed["text"].value)
