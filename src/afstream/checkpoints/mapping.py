"""Safetensors files as tensors that are views of the file: only the header is read.

safetensors' own reader maps a file so that the system reserves memory for all of it, and cannot
open one that is larger than memory; a test checks both. Here nothing is reserved.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

# the dtypes of the format that torch has and models use
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
METADATA = "__metadata__"
LENGTH_BYTES = 8
# as safetensors allows
MAX_HEADER_BYTES = 100_000_000
# Linux's number; Python names it since 3.13
MAP_NORESERVE = 0x4000


class Place(NamedTuple):
    """A tensor in a file.

    Attributes:
        dtype: of its values.
        shape: its sizes.
        start: its first byte in the file.
        stop: the byte after its last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """The header of a safetensors file.

    Attributes:
        metadata: texts by name.
        places: the tensors by name.
    """

    metadata: dict[str, str]
    places: dict[str, Place]


def read_header(path: Path) -> Header:
    """Read a safetensors file's header, and check that the file is whole.

    Raises:
        ValueError: it is cut short or damaged; says how.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _header(file)


def map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, views of it; writing to them changes no file.

    Raises:
        ValueError: it is cut short or damaged; says how.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        places = _header(file).places
        view = _mapped(file)
    return {name: _tensor(view, place) for name, place in places.items()}


def _header(file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
        raise ValueError("its header is cut short, or it is no safetensors file")
    end = LENGTH_BYTES + length
    try:
        content = json.loads(file.read(length))
        metadata = {str(name): str(text) for name, text in content.pop(METADATA, {}).items()}
        places = {name: _place(entry, end) for name, entry in content.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError("its header is damaged, or it is no safetensors file") from error
    for place in sorted(places.values(), key=lambda place: (place.start, place.stop)):
        if place.start != end:
            raise ValueError("its header is damaged: its tensors do not lie one behind the other")
        end = place.stop
    if end != size:
        word = "cut short" if end > size else "too long"
        raise ValueError(f"it is {word}: it has {size} bytes, and its header tells of {end}")
    return Header(metadata, places)


def _place(entry: dict[str, Any], base: int) -> Place:
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if any(type(size) is not int or not 0 <= size <= sys.maxsize for size in (*shape, start, stop)):
        raise ValueError("sizes and offsets are whole numbers")
    if stop - start != dtype.itemsize * math.prod(shape):
        raise ValueError("a tensor has another size than its shape")
    return Place(dtype, shape, base + start, base + stop)


def _mapped(file: BinaryIO) -> mmap.mmap:
    if sys.platform == "linux":
        return mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _tensor(view: mmap.mmap, place: Place) -> Tensor:
    dtype, shape, start, stop = place
    if start == stop:
        return torch.empty(shape, dtype=dtype)
    count = (stop - start) // dtype.itemsize
    return torch.frombuffer(view, dtype=dtype, count=count, offset=start).view(shape)
