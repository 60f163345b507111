"""When each syllable is spoken: the one thing that voice and mouth share.

Timing is drawn without regard to any cue. If a sad voice spoke slower, the length of the clip and
the moving mouth would tell the eye what only the ear should know, and the ceilings of `hidden`
would no longer hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORTEST, LONGEST = 1.0, 3.0


@dataclass(frozen=True)
class Rhythm:
    """The syllables of one clip.

    Attributes:
        duration: Of the clip, in seconds.
        onsets: Start of each syllable, in seconds `[syllables]`.
        lengths: Length of each syllable, in seconds `[syllables]`.
    """

    duration: float
    onsets: NDArray[np.float64]
    lengths: NDArray[np.float64]

    def openness(self, time: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how open the mouth is at each time, 0 to 1, in the shape of `time`."""
        syllable = np.searchsorted(self.onsets, time, side="right") - 1
        start, length = self.onsets[syllable.clip(0)], self.lengths[syllable.clip(0)]
        phase = (time - start) / length
        speaking = (syllable >= 0) & (phase < 1)
        return np.where(speaking, np.sin(np.pi * phase.clip(0, 1)), 0.0)

    def progress(self, time: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much of the speech has passed at each time, 0 to 1."""
        end = self.onsets[-1] + self.lengths[-1]
        return ((time - self.onsets[0]) / (end - self.onsets[0])).clip(0.0, 1.0)


def draw_rhythm(syllables: int, rng: np.random.Generator) -> Rhythm:
    """Return a rhythm of so many syllables (at least one), of 1 to 3 seconds in all."""
    steps = rng.uniform(0.125, 0.165) * rng.uniform(0.8, 1.2, size=syllables)
    before, after = rng.uniform(0.08, 0.2, size=2)
    total = before + steps.sum() + after
    duration = float(np.clip(total, SHORTEST, LONGEST))
    scale = duration / total
    onsets = scale * (before + np.concatenate([[0.0], steps[:-1].cumsum()]))
    return Rhythm(duration, onsets, scale * steps)
