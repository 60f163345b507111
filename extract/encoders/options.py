"""What a spec says after its model: `@4`, `@last4`, `@bucket`, `@face`.

Each encoder names the options it knows; any other is refused by name, so that a slip of the pen is
never taken for a part of a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from extract.errors import ExtractError

Layer = int | Literal["last4"] | None
Context = Literal["full", "bucket"]
OptionName = Literal["layer", "context"]

_EXAMPLES: dict[OptionName, str] = {
    "layer": "@N or @last4 for a hidden layer",
    "context": "@full or @bucket for the context",
}
_FACE = re.compile(r"(?P<rest>.+?)@face(:(?P<file>.+))?")


@dataclass(frozen=True)
class Options:
    """The options of a spec.

    Attributes:
        layer: Number of a hidden state (0 is the embeddings, -1 the last), `last4` for the mean of
            the last four, None for the model's own output.
        context: How much of its fixed window an audio encoder sees.
    """

    layer: Layer = None
    context: Context = "full"


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
        read = (_READERS[kind](written, chosen) for kind in allowed)
        options = next((each for each in read if each is not None), None)
        if options is None:
            known = "; ".join(_EXAMPLES[each] for each in sorted(allowed)) or "none"
            raise ExtractError(f"encoder {spec}: unknown option @{written} (known here: {known})")
        chosen = options
    return name, chosen


def split_face(reference: str) -> tuple[str, str | None]:
    """Return a reference without `@face`, and the detector: `haar`, YuNet's file, or None."""
    found = _FACE.fullmatch(reference)
    if found is None or Path(reference).expanduser().exists():
        return reference, None
    return found["rest"], found["file"] or "haar"


def _read_layer(written: str, chosen: Options) -> Options | None:
    if written == "last4":
        return replace(chosen, layer="last4")
    return replace(chosen, layer=int(written)) if re.fullmatch(r"-?\d+", written) else None


def _read_context(written: str, chosen: Options) -> Options | None:
    if written == "bucket":
        return replace(chosen, context="bucket")
    return replace(chosen, context="full") if written == "full" else None


_READERS: dict[OptionName, Callable[[str, Options], Options | None]] = {
    "layer": _read_layer,
    "context": _read_context,
}
