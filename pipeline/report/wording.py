"""Text of others, made safe to show beside our own.

Escaping is each output format's own business. What no escaping catches is handled here: control
characters, and those that reorder the text around them, are shown by their code point; white space
is folded; long text is cut, and says so.
"""

import re
import unicodedata

MOST_CHARACTERS = 280

_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_INVISIBLE = frozenset("\u00ad\u200b\u2060\ufeff")
_COMBINING_RUN = re.compile(r"([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]{3})"
                            r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+")  # fmt: skip


def plain(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return one line of visible text, cut to about `most` characters."""
    length = len(text)
    shown = _COMBINING_RUN.sub(r"\1", " ".join(text[: 2 * most].split()))
    cut = length > 2 * most or len(shown) > most
    shown = "".join(_visible(sign) for sign in shown[:most])
    return f"{shown} … ({length:,} characters)" if cut else shown


def _visible(sign: str) -> str:
    category = unicodedata.category(sign)
    hidden = category in ("Cc", "Cs", "Co", "Cn") or sign in _REORDERING or sign in _INVISIBLE
    return f"⟨U+{ord(sign):04X}⟩" if hidden else sign
