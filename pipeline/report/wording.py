"""Text of others, made safe to show beside our own.

Escaping is each output format's own business. What no escaping catches is handled here: characters
that are not seen, and those that reorder the text around them, are shown by their code point.
"""

import re

MOST_CHARACTERS = 280

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but tab and line feed
    "\u00ad\u200b\u2060\ufeff"  # soft hyphen, zero-width space, word joiner, byte order mark
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, isolates
    "\ue000-\uf8ff"  # private use: no two fonts agree
    "]"
)
_PILED = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]{3})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+"
)
"""More combining marks than any language puts on one letter; they would cover the lines above."""


def visible(text: str) -> str:
    """Show what would be invisible, or would reorder its surroundings, by its code point."""
    shown = _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
    return _PILED.sub(r"\1", shown)


def sentence(text: str) -> str:
    """Return a clause as a sentence."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def plain(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return one line of visible text, cut to `most` characters of the original; it says so."""
    line = " ".join(text[: 2 * most].split())
    cut = len(text) > 2 * most or len(line) > most
    shown = visible(line[:most])
    return f"{shown} … ({len(text):,} characters)" if cut else shown
