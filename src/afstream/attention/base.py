"""The seams of attention: between a layer and a model call, and between a call and a backend.

A layer makes queries, keys and values. Whoever opened the call, a KV cache or a whole clip, says
where keys and values go. A backend attends.
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

# the slot of the chunk in the making
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
        """One layer's part."""
        ...


class SlotRead(Protocol):
    """What one call sees, ready to be read."""

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, own: KeysValues | None = None
    ) -> Tensor:
        """Attend to one layer's slots.

        Args:
            query: [B, T, H, D], normed and rotated.
            keys: [B, N, R, H, D], the layer's slots; values likewise.
            values: see keys.
            own: keys and values [B, T, H, D] of the query's tokens, with gradients, in the place
                of those in the slot of the chunk in the making.

        Returns:
            [B, T, H, D].
        """
        ...


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """How the chunk in the making sees itself and the chunks before it.

    Attributes:
        keys: [L, B, N, R, H, D], the slots where it is written (in `CURRENT`) and reads; values
            likewise.
        values: see keys.
        read: all that it sees.
        graph_key: calls of one key do the same work at the same addresses, so that a CUDA graph
            of one serves all; None where a call cannot be captured, or not with profit.
    """

    keys: Tensor
    values: Tensor
    read: SlotRead
    graph_key: object | None


class SlotReader(Protocol):
    """What a backend keeps to read one KV cache; it goes when the cache goes."""

    @property
    def copies(self) -> Sequence[Tensor]:
        """Copies of keys and values that are kept beside the slots."""
        ...

    def chunk(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> ChunkRead:
        """Prepare to read the chunk in the making and the chunks that it sees.

        Args:
            slots: of the finished chunks that it sees.
            offsets: latent frames by which the chunk stands after each of them.
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
        num_visible: chunks that a chunk can see at most, itself included.
        window_chunks: chunks that it sees once the window is full and there is no junction.
        rope: rotation tables.
        backend: of the kernels.
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
        """What the other operations run on beside it, under the row's name.

        Raises:
            ValueError: it cannot run there; says why.
        """
        ...

    def num_graphs(self, num_visible: int, window_chunks: int) -> int:
        """How many CUDA graphs serve each kind of chunk call, 0 where none can; see `SlotPool`."""
        ...

    def reader(self, pool: SlotPool) -> SlotReader:
        """Prepare to read one KV cache."""
        ...
