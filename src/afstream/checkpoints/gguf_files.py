"""GGUF files, read as views of the file; what is packed is unpacked by the package `gguf`.

The header is read here, because the package's reader believes every count that a file names. The
format is simple: a magic number and counts; texts, numbers and lists by name; name, shape, type
and place of every tensor; then the values. Numbers are little-endian, shapes begin with the axis
whose values lie side by side.
"""

from __future__ import annotations

import importlib
import math
import mmap
import re
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from afstream.bounded import MB
from afstream.checkpoints.quantised import ANOTHER
from afstream.checkpoints.safetensors import MAX_AXES, MAX_TENSORS, Place, mapped, tensor_at
from afstream.checkpoints.stored import Stored, stored
from afstream.checkpoints.wrappers import renamed
from afstream.errors import CheckpointError
from afstream.validation import show_name, show_value

VERSIONS = (2, 3)
# a version with its bytes reversed has nothing in these bits
LOW_BITS = 0xFFFF
ARCHITECTURE = "general.architecture"
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
# the shape of a tensor that was stored in another, as a list by the tensor's name
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
# Wan's backbones keep Wan's names; `pig` files and those without a word are told by names as well
WAN = ("wan", "pig", "")
TEXT = ("t5", "t5encoder")
# the format's numbers for types of settings: struct's letters; texts and lists
NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True))
STRING, LIST = 8, 9
# UMT5's vocabulary, which text encoders carry, has 256,384 pieces of 6 MB
MAX_HEADER_BYTES = 64 * MB
MAX_SETTINGS = 50_000
MAX_ITEMS = 1_000_000
# types of tensors that torch has, by the names of the format
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}
# values that are unpacked at once
UNPACKED = 2**22
# llama.cpp's names of a T5 encoder and Wan's, of which the first have `enc.blk.N.` before them
T5_LAYER = re.compile(r"enc\.blk\.([0-9]{1,6})\.(.+)\.weight")
T5_INNER = {
    "attn_norm": "norm1",
    **{f"attn_{part}": f"attn.{part}" for part in "qkvo"},
    "attn_rel_b": "pos_embedding.embedding",
    "ffn_norm": "norm2",
    "ffn_gate": "ffn.gate.0",
    "ffn_up": "ffn.fc1",
    "ffn_down": "ffn.fc2",
}
T5_OUTER = {"token_embd.weight": "token_embedding.weight", "enc.output_norm.weight": "norm.weight"}


class Packed(NamedTuple):
    """A tensor in a file: how it is stored, by the format's number, and its first byte."""

    shape: tuple[int, ...]
    kind: int
    start: int


class Reader:
    """Reads a header piece by piece, and never beyond its bounds."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 0
        self.end = min(len(view), MAX_HEADER_BYTES)

    def skip(self, count: int) -> int:
        """Step over bytes; where they begin."""
        start, self.at = self.at, self.at + count
        if self.at > self.end:
            raise ValueError(
                "it is cut short, or its header is damaged"
                if self.end == len(self.view)
                else f"its header has more than {MAX_HEADER_BYTES / MB:g} MB"
            )
        return start

    def numbers(self, letters: str) -> tuple[int, ...]:
        """Numbers of struct's letters."""
        form = f"<{letters}"
        return struct.unpack_from(form, self.view, self.skip(struct.calcsize(form)))

    def text(self) -> str:
        """A text, its length before it."""
        start = self.skip(self.numbers("Q")[0])
        try:
            return self.view[start : self.at].decode()
        except UnicodeDecodeError as error:
            raise ValueError("its header is damaged: a text is not UTF-8") from error

    def setting(self) -> object:
        """A number, a text, or a list of whole numbers; other lists are stepped over."""
        kind = self.numbers("I")[0]
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.numbers(NUMBERS[kind])[0]
        if kind != LIST:
            raise ValueError(f"its header is damaged: no setting is of type {kind}")
        kind, count = self.numbers("IQ")
        if kind == STRING:
            if count > MAX_ITEMS:
                raise ValueError(f"a list of its header has more than {MAX_ITEMS:,} texts")
            for _ in range(count):
                self.skip(self.numbers("Q")[0])
            return None
        if kind not in NUMBERS:
            raise ValueError(f"its header is damaged: no list is of type {kind}")
        if count <= MAX_AXES:
            return self.numbers(NUMBERS[kind] * count)
        self.skip(struct.calcsize(NUMBERS[kind]) * count)
        return None


def map_gguf(path: Path) -> dict[str, Tensor]:
    """The tensors of a GGUF file by name: views of it, or `Stored` where they are packed.

    A text encoder's have the names of Wan's own file.

    Raises:
        CheckpointError: it is of another model, the package `gguf` is not installed, or a tensor
            is of a type that the package does not unpack.
        ValueError: it is cut short or damaged; says how.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        view = mapped(file)
    reader = Reader(view)
    settings, packed = _header(reader)
    architecture = settings.get(ARCHITECTURE, "")
    if architecture not in (*WAN, *TEXT):
        raise CheckpointError(
            f"{path} is a GGUF file of {show_value(architecture)}, which is no part of Wan2.1; give"
            f" one of {', '.join(filter(None, (*WAN[:1], *TEXT)))}"
        )
    found = _tensors(path, view, packed)
    for name, value in found.items():
        if shape := settings.get(ORIGINAL_SHAPE + name):
            found[name] = _reshaped(name, value, shape)
    return renamed(found, path, _t5_name) if architecture in TEXT else found


def _header(reader: Reader) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Settings, and tensors by name with the bytes where they begin in the file."""
    _, version = reader.numbers("4sI")
    if not version & LOW_BITS:
        raise ValueError("it is a GGUF file for machines that store numbers big end first")
    if version not in VERSIONS:
        raise ValueError(f"it is of version {version} of GGUF; 2 and 3 are read")
    num_tensors, num_settings = reader.numbers("QQ")
    if num_tensors > MAX_TENSORS or num_settings > MAX_SETTINGS:
        raise ValueError(
            f"its header tells of {num_tensors:,} tensors and {num_settings:,} settings, of"
            f" {MAX_TENSORS:,} and {MAX_SETTINGS:,} allowed"
        )
    settings: dict[str, Any] = {}
    for _ in range(num_settings):
        _add(settings, reader.text(), reader.setting())
    packed: dict[str, Packed] = {}
    for _ in range(num_tensors):
        _add(packed, reader.text(), _place(reader))
    alignment = settings.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its header is damaged: {ALIGNMENT} is {show_value(alignment)}")
    base = reader.at + -reader.at % alignment
    if any(one.start % alignment for one in packed.values()):
        raise ValueError("its header is damaged: a tensor lies at an odd place")
    return settings, {name: one._replace(start=base + one.start) for name, one in packed.items()}


