"""Safetensors files written tensor by tensor, so that no more than one tensor is in memory.

safetensors' own writers take all tensors at once. The format is simple: eight bytes with the
length of the header, the header (JSON: dtype, shape and place of every tensor), and the values.
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
# of the header, so that every value of a mapped file lies at a multiple of its size
ALIGNMENT = 8


def unchanged(name: str, value: Tensor) -> Tensor:
    """The tensor as it is."""
    return value


def ignore(num_bytes: int) -> None:
    """Report nothing."""


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] = unchanged,
    report: Callable[[int], None] = ignore,
) -> str:
    """Write a file of tensors, all of one dtype, each read only when its turn comes.

    Args:
        path: the file to make.
        tensors: by name, in the order in which they are written.
        dtype: of the values in the file: one of `afstream.checkpoints.mapping.DTYPES`.
        change: called with each name and tensor; returns what to write, of the same shape.
        report: called after the header and after each tensor with the bytes that it took.

    Returns:
        SHA-256 of the whole file, hexadecimal.

    Raises:
        OSError: the file cannot be written.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def write(part: bytes | memoryview) -> None:
            file.write(part)
            digest.update(part)
            report(len(part))

        write(_header(tensors, dtype))
        for name, value in tensors.items():
            # without a name, which would keep it while the next one is made
            write(_bytes_of(change(name, value).to(dtype)))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    # flat, because a tensor without axes cannot be seen as bytes
    return tensor.reshape(-1).cpu().contiguous().view(torch.uint8).numpy().data


def size_of(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """Bytes of the file that `write_safetensors` makes."""
    values = sum(value.numel() for value in tensors.values()) * dtype.itemsize
    return len(_header(tensors, dtype)) + values


def _header(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bytes:
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
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
