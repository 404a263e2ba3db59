"""What one model call attends to: the slots it writes, and the segments it reads.

Keys are stored rotated at temporal positions 0 .. c-1 of their own chunk, rows and columns
true. A query is rotated at 0 .. n-1 of its own block and turned by its distance to each
segment, so stored keys are read at any distance without being touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afstream.model.layers import Projections
from afstream_kernels import (
    Backend,
    norm_rotate,
    norm_rotate_write,
    rotation_tables,
    segment_attention,
    turn_tables,
    vendor_attention,
)

Tables = tuple[Tensor, Tensor]


class Segments(NamedTuple):
    """Slots, and how far after each of them the query stands.

    Attributes:
        slots: S slots; host integers, or int32 on the device with -1 for none.
        cos: [S, D / 2] of the turn.
        sin: [S, D / 2].
    """

    slots: Tensor | tuple[int, ...]
    cos: Tensor
    sin: Tensor


@lru_cache(maxsize=64)
def block_tables(
    grid: tuple[int, int, int], head_dim: int, dtype: torch.dtype, device: torch.device
) -> Tables:
    """Rotation tables [T, D / 2] of a block at its own positions, kept on the device."""
    # ordinary tensors, whoever asks first: a training step may need them later
    with torch.inference_mode(mode=False):
        cos, sin = rotation_tables(0, grid=grid, head_dim=head_dim, dtype=dtype)
        return cos.to(device), sin.to(device)


@lru_cache(maxsize=256)
def segments_at(
    slots: tuple[int, ...],
    offsets: tuple[int, ...],
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Segments:
    """Segments at temporal offsets.

    In the steady state of bounded positions the same few come back for ever, so nothing is
    computed or sent to the device there.
    """
    with torch.inference_mode(mode=False):
        cos, sin = turn_tables(offsets, head_dim=head_dim, dtype=dtype)
        return Segments(slots, cos.to(device), sin.to(device))


class FixedSegments:
    """Segments at addresses that a captured graph may keep; filled anew for each chunk.

    Args:
        count: S, the most segments that a chunk can see.
        head_dim: D.
        device: where the kernels read them.
    """

    def __init__(self, count: int, head_dim: int, device: torch.device) -> None:
        # kernels load whole 16 bytes
        self._ints = -(-count // 4) * 4
        self._packed = torch.empty(self._ints + count * head_dim, dtype=torch.int32, device=device)
        tables = self._packed[self._ints :].view(torch.float32).view(2, count, head_dim // 2)
        self.segments = Segments(self._packed[:count], tables[0], tables[1])
        self._count, self._head_dim = count, head_dim
        self._filled: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def fill(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> Segments:
        """Send slots and turns in one asynchronous copy; the rest becomes -1."""
        if self._filled != (slots, offsets):
            self._filled = slots, offsets
            pinned = self._packed.is_cuda
            packed = _packed(slots, offsets, self._count, self._ints, self._head_dim, pinned)
            self._packed.copy_(packed, non_blocking=True)
        return self.segments


@lru_cache(maxsize=256)
def _packed(
    slots: tuple[int, ...],
    offsets: tuple[int, ...],
    count: int,
    ints: int,
    head_dim: int,
    pinned: bool,
) -> Tensor:
    """Slots, cosines and sines, one behind the other, as int32 on the host."""
    missing = count - len(slots)
    head = torch.full((ints,), -1, dtype=torch.int32)
    head[: len(slots)] = torch.tensor(slots, dtype=torch.int32)
    tables = turn_tables((*offsets, *[0] * missing), head_dim=head_dim)
    packed = torch.cat([head, *(table.flatten().view(torch.int32) for table in tables)])
    # a copy from ordinary memory would make the host wait
    return packed.pin_memory() if pinned else packed


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one model call attends to.

    Attributes:
        keys: slots of all layers [L, B, N, R, H, D]; values likewise.
        values: see keys.
        first_row: tokens of the block from here on are written.
        writes: the slots that they go to, one chunk after the other.
        reads: what is seen, the block's own chunks among it.
        cached: what is seen of earlier chunks, at addresses that nobody fills anew.
        tables: rotation [T, D / 2] of the block at its own positions.
        view_slots: where the first so many slots are just what is seen, keys turned to where
            they are seen, so that torch's own attention can take them as they lie; else 0.
        backend: of the kernels.
    """

    keys: Tensor
    values: Tensor
    first_row: int
    writes: tuple[int, ...]
    reads: Segments
    cached: Segments
    tables: Tables
    view_slots: int = 0
    backend: Backend

    @cached_property
    def _layers(self) -> tuple[LayerWindow, ...]:
        return tuple(
            LayerWindow(self, keys, values)
            for keys, values in zip(self.keys.unbind(), self.values.unbind(), strict=True)
        )

    def layer(self, index: int) -> LayerWindow:
        """The same for one layer."""
        return self._layers[index]


