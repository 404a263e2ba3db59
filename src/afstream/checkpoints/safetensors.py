"""Safetensors files, read as views of the file and written tensor by tensor.

safetensors' own reader maps a file so that the system reserves memory for all of it, and cannot
open one that is larger than memory; a test checks both. Its writers take all tensors at once.
Here nothing is reserved, and no more than one tensor is in memory. The format is simple: eight
bytes with the length of the header, the header (JSON: dtype, shape and place of every tensor),
and the values. A file that afstream reads again may carry its own checksum among the texts of the
header, so that it stays an ordinary file.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from afstream.bounded import MB, parse_json
from afstream.text import is_unicode
from afstream.validation import show_name

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
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# dtypes of the format beside these
FLOATS = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
UNREAD = frozenset((*FLOATS, "U16", "U32", "U64"))
METADATA = "__metadata__"
LENGTH_BYTES = 8
# the text in a header that holds the SHA-256 of the file itself
CHECKSUM = "sha256"
BLOCK_BYTES = 2**20
# of the header, so that every value of a mapped file lies at a multiple of its size
ALIGNMENT = 8
# far above any model's; safetensors itself allows 100 MB
MAX_HEADER_BYTES = 16 * MB
MAX_TENSORS = 50_000
MAX_AXES = 8
# of a tensor: itself, its three settings, and what its shape and its place hold
VALUES_OF_TENSOR = 1 + 3 + MAX_AXES + 2
# what stands in the place of the checksum when it is taken
UNKNOWN = "0" * 64
# Linux's number; Python names it since 3.13
MAP_NORESERVE = 0x4000


class Place(NamedTuple):
    """A tensor in a file: its first byte, and the byte after its last."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class UnreadDtypeError(ValueError):
    """A tensor is of a dtype that the format has and afstream does not read."""


class Header(NamedTuple):
    """The header of a safetensors file: its texts and its tensors by name."""

    metadata: dict[str, str]
    places: dict[str, Place]


def read_header(path: Path) -> Header:
    """Read a safetensors file's header, and check that the file is whole; see `map_tensors`."""
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
        view = mapped(file)
    return {name: tensor_at(view, place) for name, place in places.items()}


