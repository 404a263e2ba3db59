"""Splits a file into logical lines, which know the place of each character in the file."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from afstream.bounded import MB, read_all
from afstream.errors import TimelineError

# Not str.splitlines, which also breaks at form feeds and U+2028: editors do not count those.
LINE_END = re.compile(r"\r\n|\n|\r")
BYTE_ORDER_MARK = "\ufeff"
SHOWN_CHARS = 40
# of a file of prompts
MAX_BYTES = 16 * MB
# that hold something
MAX_LINES = 100_000
# with all that continues it; far more than a prompt and a note may have
MAX_LINE_CHARS = 100_000


class Place(NamedTuple):
    """A character in a file; lines and columns are counted from 1; 0 means none."""

    source: str = ""
    line: int = 0
    column: int = 0

    def error(self, message: str) -> TimelineError:
        """The error `source:line:column: message`."""
        return TimelineError(message, source=self.source, line=self.line, column=self.column)

    def moved(self, columns: int) -> Place:
        """The place that many columns to the right."""
        return self._replace(column=self.column + columns)


NOWHERE = Place()


def shown(text: str) -> str:
    """A piece of a file, quoted and shortened for a message."""
    return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "...")


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """A line of the file with the indented lines that continue it, one blank between them.

    Attributes:
        text: all of it.
        starts: for each line of the file, its offset in the text and its place.
    """

    text: str
    starts: tuple[tuple[int, Place], ...]

    def place(self, offset: int) -> Place:
        """Where the character `offset` of the text stands in the file."""
        start, place = next(pair for pair in reversed(self.starts) if pair[0] <= offset)
        return place.moved(offset - start)


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        TimelineError: it cannot be read or is not UTF-8.
    """
    try:
        # a pipe is welcome here
        with Path(path).open("rb") as file:
            data = read_all(file, MAX_BYTES)
    except ValueError as error:
        raise TimelineError(f"{error}; give shorter prompts", source=str(path)) from error
    except OSError as error:
        raise TimelineError(
            f"cannot read it: {error.strerror}; give the path of a text file", source=str(path)
        ) from error
    return decode(data, str(path))


def decode(data: bytes, source: str) -> str:
    """UTF-8 bytes to text, a byte-order mark dropped."""
    # the start of many files that are no text, such as an mp4, is three zeros
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or data[:2].count(0) == 1:
        raise Place(source, 1, 1).error(
            "this is UTF-16, as PowerShell's '>' writes it; a timeline is UTF-8 text; save the"
            " file in that encoding"
        )
    data = data.removeprefix(BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = LINE_END.split(data[: error.start].decode("utf-8"))
        place = Place(source, len(before), len(before[-1]) + 1)
        raise place.error(
            f"byte 0x{data[error.start]:02x} is not UTF-8; a timeline is UTF-8 text; save the"
            " file in that encoding"
        ) from error


def logical_lines(text: str, source: str, *, first_line: int = 1) -> list[LogicalLine]:
    """Split a timeline into lines; blank lines and `#` comments are left out."""
    found: list[list[tuple[str, Place]]] = []
    lines = LINE_END.split(text.removeprefix(BYTE_ORDER_MARK))
    num_lines = 0
    for number, line in enumerate(lines, first_line):
        trimmed = line.strip()
        if not trimmed or trimmed.startswith("#"):
            continue
        place = Place(source, number, line.index(trimmed) + 1)
        num_lines += 1
        if num_lines > MAX_LINES:
            raise place.error(f"a timeline has at most {MAX_LINES:,} lines; leave some out")
        if not line[0].isspace():
            found.append([(trimmed, place)])
        elif found:
            found[-1].append((trimmed, place))
        else:
            raise place.error(
                "an indented line continues the one above it, and there is none; begin the line"
                " without blanks"
            )
    return [joined(pieces) for pieces in found]


def joined(pieces: Sequence[tuple[str, Place]]) -> LogicalLine:
    """Trimmed lines of the file joined into one, each with its place."""
    offsets = accumulate((len(text) + 1 for text, _ in pieces), initial=0)
    starts = zip(offsets, (place for _, place in pieces), strict=False)
    text = " ".join(text for text, _ in pieces)
    if len(text) > MAX_LINE_CHARS:
        raise pieces[0][1].error(
            f"a line has {len(text):,} characters; at most {MAX_LINE_CHARS:,} are allowed; shorten"
            " it"
        )
    return LogicalLine(text, tuple(starts))
