"""What a spec says after its model: `@4`, `@last4`, `@bucket`, `@face`.

Each encoder names the options it knows; any other is refused by name, so that a slip of the pen is
never taken for a part of a path.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extract.errors import ExtractError

Layer = int | Literal["last4"] | None
Context = Literal["full", "bucket"]
OptionName = Literal["layer", "context", "face"]

_FORMS: dict[OptionName, str] = {
    "layer": r"-?\d+|last4",
    "context": "full|bucket",
    "face": r"face(?::.+)?",
}
_EXAMPLES: dict[OptionName, str] = {
    "layer": "@N or @last4",
    "context": "@full or @bucket",
    "face": "@face or @face:YUNET.onnx",
}


@dataclass(frozen=True)
class Options:
    """The options of a spec.

    Attributes:
        layer: Number of a hidden state (0 is the embeddings, -1 the last), `last4` for the mean of
            the last four, None for the model's own output.
        context: How much of a fixed window an audio encoder sees.
        face: None for whole frames, `haar` for the detector that OpenCV brings, else the path of
            YuNet's file.
    """

    layer: Layer = None
    context: Context = "full"
    face: str | None = None


def split_options(
    reference: str, spec: str, allowed: Collection[OptionName]
) -> tuple[str, Options]:
    """Return a reference without its options, and those.

    Raises:
        ExtractError: an option is unknown or not one of this encoder's.
    """
    name, chosen = reference, Options()
    while "@" in name and not Path(name).expanduser().exists():
        name, _, written = name.rpartition("@")
        kind = next((kind for kind in allowed if re.fullmatch(_FORMS[kind], written)), None)
        if kind == "layer":
            layer: Layer = "last4" if written == "last4" else int(written)
            chosen = Options(layer, chosen.context, chosen.face)
        elif kind == "context":
            context: Context = "bucket" if written == "bucket" else "full"
            chosen = Options(chosen.layer, context, chosen.face)
        elif kind == "face":
            detector = written.partition(":")[2] or "haar"
            chosen = Options(chosen.layer, chosen.context, detector)
        else:
            known = "; ".join(_EXAMPLES[each] for each in sorted(allowed)) or "none"
            raise ExtractError(f"encoder {spec}: unknown option @{written} (known here: {known})")
    return name, chosen
