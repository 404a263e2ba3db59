"""RoPE tables on a device, cached by the object that uses them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from afstream_kernels import rope_shift_tables, rope_tables, to_device

# cosines and sines
RopeTable = tuple[Tensor, Tensor]

V = TypeVar("V")


class Recent(Generic[V]):
    """A small cache; when it is full, the least recently used value is dropped.

    Args:
        size: the most values that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made now if it is not in the cache."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


class RopeTables:
    """RoPE tables of one head size on one device.

    Args:
        head_dim: D, even.
        dtype: of the tensors to rotate; float64 gets float64 tables, all others float32.
        device: where the tables are read.
    """

    def __init__(self, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.head_dim = head_dim
        self._dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._device = device
        self._blocks: Recent[RopeTable] = Recent(16)
        self._shifts: Recent[RopeTable] = Recent(64)

    def block(self, grid: tuple[int, int, int], start: int = 0) -> RopeTable:
        """Tables [F * R * C, D / 2] of a block of tokens at its own positions.

        Args:
            grid: latent frames, rows and columns of tokens (F, R, C).
            start: temporal position of its first latent frame.
        """

        def make() -> RopeTable:
            return self._place(
                rope_tables(start, grid=grid, head_dim=self.head_dim, dtype=self._dtype)
            )

        return self._blocks.get((grid, start), make)

    def shift(self, offsets: tuple[int, ...]) -> RopeTable:
        """RoPE shifts [S, D / 2]: tables that move a rotated block by each offset, latent frames.

        With bounded positions the same few offsets come back, so a steady stream computes and sends
        nothing.
        """

        def make() -> RopeTable:
            return self._place(
                rope_shift_tables(offsets, head_dim=self.head_dim, dtype=self._dtype)
            )

        return self._shifts.get(offsets, make)

    def _place(self, table: RopeTable) -> RopeTable:
        # made outside of inference mode, because a training step may use the same tables later
        with torch.inference_mode(mode=False):
            return to_device(table[0], self._device), to_device(table[1], self._device)