def map_checked(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts and tensors of a file that `write_checked` made; see `map_tensors`.

    Raises:
        ValueError: it is cut short, damaged or changed, or has no checksum.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = _header(file)
        view = mapped(file)
    said = header.metadata.pop(CHECKSUM, None)
    if said is None:
        raise ValueError("it has no checksum")
    length = LENGTH_BYTES + int.from_bytes(view[:LENGTH_BYTES], "little")
    digest = hashlib.sha256(view[:length].replace(said.encode(), UNKNOWN.encode()))
    with memoryview(view) as content:
        for start in range(length, len(view), BLOCK_BYTES):
            digest.update(content[start : start + BLOCK_BYTES])
    if digest.hexdigest() != said:
        raise ValueError("it is damaged: its checksum is another")
    return header.metadata, {name: tensor_at(view, place) for name, place in header.places.items()}


def _header(file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
        raise ValueError("its header is cut short, or it is no safetensors file")
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"its header has {length / MB:.0f} MB, of {MAX_HEADER_BYTES / MB:g} allowed"
        )
    end = LENGTH_BYTES + length
    try:
        metadata, places = _entries(file.read(length).decode(), end)
    except UnreadDtypeError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("its header is damaged, or it is no safetensors file") from error
    except ValueError as error:
        raise ValueError(f"its header is damaged: {error}") from error
    for place in sorted(places.values(), key=lambda place: (place.start, place.stop)):
        if place.start != end:
            raise ValueError("its header is damaged: its tensors do not lie one behind the other")
        end = place.stop
    if end != size:
        word = "cut short" if end > size else "too long"
        raise ValueError(f"it is {word}: it has {size} bytes, and its header tells of {end}")
    return Header(metadata, places)


def _entries(header: str, base: int) -> Header:
    content = parse_json(header, most_values=MAX_TENSORS * VALUES_OF_TENSOR)
    metadata = {_text(name): _text(text) for name, text in content.pop(METADATA, {}).items()}
    if len(content) > MAX_TENSORS:
        raise ValueError(f"it names more than {MAX_TENSORS:,} tensors")
    for name, entry in content.items():
        if isinstance(entry["dtype"], str) and entry["dtype"] in UNREAD:
            raise UnreadDtypeError(
                f"holds {show_name(_text(name))} as {entry['dtype']}, a dtype that afstream"
                " does not read"
            )
    return Header(metadata, {_text(name): _place(entry, base) for name, entry in content.items()})


def _text(found: object) -> str:
    if not isinstance(found, str) or not is_unicode(found):
        raise ValueError("names and metadata are texts")
    return found


def _place(entry: dict[str, Any], base: int) -> Place:
    dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
    start, stop = entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        raise ValueError(f"a shape is a list of at most {MAX_AXES} sizes")
    if any(type(size) is not int or not 0 <= size <= sys.maxsize for size in (*shape, start, stop)):
        raise ValueError("sizes and offsets are whole numbers")
    if stop - start != dtype.itemsize * math.prod(shape):
        raise ValueError("a tensor has another size than its shape")
    return Place(dtype, tuple(shape), base + start, base + stop)


def mapped(file: BinaryIO) -> mmap.mmap:
    """A file as memory, of which nothing is reserved; writing to it changes no file."""
    if sys.platform == "linux":
        # readable and writable by default
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def tensor_at(view: mmap.mmap, place: Place) -> Tensor:
    """The tensor at a place of a mapped file, a view of it."""
    dtype, shape, start, stop = place
    if start == stop:
        return torch.empty(shape, dtype=dtype)
    count = (stop - start) // dtype.itemsize
    return torch.frombuffer(view, dtype=dtype, count=count, offset=start).view(shape)


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
    """Write a new file of tensors, all of one of `DTYPES`, each read only when its turn comes.

    `change` returns what to write for a name and a tensor, of the same shape. `report` is called
    after the header and after each tensor with the bytes that it took.

    Returns:
        SHA-256 of the whole file, hexadecimal.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("xb") as file:
        return _write(file, tensors, _header_of(tensors, dtype), dtype, change, report)


def write_checked(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors of any of `DTYPES` and texts to an empty file, with a checksum in its header.

    Tensors on a GPU are copied to the host one at a time; see `map_checked`.

    Raises:
        OSError: the file cannot be written.
        ValueError: the header would be longer than readers take.
    """
    # large values first: every tensor then lies at a multiple of its values' size
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    header = _header_of(ordered, None, {**metadata, CHECKSUM: UNKNOWN})
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"its header would have {len(header)} bytes, more than readers take")
    digest = _write(file, ordered, header)
    file.seek(header.rindex(UNKNOWN.encode()))
    file.write(digest.encode())
    file.seek(0, os.SEEK_END)


def damage(path: Path) -> str:
    """What is wrong with a file that `write_checked` wrote, in words; empty if nothing is."""
    try:
        map_checked(path)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return ""


def sha256_of(file: BinaryIO, digest: Any = None) -> str:  # noqa: ANN401  a hash has no public type
    """SHA-256 of what is left in a file, hexadecimal, behind what a digest has seen already."""
    digest = hashlib.sha256() if digest is None else digest
    while part := file.read(BLOCK_BYTES):
        digest.update(part)
    return digest.hexdigest()


def _write(
    file: BinaryIO,
    tensors: Mapping[str, Tensor],
    header: bytes,
    dtype: torch.dtype | None = None,
    change: Callable[[str, Tensor], Tensor] = unchanged,
    report: Callable[[int], None] = ignore,
) -> str:
    digest = hashlib.sha256()

    def write(part: bytes | memoryview) -> None:
        file.write(part)
        digest.update(part)
        report(len(part))

    write(header)
    for name, value in tensors.items():
        # without a name, which would keep it while the next one is made
        write(_bytes_of(change(name, value).to(dtype or value.dtype)))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    # flat, because a tensor without axes cannot be seen as bytes
    return tensor.reshape(-1).cpu().contiguous().view(torch.uint8).numpy().data


def size_of(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """Bytes of the file that `write_safetensors` makes."""
    values = sum(value.numel() for value in tensors.values()) * dtype.itemsize
    return len(_header_of(tensors, dtype)) + values


def _header_of(
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The header of tensors of one dtype, or of each its own."""
    entries: dict[str, object] = {METADATA: {"format": "pt", **(metadata or {})}}
    end = 0
    for name, value in tensors.items():
        kind = dtype or value.dtype
        start, end = end, end + value.numel() * kind.itemsize
        entries[name] = {
            "dtype": DTYPE_NAMES[kind],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
