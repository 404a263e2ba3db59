"""Text from files, made safe to print on a terminal."""

from __future__ import annotations

import re

# C0, DEL and C1 steer a terminal; line and paragraph separators break a line; embeddings,
# overrides and isolates show a text in another order than it has; half a surrogate pair cannot be
# written. The marks and joiners that Arabic, Hebrew, Indic scripts and emoji need are not here.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u206f\ud800-\udfff]")
# characters of a code point of two hexadecimal digits
SHORT = 0xFF


def printable(text: object) -> str:
    r"""A text, or the text of a value, on one line, with every control character as an escape.

    ESC becomes `\x1b`, a line end `\x0a`, a right-to-left override `\u202e`. All that comes from
    a file, a name or a prompt passes through here before it reaches a terminal.
    """
    return UNPRINTABLE.sub(_escaped, str(text))


def has_controls(text: str) -> bool:
    """Whether a text holds anything that `printable` would change."""
    return UNPRINTABLE.search(text) is not None


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code <= SHORT else f"\\u{code:04x}"
