"""The demo corpus' parameters and the table drawn from them."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from pydantic import ValidationError

from pipeline.demo.dialogues import draw_utterances, random_stream
from pipeline.demo.spec import DEFECTS, MODALITIES, SPLITS, Broken, DemoSpec, Sizes, Turns
from pipeline.manifest import load_manifest


@pytest.fixture(scope="module")
def utterances():
    return draw_utterances(DemoSpec())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"turns": {"low": 4, "high": 6}}, "turns.high is 6: at least 7"),
        ({"utterances": {"train": 7}}, "utterances.train is 7"),
        ({"utterances": {"train": 8, "valid": 0, "test": 0}}, "broken asks for 15 of 8"),
        ({"inertia": 1.5}, "inertia"),
        ({"noise": {"smell": {"emotion": 1, "level": 1}}}, "smell"),
    ],
)
def test_wrong_specs_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        DemoSpec.model_validate(fields)


def test_digest_tells_specs_apart():
    assert DemoSpec().digest() == DemoSpec().digest()
    assert DemoSpec(seed=1).digest() != DemoSpec().digest()


def test_manifest_entry_agrees_with_the_generator():
    entry = load_manifest().dataset("demo")
    assert entry.generator == DemoSpec()
    assert entry.splits == entry.generator.utterances.model_dump()
    assert sorted(label.name for label in entry.labels) == [
        "anger", "joy", "neutral", "sadness", "surprise",
    ]  # fmt: skip
    assert (entry.scores.low, entry.scores.high) == (-3, 3)


def test_sizes_languages_and_dialogues(utterances):
    assert Counter(each.split for each in utterances) == {"train": 1400, "valid": 240, "test": 640}
    languages = Counter((each.split, each.language) for each in utterances)
    assert all(languages[split, "en"] == languages[split, "zh"] for split in SPLITS)
    assert len({each.id for each in utterances}) == len(utterances)
    dialogues = defaultdict(list)
    for each in utterances:
        dialogues[each.group].append(each)
    for turns in dialogues.values():
        assert 4 <= len(turns) <= 8
        assert [turn.order for turn in turns] == list(range(len(turns)))
        assert len({(turn.split, turn.language) for turn in turns}) == 1
        assert len({turn.speaker for turn in turns}) == 2


@pytest.mark.parametrize("size", range(8, 40))
def test_any_size_is_filled(size):
    spec = DemoSpec(
        utterances=Sizes(train=size, valid=0, test=0), broken=Broken(**dict.fromkeys(DEFECTS, 0))
    )
    assert len(draw_utterances(spec)) == size


def test_drawn_as_the_spec_says(utterances):
    emotions = Counter(each.hidden.emotion for each in utterances)
    assert all(0.16 < count / len(utterances) < 0.24 for count in emotions.values())
    kept = [
        now.hidden.emotion == before.hidden.emotion
        for before, now in pairwise(utterances)
        if before.group == now.group
    ]
    assert sum(kept) / len(kept) == pytest.approx(0.35 + 0.65 / 5, abs=0.04)
    for modality, accuracy in zip(MODALITIES, (0.72, 0.66, 0.62), strict=True):
        right = [each.cues[modality].emotion == each.hidden.emotion for each in utterances]
        assert sum(right) / len(right) == pytest.approx(accuracy, abs=0.04)
        level = [each.cues[modality].level == each.hidden.level for each in utterances]
        assert sum(level) / len(level) == pytest.approx(0.75, abs=0.04)


def test_defects_are_counted_and_spread(utterances):
    broken = [each for each in utterances if each.defect]
    assert Counter(each.defect for each in broken) == dict.fromkeys(DEFECTS, 3)
    for defect in DEFECTS:
        assert {each.split for each in broken if each.defect == defect} == set(SPLITS)
    lost = {each.defect: set(MODALITIES) - set(each.visible_cues) for each in broken}
    assert lost == {
        "missing_file": {"audio", "visual"},
        "truncated_file": {"audio", "visual"},
        "no_audio": {"audio"},
        "no_video": {"visual"},
        "empty_transcript": {"text"},
    }


def test_same_seed_same_table(utterances):
    assert draw_utterances(DemoSpec()) == utterances
    assert draw_utterances(DemoSpec(seed=1)) != utterances


def test_longer_dialogues_are_an_edit():
    spec = DemoSpec(turns=Turns(low=10, high=20))
    assert max(each.order for each in draw_utterances(spec)) >= 14


def test_random_streams_differ_by_every_name():
    draws = {
        random_stream(seed, *names).integers(1 << 60)
        for seed, names in [(1, ("a", "b")), (1, ("a", "c")), (1, ("ab",)), (2, ("a", "b"))]
    }
    assert len(draws) == 4
    assert random_stream(1, "a").integers(1 << 60) == random_stream(1, "a").integers(1 << 60)
