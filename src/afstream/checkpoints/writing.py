"""Safetensors files written tensor by tensor, so that no more than one tensor is in memory.

safetensors' own writers take all tensors at once. The format is simple: eight bytes that say how
long the header is, the header (JSON: dtype, shape and place of every tensor), and the values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from afstream.checkpoints.mapping import DTYPES, LENGTH_BYTES, METADATA

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# of the header, so that every value of a mapped file lies at a whole multiple of its size
ALIGNMENT = 8


def as_it_is(name: str, value: Tensor) -> Tensor:
    """The tensor itself."""
    return value


def nobody(written: int) -> None:
    """Tell nobody."""


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] = as_it_is,
    tell: Callable[[int], None] = nobody,
) -> str:
    """Write a file of tensors, all of one dtype, each read only when its turn comes.

    Args:
        path: the file to make.
        tensors: by name, in the order in which they shall lie.
        dtype: of the values in the file: one of `afstream.checkpoints.mapping.DTYPES`.
        change: called with each name and tensor; gives back what to write, of the same shape.
        tell: called after each tensor with the bytes that it took.

    Returns:
        SHA-256 of the whole file, hexadecimal.

    Raises:
        OSError: the file cannot be written.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for part in (head := _header(tensors, dtype)):
            file.write(part)
            digest.update(part)
        tell(sum(map(len, head)))
        for name, value in tensors.items():
            # flat, because a tensor without axes cannot be seen as bytes
            row = change(name, value).to(dtype).reshape(-1)
            values = row.cpu().contiguous().view(torch.uint8).numpy().data
            file.write(values)
            digest.update(values)
            tell(len(values))
    return digest.hexdigest()


def size_of(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """Bytes of the file that `write_safetensors` makes."""
    values = sum(value.numel() for value in tensors.values()) * dtype.itemsize
    return sum(map(len, _header(tensors, dtype))) + values


def _header(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[bytes, bytes]:
    entries: dict[str, object] = {METADATA: {"format": "pt"}}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.numel() * dtype.itemsize
        entries[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little"), text
