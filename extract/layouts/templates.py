"""Text with `{name}` fields that are looked up and never evaluated.

`str.format` reaches into attributes and items; what stands in a manifest should not.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Annotated

from pydantic import AfterValidator


def fields_of(template: str) -> list[str]:
    """Return the names in braces, in order.

    Raises:
        ValueError: the braces do not match, or a field is empty or has a format or conversion.
    """
    names = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion:
            raise ValueError(f"{template!r}: only plain {{name}} fields may stand in a template")
        names.append(name)
    return names


def fill(template: str, values: Mapping[str, str | None]) -> str | None:
    """Put values in place of the fields; None where one of them is absent.

    Raises:
        KeyError: a field has no value.
    """
    parts: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            value = values[name]
            if value is None:
                return None
            parts.append(value)
    return "".join(parts)


def filler(template: str, columns: Sequence[str]) -> Callable[[Sequence[str | None]], str | None]:
    """Return what fills a template with the cells of a row.

    Args:
        template: Its fields name columns.
        columns: Names of the cells, in order.
    """
    names = fields_of(template)
    if names and template == f"{{{names[0]}}}":
        return itemgetter(columns.index(names[0]))
    return lambda row: fill(template, dict(zip(columns, row, strict=True)))


def _check(template: str) -> str:
    fields_of(template)
    return template


Template = Annotated[str, AfterValidator(_check)]
"""A template as a field of a pydantic model."""
