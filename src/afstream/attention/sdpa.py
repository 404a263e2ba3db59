"""Torch's own attention (SDPA), which takes one query and contiguous keys.

The slots that a chunk sees are gathered in one launch for all layers, which also shifts their keys.
The chunk itself is written into the first slot of this gathered KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afstream.attention.base import CURRENT, ChunkRead, KeysValues, SlotPool, SlotRead
from afstream.attention.block_table import BlockTable
from afstream.attention.rope import RopeTable
from afstream.attention.slots import TableRead
from afstream_kernels import (
    Backend,
    choose_backend,
    copy_slots,
    slot_attention,
    vendor_attention,
)


@dataclass(frozen=True, slots=True)
class GatheredBlock:
    """Gathers what a re-cache sees layer by layer, because each layer rewrites some of it.

    Attributes:
        slots: all that it sees.
        shift: by which their keys are moved.
        place: keys and values [1, B, N, R, H, D] of one layer, into which they are gathered.
        backend: of the copies.
    """

    slots: tuple[int, ...]
    shift: RopeTable
    place: KeysValues
    backend: Backend

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, own: KeysValues | None = None
    ) -> Tensor:
        """Attend; see `SlotRead`. A re-cache has no gradients."""
        assert own is None, "a re-cache writes into slots"  # noqa: S101  our own mistake
        count = len(self.slots)
        copy_slots(
            *(keys[None], values[None], *self.place, self.slots, range(count), self.shift),
            backend=self.backend,
        )
        held, seen = (x[0, :, :count].flatten(1, 2) for x in self.place)
        return vendor_attention(query, held, seen)


@dataclass(frozen=True, slots=True)
class GatheredRead:
    """Reads the leading slots of the gathered KV in place.

    Attributes:
        count: number of leading slots to read, the current chunk first.
        pool: the pool from which they were gathered.
    """

    count: int
    pool: SlotPool

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, own: KeysValues | None = None
    ) -> Tensor:
        """Attend; see `SlotRead`."""
        if own is not None:
            others = tuple(range(CURRENT + 1, self.count))
            table = BlockTable(others, *self.pool.rope.shift((0,) * len(others)))
            return slot_attention(query, keys, values, *table, own, backend=self.pool.backend)
        held, seen = (x[:, : self.count].flatten(1, 2) for x in (keys, values))
        return vendor_attention(query, held, seen)


class GatheredSlots:
    """Reads one KV cache through the gathered KV of the current chunk.

    Args:
        pool: the slots.
    """

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool
        layers, batch, _, *slot = pool.keys.shape
        shape = layers, batch, pool.num_visible, *slot
        # zeros, because 0 x NaN is NaN
        self._keys, self._values = (
            torch.zeros(shape, dtype=pool.keys.dtype, device=pool.keys.device) for _ in range(2)
        )

    @property
    def copies(self) -> Sequence[Tensor]:
        """The gathered keys and values."""
        return self._keys, self._values

    def chunk(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> ChunkRead:
        """Gather what a chunk sees, its keys shifted by their offsets; see `SlotReader`."""
        pool = self._pool
        count = 1 + len(slots)
        if slots:
            copy_slots(
                *(pool.keys, pool.values, self._keys, self._values, slots),
                range(CURRENT + 1, count),
                self._shift(offsets),
                backend=pool.backend,
            )
        # while the window fills, each count occurs once a scene: not worth a graph
        graph_key = count if count >= pool.window_chunks else None
        return ChunkRead(self._keys, self._values, GatheredRead(count, pool), graph_key)

    def block(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> SlotRead:
        """Prepare a re-cache; see `SlotReader`."""
        pool = self._pool
        if len(slots) > pool.num_visible:
            # more than any chunk sees, by a policy of its own
            return TableRead(BlockTable(slots, *pool.rope.shift(offsets)), pool)
        # the next chunk gathers anew
        place = self._keys[:1], self._values[:1]
        return GatheredBlock(slots, self._shift(offsets), place, pool.backend)

    def _shift(self, offsets: tuple[int, ...]) -> RopeTable:
        """Tables that move keys to where they are read: the query stays, so the other way."""
        return self._pool.rope.shift(tuple(-offset for offset in offsets))


@dataclass(frozen=True, slots=True)
class Sdpa:
    """Torch's own attention, on every device."""

    def backend(self, device: torch.device, dtype: torch.dtype) -> Backend:
        """On a GPU, all other operations run as Triton kernels."""
        return choose_backend("sdpa", device=device, dtype=dtype)

    def num_graphs(self, num_visible: int, window_chunks: int) -> int:
        """One graph for each number of chunks that a chunk with a full window can see."""
        return 1 + num_visible - window_chunks

    def reader(self, pool: SlotPool) -> GatheredSlots:
        """Prepare to read one KV cache."""
        return GatheredSlots(pool)
