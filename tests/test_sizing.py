"""Fusions of equal size: counting, and the width that matches whole EGMF."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fuse.config import VARIANTS, FusionConfig
from fuse.fusion import Fusion
from fuse.sizing import count_parameters, match_size

CORPORA = {
    "meld": {"text": 384, "audio": 8},
    "mosi": {"text": 100, "audio": 73, "visual": 100},
}
WHOLE = FusionConfig(inputs=CORPORA["mosi"], embedding_dim=128, embedding_rms=1.0, targets=3)


def test_counting_counts_and_draws_nothing() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    counted = count_parameters(replace(WHOLE, variant="mult", dim=16))
    assert torch.equal(torch.get_rng_state(), before)
    real = Fusion(replace(WHOLE, variant="mult", dim=16))
    assert counted == sum(p.numel() for p in real.parameters())


@pytest.mark.parametrize("reach", [0, 5])
@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_comes_within_a_tenth_of_egmf(variant: str, corpus: str, reach: int) -> None:
    whole = replace(WHOLE, inputs=CORPORA[corpus], reach=reach)
    matched = match_size(replace(whole, variant=variant))
    assert matched.dim % whole.heads == 0
    assert count_parameters(matched) == pytest.approx(count_parameters(whole), rel=0.1)
    assert replace(matched, dim=whole.dim) == replace(whole, variant=variant)


def test_whole_egmf_matches_itself_and_what_is_left_out_is_made_up_for() -> None:
    assert match_size(WHOLE) == WHOLE
    less = replace(WHOLE, experts=("local",))
    assert match_size(less).dim > WHOLE.dim
    assert count_parameters(match_size(less)) == pytest.approx(count_parameters(WHOLE), rel=0.1)


def test_no_neighbouring_width_is_nearer() -> None:
    wanted = count_parameters(WHOLE)
    found = match_size(replace(WHOLE, variant="concat"))
    misses = [
        abs(count_parameters(replace(found, dim=found.dim + step)) - wanted)
        for step in (-WHOLE.heads, 0, WHOLE.heads)
    ]
    assert min(misses) == misses[1]
