"""The format of a file of weights, told by its first bytes: its suffix counts for nothing."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Literal

from afstream.errors import CheckpointError

Format = Literal["safetensors", "torch", "old torch", "gguf"]

HEAD_BYTES = 512
# of a safetensors file: its header stands behind eight bytes with the header's length
HEADER_AT, HEADER = 8, b"{"
ZIP = b"PK"
GGUF = b"GGUF"
# what torch wrote before it wrote archives: a pickle of this number, in bytes, comes first
PICKLE = b"\x80"
OLD_TORCH = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
TEXT = frozenset(string.printable.encode())
WEB_PAGES = (b"<!doctype", b"<html", b"<?xml")
READABLE = "give a .safetensors file or a .pt file of tensors"
# beginnings of other formats; what such a file is, and what to do
OTHERS = {
    b"version https://git-lfs": (
        "is a git-lfs pointer, not the file itself; run git lfs pull in its folder"
    ),
    b"\x89HDF": f"is an HDF5 file; {READABLE}",
    b"\x93NUMPY": f"is a NumPy file; {READABLE}",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"Rar!": "is a RAR archive; unpack it first",
}


def format_of(path: Path) -> Format:
    """Which reader a file needs.

    Raises:
        CheckpointError: it is a file of another kind; says which, and what to do.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    for beginning, what in OTHERS.items():
        if head.startswith(beginning):
            raise CheckpointError(f"{path} {what}")
    if head.startswith(ZIP):
        return "torch"
    if head.startswith(PICKLE) and OLD_TORCH in head:
        return "old torch"
    if head.startswith(GGUF):
        return "gguf"
    # of a text, the eight bytes would be a length that no file has
    if head[HEADER_AT:].startswith(HEADER) and not TEXT.issuperset(head[:HEADER_AT]):
        return "safetensors"
    raise CheckpointError(f"{path} {_described(head)}")


def _described(head: bytes) -> str:
    """What a file without weights is, and what to do."""
    if not head:
        return "is empty; download it again"
    if head.startswith(PICKLE):
        return f"is a bare pickle, which could run code; {READABLE}"
    if head.lstrip().lower().startswith(WEB_PAGES):
        return (
            "is a web page, not the file itself; download the file, logged in where its site asks"
            " for that"
        )
    if TEXT.issuperset(head):
        return f"is a text, which holds no weights; {READABLE}"
    return f"is neither a safetensors file nor one of torch.save; {READABLE}"
