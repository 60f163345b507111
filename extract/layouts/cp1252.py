"""Mending of text that went through Windows' code page 1252.

Copies of old corpora circulate in three states of damage: saved in code page 1252, with its bytes
read as Latin-1 (a curly apostrophe becomes U+0092), or with UTF-8 read as code page 1252 (it
becomes three letters). All three are undone; sound text is left as it is.
"""

from __future__ import annotations

import re

_UNDEFINED = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
_CONTROLS = {
    code: bytes([code]).decode("cp1252") for code in range(0x80, 0xA0) if code not in _UNDEFINED
}
_BYTE_OF = {character: code for code, character in _CONTROLS.items()}
_TRAILING = "[\u0080-\u00bf" + "".join(map(re.escape, _BYTE_OF)) + "]"
# UTF-8 of Latin letters (two bytes) and of punctuation (three), each byte shown as one character.
# Other leading bytes are left alone: in sound text they are letters before a quotation mark.
_MISREAD = re.compile(f"[\u00c2-\u00c5]{_TRAILING}|\u00e2{_TRAILING}{{2}}")


def decode_lenient(data: bytes) -> str:
    """Decode UTF-8 where lines are valid UTF-8, and code page 1252 where they are not."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "".join(map(_decode_line, data.splitlines(keepends=True))).removeprefix("\ufeff")


def _decode_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1").translate(_CONTROLS)


def mend(text: str) -> str:
    """Return text with misread characters restored."""
    if text.isascii():
        return text
    return _MISREAD.sub(_restore, text.translate(_CONTROLS))


def _restore(match: re.Match[str]) -> str:
    data = bytes(_BYTE_OF.get(character, ord(character) & 0xFF) for character in match.group())
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return match.group()