def _add(found: dict[str, Any], name: str, value: object) -> None:
    if name in found:
        raise ValueError(f"its header is damaged: it names {show_name(name)} twice")
    found[name] = value


def _place(reader: Reader) -> Packed:
    axes = reader.numbers("I")[0]
    if not 1 <= axes <= MAX_AXES:
        raise ValueError(f"its header is damaged: a tensor has {axes} axes, of 1 to {MAX_AXES}")
    *sizes, kind, start = reader.numbers("Q" * axes + "IQ")
    if max(*sizes, start) > sys.maxsize:
        raise ValueError("its header is damaged: a tensor is larger than any file")
    return Packed(tuple(reversed(sizes)), kind, start)


def _tensors(path: Path, view: mmap.mmap, packed: dict[str, Packed]) -> dict[str, Tensor]:
    library = _package(path)
    found: dict[str, Tensor] = {}
    end = 0
    for name, one in sorted(packed.items(), key=lambda item: item[1].start):
        kind = _kind(library, name, one.kind, path)
        values, num_bytes = library.GGML_QUANT_SIZES[kind]
        row, count = one.shape[-1], math.prod(one.shape)
        if row % values:
            raise ValueError(
                f"its header is damaged: {show_name(name)} has rows of {row} values, and"
                f" {kind.name} packs {values} together"
            )
        if one.start < end:
            raise ValueError("its header is damaged: tensors share their values")
        end = one.start + count // values * num_bytes
        if end > len(view):
            raise ValueError(f"it is cut short: {show_name(name)} ends behind the file")
        if dtype := DTYPES.get(kind.name):
            found[name] = tensor_at(view, Place(dtype, one.shape, one.start, end))
        else:
            shape = count // row if row else 0, row // values * num_bytes
            raw = tensor_at(view, Place(torch.uint8, shape, one.start, end))
            restore = partial(_unpacked, library, raw, kind, one.shape)
            found[name] = stored(one.shape, (raw,), restore, form=kind.name)
    return {name: found[name] for name in packed}


def _package(path: Path) -> Any:  # noqa: ANN401  a module that may not be there
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{path} is a GGUF file, and the package that unpacks it is not installed; install it"
            " with pip install 'afstream[gguf]'"
        ) from error


def _kind(library: Any, name: str, number: int, path: Path) -> Any:  # noqa: ANN401
    """The package's type of a number of the format, if it can unpack it."""
    try:
        kind = library.GGMLQuantizationType(number)
        if kind.name not in DTYPES:
            _, num_bytes = library.GGML_QUANT_SIZES[kind]
            library.dequantize(np.zeros((1, num_bytes), np.uint8), kind)
    except (ValueError, NotImplementedError) as error:
        names = {int(one): one.name for one in library.GGMLQuantizationType}
        raise CheckpointError(
            f"{path} holds {show_name(name)} as {names.get(number, f'GGUF type {number}')}, which"
            f" the installed gguf does not unpack; {ANOTHER}"
        ) from error
    return kind


def _unpacked(
    library: Any,  # noqa: ANN401
    raw: Tensor,
    kind: Any,  # noqa: ANN401
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """The values [...] of packed rows [rows, bytes], a few rows at a time."""
    found = torch.empty(len(raw), shape[-1])
    rows = max(1, UNPACKED // max(1, shape[-1]))
    # a damaged file may hold any number; what is not finite is found later
    with np.errstate(all="ignore"):
        for part, values in zip(raw.split(rows), found.split(rows), strict=True):
            values.copy_(torch.from_numpy(library.dequantize(part.numpy(), kind)))
    return found.view(shape).to(device)


def _reshaped(name: str, value: Tensor, shape: object) -> Tensor:
    """A tensor in the shape that it had before it was stored."""
    is_shape = isinstance(shape, tuple) and all(type(size) is int and size > 0 for size in shape)
    if not isinstance(shape, tuple) or not is_shape or math.prod(shape) != value.numel():
        raise ValueError(
            f"its header is damaged: {ORIGINAL_SHAPE}{show_name(name)} is {show_value(shape)}, for"
            f" {value.numel()} values"
        )
    if not isinstance(value, Stored):
        return value.view(shape)
    restore = value.restore
    return stored(shape, value.parts, lambda device: restore(device).view(shape), form=value.form)


def _t5_name(name: str) -> str:
    layer = T5_LAYER.fullmatch(name)
    if layer is None:
        return T5_OUTER.get(name, name)
    return f"blocks.{layer[1]}.{T5_INNER.get(layer[2], layer[2])}.weight"
