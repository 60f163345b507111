"""Fusions of equal size: the width at which a variant has as many parameters as whole EGMF.

At one width the variants differ by a factor in their parameters, so that comparing them there
compares sizes too.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import torch

from fuse.config import EXPERTS, LEVELS, FusionConfig
from fuse.fusion import Fusion

MOST_HEADS_WIDE = 1024
"""No width beyond this many times the heads is looked at."""


def count_parameters(config: FusionConfig) -> int:
    """Count a fusion's parameters, without memory for them and without a random number drawn."""
    with torch.device("meta"):
        return sum(p.numel() for p in Fusion(config).parameters())


def match_size(config: FusionConfig) -> FusionConfig:
    """Change the width so that the fusion is about as large as EGMF with all of its parts.

    The width, a multiple of `heads`, is the one whose count is nearest to that of EGMF at the
    width, layers and tokens that `config` asks for.
    """
    whole = replace(config, variant="egmf", experts=EXPERTS, gate_levels=LEVELS)
    wanted = count_parameters(whole)

    def size(times: int) -> int:
        return count_parameters(replace(config, dim=times * config.heads))

    above = max(2, bisect_left(range(MOST_HEADS_WIDE), wanted, lo=1, key=size))
    nearest = min((above - 1, above), key=lambda times: abs(size(times) - wanted))
    return replace(config, dim=nearest * config.heads)
