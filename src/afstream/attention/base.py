"""The interfaces of attention: from a layer to its model call, and from a call to a backend.

A layer makes queries, keys and values. The call's context, made by a KV cache or for a whole clip,
says where keys and values go. A backend attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from afstream.attention.rope import RopeTable, RopeTables
from afstream_kernels import Backend

KeysValues = tuple[Tensor, Tensor]

# the slot of the chunk that is being denoised
CURRENT = 0


@dataclass(frozen=True, slots=True)
class KVSlots:
    """The slots into which one layer writes the keys and values of a call.

    Attributes:
        keys: [B, N, R, H, D], all slots of the layer; values likewise.
        values: see keys.
        targets: the slots that are written, one for each R tokens.
        first_row: index of the first token whose keys and values are written.
    """

    keys: Tensor
    values: Tensor
    targets: tuple[int, ...]
    first_row: int


class LayerContext(Protocol):
    """Self-attention of one layer in one model call."""

    @property
    def backend(self) -> Backend:
        """The backend of the kernels."""
        ...

    @property
    def query_rope(self) -> RopeTable:
        """Rotation [T, D / 2] of the queries."""
        ...

    @property
    def key_rope(self) -> RopeTable:
        """Rotation [T, D / 2] of the keys."""
        ...

    @property
    def slots(self) -> KVSlots | None:
        """Where keys and values are written in place; None where `attend` is handed them."""
        ...

    def attend(self, query: Tensor, own: KeysValues | None = None) -> Tensor:
        """Attend to all that the call sees.

        Args:
            query: [B, T, H, D], normed and rotated.
            own: keys, normed and rotated, and values [B, T, H, D] of the same tokens, unless
                they were written into `slots`.

        Returns:
            [B, T, H, D].
        """
        ...


class AttentionContext(Protocol):
    """Self-attention of all layers in one model call."""

    @property
    def backend(self) -> Backend:
        """The backend of the kernels."""
        ...

    def layer(self, index: int) -> LayerContext:
        """The context of one layer."""
        ...


class SlotRead(Protocol):
    """The slots that one call attends to, prepared for reading."""

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, own: KeysValues | None = None
    ) -> Tensor:
        """Attend to one layer's slots.

        Args:
            query: [B, T, H, D], normed and rotated.
            keys: [B, N, R, H, D], the layer's slots; values likewise.
            values: see keys.
            own: keys and values [B, T, H, D] of the query's tokens, with gradients, used instead of
                those in the slot `CURRENT`.

        Returns:
            [B, T, H, D].
        """
        ...


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """How the current chunk reads its own slot and those of the chunks before it.

    Attributes:
        keys: [L, B, N, R, H, D], the slots that it reads; it is written into `CURRENT`; values
            likewise.
        values: see keys.
        read: reads all that it sees.
        graph_key: calls with equal keys do the same work at the same addresses, so that one CUDA
            graph serves all; None where capture is impossible or not worthwhile.
    """

    keys: Tensor
    values: Tensor
    read: SlotRead
    graph_key: object | None


class SlotReader(Protocol):
    """What a backend keeps to read one KV cache; it is freed with the cache."""

    @property
    def copies(self) -> Sequence[Tensor]:
        """Copies of keys and values that are kept beside the slots."""
        ...

    def chunk(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> ChunkRead:
        """Prepare to read the current chunk and the chunks that it sees.

        Args:
            slots: of the finished chunks that it sees.
            offsets: distance in latent frames from each of them to the chunk.
        """
        ...

    def block(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> SlotRead:
        """Prepare to read what a block of finished chunks sees, itself included; see `chunk`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPool:
    """The slots of one KV cache, as a backend reads them.

    Attributes:
        keys: [L, B, N, R, H, D], rotated at the positions of their own chunk; values likewise.
        values: see keys.
        num_visible: the most chunks that a chunk can see, itself included.
        window_chunks: chunks that it sees once the window is full, a junction not counted.
        rope: rotation tables.
        backend: backend of the kernels.
    """

    keys: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    num_visible: int
    window_chunks: int
    rope: RopeTables
    backend: Backend


class AttentionBackend(Protocol):
    """One way to attend to slots; a row of `afstream.attention.ATTENTION`."""

    def backend(self, device: torch.device, dtype: torch.dtype) -> Backend:
        """The backend of the other operations, under the name of this row.

        Raises:
            ValueError: the backend cannot run there; the message says why.
        """
        ...

    def num_graphs(self, num_visible: int, window_chunks: int) -> int:
        """Number of CUDA graphs for each kind of chunk call, 0 without capture; see `SlotPool`."""
        ...

    def reader(self, pool: SlotPool) -> SlotReader:
        """Prepare to read one KV cache."""
        ...
