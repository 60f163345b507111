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
    changed = augment(streams_of(), 0.25, 0.25, range(400))
    assert changed.dropped.sum().item() == pytest.approx(100, abs=35)
    assert changed.corrupted.sum().item() == pytest.approx(100, abs=35)
    assert not (changed.dropped | changed.corrupted).all(dim=1).any()
    for index, stream in enumerate(changed.streams.values()):
        assert not stream.mask[changed.dropped[:, index]].any()
        untouched = ~(changed.dropped | changed.corrupted)[:, index]
        assert (stream.value[untouched][:, :2] == 1.0).all()


def test_every_subset_is_met_when_more_than_one_modality_may_go() -> None:
    text = streams_of(700)["text"]
    three = dict.fromkeys(("text", "audio", "visual"), text)
    changed = augment(three, 1.0, 0.0, range(700), most=9)
    kept, counts = (~changed.dropped).unique(dim=0, return_counts=True)
    assert len(kept) == 6  # every subset but none and all
    assert counts.tolist() == pytest.approx([700 / 6] * 6, abs=35)
    assert changed.dropped.sum(dim=1).unique().tolist() == [1, 2]
    for index, stream in enumerate(changed.streams.values()):
        assert torch.equal(stream.present, ~changed.dropped[:, index])
    assert augment(three, 1.0, 0.0, range(700)).dropped.sum().item() == 700


def test_an_utterance_with_one_modality_keeps_it_as_it_is() -> None:
    text = streams_of(50)["text"]
    changed = augment({"text": text}, 0.5, 0.5, range(50))
    assert torch.equal(changed.streams["text"].value, text.value)


def test_feature_noise_mixes_in_rows_of_the_batch_and_leaves_the_rest_alone() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    value = torch.tensor([[[1.0], [2.0], [0.0]], [[4.0], [0.0], [0.0]]])
    streams = {"text": Stream(value, mask), "audio": Stream(value, mask)}
    turns = Turns(streams, torch.zeros(2, 3).long(), torch.zeros(2, 3).long())
    seen = set()
    for seed in range(20):
        changed, near = disturb(streams, turns, {"text": 0.5}, seeded(seed))
        assert near is not None
        for disturbed in (changed["text"], near.streams["text"]):
            added = (disturbed.value - value)[mask].flatten().tolist()
            assert set(added) <= {0.5, 1.0, 2.0}
            seen.update(added)
            assert (disturbed.value[~mask] == 0.0).all()
        assert torch.equal(changed["audio"].value, value)
    assert seen == {0.5, 1.0, 2.0}
    again, _ = disturb(streams, turns, {"text": 0.5}, seeded(19))
    assert torch.equal(again["text"].value, changed["text"].value)


def test_feature_noise_leaves_absent_modalities_absent() -> None:
    nothing = Stream(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.bool))
    changed, _ = disturb({"text": nothing}, None, {"text": 1.0}, seeded())
    assert not changed["text"].mask.any()
    assert not changed["text"].value.any()
