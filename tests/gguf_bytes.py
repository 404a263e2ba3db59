"""GGUF files written by hand, so that every byte of one can be another."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

ALIGNMENT = 32
# the format's numbers for types of tensors
F32, F16, Q8_0, Q8_1, Q4_K, BF16 = 0, 1, 8, 9, 12, 30
U32, I32, STRING, LIST = 4, 5, 8, 9


class Raw(NamedTuple):
    """A tensor as a file has it: type, shape in torch's order, and bytes."""

    kind: int
    shape: Sequence[int]
    data: bytes


def raw(value: torch.Tensor) -> Raw:
    """A tensor as it is."""
    kind = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}[value.dtype]
    data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return Raw(kind, value.shape, data)


def text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def setting(value: Any) -> bytes:
    """A text, a whole number, or a list of either, with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", LIST, STRING, len(value)) + b"".join(map(text, value))
    return struct.pack(f"<IIQ{len(value)}i", LIST, I32, len(value), *value)


def gguf_bytes(
    tensors: Mapping[str, Raw | torch.Tensor],
    settings: Mapping[str, Any] | None = None,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A file; `counts` are what it says of its tensors and settings, instead of the truth."""
    settings = {"general.architecture": "wan"} if settings is None else settings
    header = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(settings))))
    header += b"".join(text(name) + setting(value) for name, value in settings.items())
    values = b""
    for name, tensor in tensors.items():
        one = raw(tensor) if isinstance(tensor, torch.Tensor) else tensor
        axes = len(one.shape)
        header += text(name) + struct.pack(f"<I{axes}Q", axes, *reversed(one.shape))
        header += struct.pack("<IQ", one.kind, len(values))
        values += one.data + bytes(-len(one.data) % ALIGNMENT)
    return header + bytes(-len(header) % ALIGNMENT) + values


def q8_0(value: torch.Tensor) -> tuple[Raw, torch.Tensor]:
    """A tensor in eight bits, and what that stands for: a float16 for 32 whole numbers."""
    blocks = value.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
    data = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], 1)
    return Raw(Q8_0, value.shape, data.numpy().tobytes()), (scale.float() * numbers).view_as(value)


def q4_k(shape: Sequence[int]) -> tuple[Raw, torch.Tensor]:
    """Random numbers of four bits in blocks of 256, and what they stand for.

    Eight times 32 numbers have a scale and a minimum each, here of four bits; a block has a float16
    for all of its scales and one for all of its minima.
    """
    blocks = torch.Size(shape).numel() // 256
    big, least = (torch.rand(blocks, 1).half() for _ in range(2))
    scales, minima = (torch.randint(16, (blocks, 8)) for _ in range(2))
    numbers = torch.randint(16, (blocks, 4, 2, 32))
    true = big.float().view(-1, 1, 1) * scales.view(-1, 8, 1) * numbers.view(-1, 8, 32)
    true = true - least.float().view(-1, 1, 1) * minima.view(-1, 8, 1)
    small = [scales[:, :4], minima[:, :4], scales[:, 4:] | minima[:, 4:] << 4]
    # two numbers share a byte, 32 places apart
    packed = numbers[:, :, 0] | numbers[:, :, 1] << 4
    parts = [big.view(torch.uint8), least.view(torch.uint8), *small, packed.flatten(1)]
    data = torch.cat([part.to(torch.uint8) for part in parts], 1)
    return Raw(Q4_K, shape, data.numpy().tobytes()), true.view(*shape)
