"""Attention that reads slots in place, the query shifted to each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afstream.attention.base import CURRENT, ChunkRead, KeysValues, SlotPool
from afstream.attention.block_table import BlockTable, StaticBlockTable
from afstream_kernels import Backend, choose_backend, slot_attention


@dataclass(frozen=True, slots=True)
class TableRead:
    """Reads the slots of a block table.

    Attributes:
        table: all slots that the call sees.
        pool: the slots.
        others: slots of earlier chunks, for a call that passes the chunk's own keys and values.
        offsets: distance in latent frames from each of them to the chunk.
    """

    table: BlockTable
    pool: SlotPool
    others: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, own: KeysValues | None = None
    ) -> Tensor:
        """Attend; see `SlotRead`."""
        table = self.table
        if own is not None:
            table = BlockTable(self.others, *self.pool.rope.shift(self.offsets))
        return slot_attention(query, keys, values, *table, own, backend=self.pool.backend)


class SlotsInPlace:
    """Reads the slots of one KV cache by block tables of host integers.

    Args:
        pool: the slots.
    """

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool

    @property
    def copies(self) -> Sequence[Tensor]:
        """No copies: slots are read in place."""
        return ()

    def chunk(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> ChunkRead:
        """Prepare a chunk; see `SlotReader`."""
        pool = self._pool
        table = self._chunk_table((CURRENT, *slots), (0, *offsets))
        read = TableRead(table, pool, slots, offsets)
        return ChunkRead(pool.keys, pool.values, read, self._graph_key)

    def block(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> TableRead:
        """Prepare a re-cache; see `SlotReader`."""
        return TableRead(self._table(slots, offsets), self._pool)

    @property
    def _graph_key(self) -> object | None:
        """No capture: a graph would hold this chunk's host integers, which the next one changes."""
        return None

    def _chunk_table(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> BlockTable:
        return self._table(slots, offsets)

    def _table(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> BlockTable:
        return BlockTable(slots, *self._pool.rope.shift(offsets))


class StaticSlots(SlotsInPlace):
    """Reads the slots of one KV cache by a block table on the device, at fixed addresses.

    Args:
        pool: the slots.
    """

    def __init__(self, pool: SlotPool) -> None:
        super().__init__(pool)
        self._static = StaticBlockTable(pool.num_visible, pool.rope.head_dim, pool.keys.device)

    @property
    def _graph_key(self) -> object | None:
        return "static"

    def _chunk_table(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> BlockTable:
        return self._static.fill(slots, offsets)


@dataclass(frozen=True, slots=True)
class Reference:
    """The PyTorch twins, on every device and for every dtype."""

    def backend(self, device: torch.device, dtype: torch.dtype) -> Backend:
        """All other operations run as twins, too."""
        return choose_backend("reference", device=device, dtype=dtype)

    def num_graphs(self, num_visible: int, window_chunks: int) -> int:
        """No graphs: host integers change from chunk to chunk."""
        return 0

    def reader(self, pool: SlotPool) -> SlotsInPlace:
        """Prepare to read one KV cache."""
        return SlotsInPlace(pool)


@dataclass(frozen=True, slots=True)
class Triton:
    """The Triton kernel, which reads slots and shifts from device memory."""

    def backend(self, device: torch.device, dtype: torch.dtype) -> Backend:
        """All other operations run as Triton kernels, too."""
        return choose_backend("triton", device=device, dtype=dtype)

    def num_graphs(self, num_visible: int, window_chunks: int) -> int:
        """One graph, which reads its block table from the device."""
        return 1

    def reader(self, pool: SlotPool) -> StaticSlots:
        """Prepare to read one KV cache."""
        return StaticSlots(pool)
