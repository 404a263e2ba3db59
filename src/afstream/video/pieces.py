"""Where the whole pieces of a growing file lie: fragments of an mp4, clusters of a Matroska file.

A process that was killed, or a machine that stopped, may leave a piece of which the end is
missing. What is before it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

BOX_HEAD_BYTES = 8
LONG_BOX = 1
LONG_BOX_HEAD_BYTES = 16
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
MAX_EBML_HEAD_BYTES = 12


class Pieces(NamedTuple):
    """The whole pieces of a file.

    Attributes:
        starts: offset of each piece, bytes; none in a finished mp4.
        end: offset at which the last whole part ends.
    """

    starts: list[int]
    end: int


def mp4_pieces(file: BinaryIO) -> Pieces:
    """Find the fragments, each of which is a `moof` box and the `mdat` box behind it."""
    size = file.seek(0, os.SEEK_END)
    starts: list[int] = []
    moof: int | None = None
    offset = end = 0
    while box := _box(file, offset):
        name, stop = box
        if stop > size or stop <= offset:
            break
        if name == b"moof":
            moof = offset
        else:
            if moof is not None:
                starts.append(moof)
                moof = None
            end = stop
        offset = stop
    return Pieces(starts, end)


def _box(file: BinaryIO, offset: int) -> tuple[bytes, int] | None:
    """The name and the end of the box at an offset."""
    file.seek(offset)
    head = file.read(LONG_BOX_HEAD_BYTES)
    if len(head) < BOX_HEAD_BYTES:
        return None
    size, name = int.from_bytes(head[:4], "big"), head[4:8]
    if size == LONG_BOX:
        size = int.from_bytes(head[8:], "big")
    return name, offset + size


def mkv_pieces(file: BinaryIO) -> Pieces:
    """Find the clusters."""
    size = file.seek(0, os.SEEK_END)
    starts: list[int] = []
    offset = end = 0
    while element := _element(file, offset):
        name, body, stop = element
        if name == SEGMENT:
            offset = end = body
            continue
        if stop is None or stop > size:
            break
        if name == CLUSTER:
            starts.append(offset)
        offset = end = stop
    return Pieces(starts, end)


def _element(file: BinaryIO, offset: int) -> tuple[int, int, int | None] | None:
    """The name of an element, where its contents begin, and where they end if it says so."""
    file.seek(offset)
    head = file.read(MAX_EBML_HEAD_BYTES)
    if not head or not head[0]:
        return None
    name_bytes = 9 - head[0].bit_length()
    sizes = head[name_bytes:]
    if not sizes or not sizes[0]:
        return None
    size_bytes = 9 - sizes[0].bit_length()
    if len(sizes) < size_bytes:
        return None
    unknown = (1 << 7 * size_bytes) - 1
    length = int.from_bytes(sizes[:size_bytes], "big") & unknown
    body = offset + name_bytes + size_bytes
    name = int.from_bytes(head[:name_bytes], "big")
    return name, body, None if length == unknown else body + length


PiecesOf = Callable[[BinaryIO], Pieces]
