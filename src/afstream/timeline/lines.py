"""A file's bytes to its logical lines: comments dropped, indented lines joined on."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from dataclasses import dataclass

from afstream.timeline.place import Place

# Not str.splitlines, which also breaks at form feeds and U+2028: editors do not count those.
LINE_END = re.compile(r"\r\n|\n|\r")
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class Piece:
    """The trimmed text of one line of the file, and where it begins."""

    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """A line of the file with the indented lines that continue it."""

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The pieces, one blank between them."""
        return " ".join(piece.text for piece in self.pieces)

    def place(self, offset: int) -> Place:
        """Where the character `offset` of `text` stands in the file."""
        for piece in self.pieces[:-1]:
            if offset <= len(piece.text):
                return moved(piece.place, offset)
            offset -= len(piece.text) + 1
        return moved(self.pieces[-1].place, offset)


def moved(place: Place, columns: int) -> Place:
    """The place that many columns to the right."""
    return place._replace(column=place.column + columns)


def decode(data: bytes, source: str) -> str:
    """UTF-8 bytes to text, a byte-order mark dropped."""
    data = data.removeprefix(BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line_start = max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
        place = Place(
            source,
            len(LINE_END.findall(before.decode("utf-8"))) + 1,
            len(before[line_start:].decode("utf-8")) + 1,
        )
        raise place.error(
            f"byte 0x{data[error.start]:02x} is not UTF-8; a timeline is UTF-8 text; save the"
            " file in that encoding"
        ) from error


def logical_lines(text: str, source: str, *, first_line: int = 1) -> list[LogicalLine]:
    """Split a timeline into lines; blank lines and `#` comments are left out."""
    found: list[list[Piece]] = []
    lines = LINE_END.split(text.removeprefix(BYTE_ORDER_MARK))
    for number, line in enumerate(lines, first_line):
        trimmed = line.strip()
        if not trimmed or trimmed.startswith("#"):
            continue
        piece = Piece(trimmed, Place(source, number, line.index(trimmed) + 1))
        if not line[0].isspace():
            found.append([piece])
        elif found:
            found[-1].append(piece)
        else:
            raise piece.place.error(
                "an indented line continues the one above it, and there is none; begin the line"
                " without blanks"
            )
    return [LogicalLine(tuple(pieces)) for pieces in found]
