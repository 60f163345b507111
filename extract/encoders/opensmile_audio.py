"""Acoustic descriptors through openSMILE: one row an utterance, or one every 10 ms (`/lld`).

No weights: the set's definition comes with the library, whose version is what the fingerprint
holds. Values are kept in float32, since some sets (ComParE) exceed the range of float16. openSMILE
computes on the CPU while utterances are prepared; nothing is left for the encoder's turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.options import split_options
from extract.encoders.weights import Memo, slug_of
from extract.errors import ExtractError
from extract.media import SAMPLE_RATE, Audio

_LLD = "lld"
_LLD_HOP_SECONDS = 0.01


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the feature set that `SET` (functionals) or `SET/lld` names.

    Raises:
        ExtractError: openSMILE is not installed, or knows no such set.
    """
    name, _ = split_options(reference, spec, [])
    feature_set, slash, level = name.partition("/")
    if slash and level != _LLD:
        raise ExtractError(f"encoder {spec}: no level {level!r}; use opensmile:{feature_set}/lld")
    try:
        version = metadata.version("opensmile")
    except metadata.PackageNotFoundError:
        raise ExtractError(
            f"encoder {spec}: openSMILE is not installed; pip install 'egmf[opensmile]'"
        ) from None
    key = f"opensmile {version} {name}"
    return EncoderInfo(
        spec=spec,
        kind="opensmile",
        medium="audio",
        slug=slug_of(name),
        location=name,
        digest=hashlib.sha256(key.encode()).hexdigest(),
        dim=memo.fact(key, lambda: int(_smile(name, spec).num_features)),
        rows_per_second=1 / _LLD_HOP_SECONDS if slash else None,
        random_weights=False,
        preprocessing={
            "sample_rate": SAMPLE_RATE,
            "max_seconds": settings.max_seconds,
            "stored": "float32",
        },
        dtype="float32",
        stored="float32",
    )


def _smile(name: str, spec: str) -> Any:
    import opensmile

    feature_set, _, level = name.partition("/")
    known = {each.name: each for each in opensmile.FeatureSet}
    if feature_set not in known:
        raise ExtractError(
            f"encoder {spec}: openSMILE knows no set {feature_set!r} (known: {', '.join(known)})"
        )
    levels = opensmile.FeatureLevel
    chosen = levels.LowLevelDescriptors if level == _LLD else levels.Functionals
    return opensmile.Smile(feature_set=known[feature_set], feature_level=chosen)


class OpenSmileAudio:
    """An openSMILE feature set; it makes an instance of its own for every utterance."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        self._smile = _smile(info.location, info.spec)

    def batch_size(self, unit: Unit) -> int:
        """Return one: nothing is gained from more."""
        return 1

    def prepare(self, medium: Audio) -> Prepared:
        """Compute the descriptors of an utterance."""
        table = self._smile.process_signal(medium.samples, SAMPLE_RATE)
        values = table.to_numpy(np.float32)
        starts = table.index.get_level_values("start").total_seconds()
        return Prepared([Unit((values,), len(values))], starts.to_numpy(np.float32), medium.flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Return what was computed already."""
        return [unit.arrays[0] for unit in units]
