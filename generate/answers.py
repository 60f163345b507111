"""What the model may write: label words, and signed numbers with one decimal.

A number is written `+1.4`, `-0.6` or `0.0`: zero has one spelling, so no probability is split
between two strings that mean the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_MINUS_SIGNS = str.maketrans({"−": "-", "–": "-", "—": "-", "＋": "+", "－": "-"})


def number_answer(value: float) -> str:
    """Write a number as the model should: signed, one decimal, `0.0` for zero."""
    tenths = round(value * 10)
    return "0.0" if tenths == 0 else f"{tenths / 10:+.1f}"


def number_grid(low: float, high: float, step: float = 0.1) -> list[float]:
    """Return all answers from `low` to `high`, both included, in tenths.

    Raises:
        ValueError: the range is empty or its ends or step are no tenths.
    """
    first, last, stride = (round(x * 10) for x in (low, high, step))
    exact = all(math.isclose(x * 10, round(x * 10), abs_tol=1e-9) for x in (low, high, step))
    if not exact or stride < 1 or first >= last:
        raise ValueError(f"no grid of tenths from {low} to {high} in steps of {step}")
    return [tenths / 10 for tenths in range(first, last + 1, stride)]


def parse_number(answer: str, low: float, high: float) -> float | None:
    """Read a freely written number; None unless the answer is one number within the range."""
    text = answer.translate(_MINUS_SIGNS).strip()
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if low <= value <= high else None


def parse_label(answer: str, words: Sequence[str]) -> int | None:
    """Read a freely written label; None unless the answer is one of `words` and nothing else."""
    text = answer.strip().casefold()
    matches = [index for index, word in enumerate(words) if word.casefold() == text]
    return matches[0] if len(matches) == 1 else None
