"""What attention is measured with: slots for us, raw keys for those who rotate anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from afstream.bench.kernels import public
from afstream.bench.kernels.case import KernelSettings
from afstream.bench.kernels.shapes import NUM_SLOTS
from afstream_kernels import apply_rotation, rotation_tables, turn_tables

# Slots are read in an order that is not that of memory; no divisor of the number of slots.
SLOT_STEP = 3


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """One layer's attention.

    Attributes:
        q: [B, T, H, D], rotated at its own positions.
        keys: [B, N, R, H, D], rotated at their own chunk's positions; values likewise.
        values: see keys.
        raw_keys: the same keys before any rotation.
        slots: what is seen.
        offsets: how far the query stands after each.
        turn: cosines and sines [S, D / 2] of the offsets, float32.
        tables: by name of a rotation, cosines and sines [K, 1, D / 2] that take raw keys of
            the whole window to where they are seen.
        window: keys and values [B, K, H, D] of the window, ready for torch's own attention.
        own: keys and values [B, T, H, D] with gradient; None in inference.
        grad: of the output; None in inference.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    raw_keys: Tensor
    slots: tuple[int, ...]
    offsets: tuple[int, ...]
    turn: tuple[Tensor, Tensor]
    tables: Mapping[str, tuple[Tensor, Tensor]]
    window: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor] | None = None
    grad: Tensor | None = None


def attention_inputs(
    settings: KernelSettings, *, offsets: tuple[int, ...], num_queries: int
) -> AttentionInputs:
    """Random inputs whose segments lie at offsets."""
    shape, draw = settings.shape, settings.source()
    heads = shape.num_heads, shape.head_dim
    raw = draw(1, NUM_SLOTS, shape.chunk_tokens, *heads)
    values = draw(1, NUM_SLOTS, shape.chunk_tokens, *heads)
    cos, sin = rotation_tables(0, grid=shape.grid, head_dim=shape.head_dim)
    turn = turn_tables(offsets, head_dim=shape.head_dim)
    slots = tuple((1 + SLOT_STEP * index) % NUM_SLOTS for index in range(len(offsets)))
    tables = {
        name: _window_tables(settings, offsets, dtype)
        for name, (_, dtype) in public.ROTATIONS.items()
    }
    gathered = torch.cat([raw[:, slot] for slot in slots], dim=1)
    return AttentionInputs(
        q=draw(1, num_queries, *heads),
        keys=apply_rotation(
            raw, cos.to(settings.device)[:, None], sin.to(settings.device)[:, None]
        ),
        values=values,
        raw_keys=raw,
        slots=slots,
        offsets=offsets,
        turn=(turn[0].to(settings.device), turn[1].to(settings.device)),
        tables=tables,
        window=(
            public.rotate_float32(gathered, tables["float32"]),
            torch.cat([values[:, slot] for slot in slots], dim=1),
        ),
    )


def training_inputs(
    settings: KernelSettings, *, offsets: tuple[int, ...], num_queries: int
) -> AttentionInputs:
    """The same with keys and values of its own, and gradients."""
    inputs = attention_inputs(settings, offsets=offsets, num_queries=num_queries)
    draw = settings.source()
    key, value, grad = (draw(*inputs.q.shape) for _ in range(3))
    return replace(
        inputs,
        q=inputs.q.requires_grad_(),
        own=(key.requires_grad_(), value.requires_grad_()),
        grad=grad,
    )


def _window_tables(
    settings: KernelSettings, offsets: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Positions relative to the query's first, because only differences count."""
    shape = settings.shape
    pairs = [
        rotation_tables(-offset, grid=shape.grid, head_dim=shape.head_dim, dtype=dtype)
        for offset in offsets
    ]
    cos, sin = (torch.cat(part)[:, None].to(settings.device) for part in zip(*pairs, strict=True))
    return cos, sin
