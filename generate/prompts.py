"""Prompts: a template of lines with a slot for the pseudo tokens.

A template is a list of lines. `{signals}` marks where the pseudo tokens go. A line that needs the
transcript or the history leaves the prompt whole when that is absent, so that a model without text
is not shown an empty quotation to wonder about, and cannot read what it was not meant to.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from generate.errors import GenerateError

SLOT = "{signals}"


@dataclass(frozen=True)
class Prompt:
    """The text before and after the pseudo tokens."""

    before: str
    after: str


def line_fields(line: str) -> set[str]:
    """Return the names in braces in a template line.

    Raises:
        GenerateError: the line is no valid template or reaches into attributes or items.
    """
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(line) if name is not None}
    except ValueError as error:
        raise GenerateError(f"prompt line {line!r}: {error}") from error
    if any(not name.isidentifier() for name in names):
        raise GenerateError(f"prompt line {line!r}: only plain names may stand in braces")
    return names


def render(lines: Sequence[str], values: Mapping[str, str | None]) -> Prompt:
    """Fill in a template; lines whose value is None are left out.

    Raises:
        GenerateError: no line or more than one holds `{signals}`, or a name has no value.
    """
    if sum(line.count(SLOT) for line in lines) != 1:
        raise GenerateError(f"a prompt needs {SLOT} in exactly one place, got {list(lines)}")
    kept = []
    for line in lines:
        fields = line_fields(line) - {"signals"}
        unknown = fields - values.keys()
        if unknown:
            raise GenerateError(
                f"prompt line {line!r}: unknown name {sorted(unknown)[0]!r}; "
                f"known: {', '.join(sorted([*values, 'signals']))}"
            )
        if all(values[name] is not None for name in fields):
            # The slot is cut out before formatting: a transcript may contain the same letters.
            parts = [part.format_map(values) for part in line.split(SLOT)]
            kept.append(parts)
    before, after = "", ""
    seen = False
    for index, parts in enumerate(kept):
        newline = "\n" if index else ""
        if seen:
            after += newline + parts[0]
        else:
            before += newline + parts[0]
        if len(parts) == 2:
            seen = True
            after += parts[1]
    return Prompt(before, after)
