"""Text from files, made safe to print on a terminal."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice

# C0, DEL and C1 steer a terminal; line and paragraph separators break a line; embeddings,
# overrides and isolates show a text in another order than it has; half a surrogate pair cannot be
# written. The marks and joiners that Arabic, Hebrew, Indic scripts and emoji need are not here.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u206f\ud800-\udfff]")
# beginning and end of a word are enough to know it by
LONG_WORD = re.compile(r"(\S{400})\S{200,}(\S{400})")
# characters of a code point of two hexadecimal digits
SHORT = 0xFF


def printable(text: object) -> str:
    r"""A text, or the text of a value, on one line, with every control character as an escape.

    ESC becomes `\x1b`, a line end `\x0a`, a right-to-left override `\u202e`. All that comes from
    a file, a name or a prompt passes through here before it reaches a terminal.
    """
    return UNPRINTABLE.sub(_escaped, str(text))


def find_control(text: str) -> int | None:
    """Where a text first holds what `printable` would change, blanks and line ends aside."""
    found = (one.start() for one in UNPRINTABLE.finditer(text) if not one[0].isspace())
    return next(found, None)


def some_of(names: Collection[str], *, most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - most
    first = ", ".join(islice(names, most))
    return f"{first} and {more:,} more" if more > 0 else first


def short_words(text: str) -> str:
    """A sentence in which no word, such as a path, is so long that the rest cannot be found."""
    return LONG_WORD.sub(r"\1...\2", text)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code <= SHORT else f"\\u{code:04x}"
