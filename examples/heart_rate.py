"""Give the demo a fourth modality: the heart rate of the drawn people, as features from elsewhere.

    python examples/heart_rate.py data/demo/truth.csv heart_rate.csv
    egmf-cache import heart_rate.csv --dataset demo --modality pulse
    egmf-train --from-cache --dataset demo --modalities text,audio,visual,pulse

Nothing in egmf counts to three: a modality is a feature set of another name. The rate follows the
hidden emotion and its strength, and is noisy, as a wrist sensor's would be.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

RESTING = 70.0
AROUSAL = {"anger": 22.0, "sadness": -6.0, "neutral": 0.0, "joy": 10.0, "surprise": 16.0}
"""Beats a minute above rest at full strength."""

DEVIATION = 6.0
STEADINESS = {"anger": 3.0, "sadness": 2.0, "neutral": 1.0, "joy": 2.5, "surprise": 5.0}


def main() -> None:
    """Write one row an utterance: mean rate and its variation."""
    truth = pd.read_csv(sys.argv[1])
    draw = np.random.default_rng(2601)
    strength = truth["level"] / truth["level"].max()
    rate = RESTING + truth["emotion"].map(AROUSAL) * strength
    variation = truth["emotion"].map(STEADINESS) * draw.lognormal(0.0, 0.5, len(truth))
    noise = draw.normal(0.0, DEVIATION, len(truth))
    table = pd.DataFrame({"id": truth["id"], "rate": rate + noise, "variation": variation})
    table.to_csv(sys.argv[2], index=False)


if __name__ == "__main__":
    main()
