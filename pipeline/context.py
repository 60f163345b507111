"""Context: the turns before and after an utterance in its dialogue or video.

Turns are counted by rank within the group, since releases have holes in their numbering. A group
does not reach across splits: an utterance of the training split is never context of a test one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.items import Utterance

UNKNOWN_SPEAKER, SAME_SPEAKER, OTHER_SPEAKER = range(3)


@dataclass(frozen=True)
class Neighbour:
    """A turn beside an utterance: how far away it is, and whether the same person speaks."""

    utterance: Utterance
    offset: int
    speaker: int


@dataclass(frozen=True)
class Context:
    """The neighbours of every utterance, from the earliest to the latest."""

    before: int = 0
    after: int = 0
    neighbours: Mapping[str, Sequence[Neighbour]] = field(default_factory=dict)

    @property
    def reach(self) -> int:
        """Largest distance of a neighbour; 0 without context."""
        return max(self.before, self.after)

    def of(self, utterance: Utterance) -> Sequence[Neighbour]:
        """Return the neighbours of an utterance."""
        return self.neighbours.get(utterance.id, ())

    def history(self, utterance: Utterance) -> list[str]:
        """Return the transcripts of the turns before, oldest first, with their speakers."""
        turns = [each.utterance for each in self.of(utterance) if each.offset < 0]
        return [
            f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text
            for turn in turns
            if turn.text is not None
        ]


def find_context(utterances: Iterable[Utterance], before: int, after: int) -> Context:
    """Find the neighbours of every utterance that belongs to a group."""
    groups: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for each in utterances:
        if each.group is not None and each.order is not None:
            groups[each.split, each.group].append(each)
    neighbours = {}
    for turns in groups.values():
        turns.sort(key=lambda turn: (turn.order or 0, turn.id))
        for place, own in enumerate(turns):
            first, last = max(0, place - before), min(len(turns), place + after + 1)
            neighbours[own.id] = [
                Neighbour(turns[other], other - place, _relation(own, turns[other]))
                for other in range(first, last)
                if other != place
            ]
    return Context(before, after, neighbours)


def _relation(own: Utterance, other: Utterance) -> int:
    if own.speaker is None or other.speaker is None:
        return UNKNOWN_SPEAKER
    return SAME_SPEAKER if own.speaker == other.speaker else OTHER_SPEAKER
