"""Block tables: which slots one query block reads, and at which distance in time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from afstream.attention.rope import Recent
from afstream_kernels import rope_shift_tables


class BlockTable(NamedTuple):
    """The slots that a query block reads, and the RoPE shift to each of them.

    Attributes:
        slots: S slots; host integers, or int32 on the device with -1 for none.
        cos: [S, D / 2] of the RoPE shift.
        sin: [S, D / 2].
    """

    slots: Tensor | tuple[int, ...]
    cos: Tensor
    sin: Tensor


class StaticBlockTable:
    """A block table at fixed addresses, as CUDA graphs need; refilled for each chunk.

    Args:
        count: S, the most slots that a chunk can see.
        head_dim: D.
        device: where the kernels read it.
    """

    def __init__(self, count: int, head_dim: int, device: torch.device) -> None:
        # kernels load 16 bytes at a time
        self._ints = -(-count // 4) * 4
        self.packed = torch.empty(self._ints + count * head_dim, dtype=torch.int32, device=device)
        tables = self.packed[self._ints :].view(torch.float32).view(2, count, head_dim // 2)
        self.table = BlockTable(self.packed[:count], tables[0], tables[1])
        self._count, self._head_dim = count, head_dim
        self._filled: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._sources: Recent[Tensor] = Recent(64)

    def fill(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> BlockTable:
        """Send slots and RoPE shifts in one asynchronous copy; the rest becomes -1.

        Args:
            slots: at most `count`.
            offsets: distance in latent frames from each slot to the query.
        """
        if self._filled != (slots, offsets):
            self._filled = slots, offsets
            packed = self._sources.get((slots, offsets), lambda: self._pack(slots, offsets))
            self.packed.copy_(packed, non_blocking=True)
        return self.table

    def _pack(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> Tensor:
        """Slots, cosines and sines, concatenated, as int32 on the host."""
        missing = self._count - len(slots)
        head = torch.full((self._ints,), -1, dtype=torch.int32)
        head[: len(slots)] = torch.tensor(slots, dtype=torch.int32)
        tables = rope_shift_tables((*offsets, *[0] * missing), head_dim=self._head_dim)
        packed = torch.cat([head, *(table.flatten().view(torch.int32) for table in tables)])
        # a copy from pageable memory would make the host wait
        return packed.pin_memory() if self.packed.is_cuda else packed
