"""The comment of a gif, which FFmpeg neither writes nor reads."""

from __future__ import annotations

import io
from typing import BinaryIO

SIGNATURE = b"GIF89a"
HEAD_BYTES = 13
FLAGS_AT = 10
HAS_TABLE, TABLE_SIZE = 0x80, 0x07
COLOUR_BYTES = 3
COMMENT = b"\x21\xfe"
MAX_BLOCK_BYTES = 255
MAX_COMMENT_BYTES = 1 << 20


class WithComment(io.RawIOBase):
    """Hands what FFmpeg writes on to a file, with a comment behind the gif's colour table."""

    def __init__(self, file: BinaryIO, comment: str) -> None:
        self._file = file
        self._comment = comment
        self._head: bytes | None = b""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write what FFmpeg gives; always all of it.

        Raises:
            OSError: the file cannot be written.
        """
        out = bytes(data)
        if self._head is not None:
            self._head += out
            end = table_end(self._head)
            if end is None or len(self._head) < end:
                return len(data)
            out = self._head[:end] + blocks(self._comment.encode()) + self._head[end:]
            self._head = None
        self._file.write(out)
        return len(data)


def table_end(head: bytes) -> int | None:
    """Where a gif's colour table ends, bytes; None if its first 13 bytes are not there yet."""
    if len(head) < HEAD_BYTES:
        return None
    flags = head[FLAGS_AT]
    colours = 2 << (flags & TABLE_SIZE) if flags & HAS_TABLE else 0
    return HEAD_BYTES + COLOUR_BYTES * colours


def blocks(comment: bytes) -> bytes:
    """A comment extension."""
    parts = (comment[at : at + MAX_BLOCK_BYTES] for at in range(0, len(comment), MAX_BLOCK_BYTES))
    return COMMENT + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def is_gif(file: BinaryIO) -> bool:
    """Whether a file begins as a gif."""
    file.seek(0)
    return file.read(len(SIGNATURE)) == SIGNATURE


def read_comment(file: BinaryIO) -> str:
    """The comment behind a gif's colour table; empty if there is another thing."""
    file.seek(0)
    end = table_end(file.read(HEAD_BYTES))
    if end is None:
        return ""
    file.seek(end)
    if file.read(len(COMMENT)) != COMMENT:
        return ""
    data = file.read(MAX_COMMENT_BYTES)
    comment, at = b"", 0
    while at < len(data) and data[at]:
        comment += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return comment.decode(errors="replace")