def project_with_gradients(
    tokens: Tensor, weights: Projections, tables: Tables, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, T, H, D] of tokens [B, T, C], the first two rotated."""
    query, key = (
        norm_rotate(
            project(tokens),
            norm.weight,
            *tables,
            num_heads=weights.num_heads,
            eps=weights.eps,
            backend=backend,
        )
        for project, norm in ((weights.q, weights.norm_q), (weights.k, weights.norm_k))
    )
    return query, key, weights.v(tokens).view_as(key)


class LayerWindow:
    """One layer of a window.

    While gradients are on, the block's own keys and values stay out of the slots, so that
    autograd can follow them; slots never carry gradients.

    Args:
        window: the window of all layers.
        keys: [B, N, R, H, D], this layer's slots; values likewise.
        values: see keys.
    """

    def __init__(self, window: Window, keys: Tensor, values: Tensor) -> None:
        self.backend: Backend = window.backend
        self._window = window
        self._keys = keys
        self._values = values

    def attend(self, tokens: Tensor, weights: Projections) -> Tensor:
        """Self-attention: tokens [B, T, C] to [B, T, C], before the output projection."""
        if torch.is_grad_enabled():
            return self._attend_with_gradients(tokens, weights)
        window = self._window
        rows = tokens[:, window.first_row :] if window.first_row else tokens
        self._write_values(rows, weights.v)
        query = norm_rotate_write(
            weights.q(tokens),
            weights.k(rows),
            weights.norm_q.weight,
            weights.norm_k.weight,
            *window.tables,
            self._keys,
            window.writes,
            eps=weights.eps,
            backend=window.backend,
        )
        if window.view_slots:
            keys, values = (
                held[:, : window.view_slots].flatten(1, 2) for held in (self._keys, self._values)
            )
            return vendor_attention(query, keys, values).flatten(-2)
        out = segment_attention(
            query, self._keys, self._values, *window.reads, backend=window.backend
        )
        return out.flatten(-2)

    def write(self, tokens: Tensor, weights: Projections) -> None:
        """Only write the keys and values of tokens [B, T, C], where nobody needs the output."""
        window = self._window
        rows = tokens[:, window.first_row :]
        keys, weight = weights.k(rows), weights.norm_k.weight
        self._write_values(rows, weights.v)
        cos, sin = (table[: rows.shape[1]] for table in window.tables)
        # the query's half is thrown away: one layer in all does this
        norm_rotate_write(
            *(keys, keys, weight, weight, cos, sin, self._keys, window.writes),
            eps=weights.eps,
            backend=window.backend,
        )

    def _write_values(self, rows: Tensor, project: nn.Module) -> None:
        """Project straight into the slots."""
        slots = self._window.writes
        for slot, part in zip(slots, rows.split(self._values.shape[2], dim=1), strict=True):
            target = self._values[:, slot].flatten(2)
            # a wrapped projection, such as one with a LoRA, must be called
            if type(project) is nn.Linear and len(part) == 1:
                torch.addmm(project.bias, part[0], project.weight.t(), out=target[0])
            else:
                target.copy_(project(part))

    def _attend_with_gradients(self, tokens: Tensor, weights: Projections) -> Tensor:
        window = self._window
        query, key, value = project_with_gradients(tokens, weights, window.tables, window.backend)
        out = segment_attention(
            query, self._keys, self._values, *window.cached, (key, value), backend=window.backend
        )
        return out.flatten(-2)
