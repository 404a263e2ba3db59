"""What one model call attends to in a KV cache, and where it writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from afstream.attention.base import KeysValues, KVSlots, SlotRead
from afstream.attention.rope import RopeTable
from afstream_kernels import Backend


@dataclass(frozen=True, kw_only=True)
class CacheContext:
    """One model call over a KV cache; see `AttentionContext`.

    Attributes:
        keys: slots of all layers [L, B, N, R, H, D]; values likewise.
        values: see keys.
        targets: the slots that the call writes, one chunk after the other.
        first_row: index of the first token that is written.
        read: reads all that the call sees, including the chunks that it writes.
        graph_key: see `ChunkRead`.
        rope: rotation [T, D / 2] of the block at its own positions.
        backend: of the kernels.
    """

    keys: Tensor
    values: Tensor
    targets: tuple[int, ...]
    first_row: int
    read: SlotRead
    graph_key: object | None
    rope: RopeTable
    backend: Backend

    @cached_property
    def _layers(self) -> tuple[LayerKV, ...]:
        return tuple(
            LayerKV(self, KVSlots(keys, values, self.targets, self.first_row))
            for keys, values in zip(self.keys.unbind(), self.values.unbind(), strict=True)
        )

    def layer(self, index: int) -> LayerKV:
        """The context of one layer."""
        return self._layers[index]


class LayerKV:
    """One layer's keys and values in a cache; see `LayerContext`.

    While gradients are on, the block's own keys and values stay out of the slots, so that
    autograd can follow them; slots never carry gradients.

    Args:
        context: the call's context for all layers.
        slots: the slots of this layer.
    """

    def __init__(self, context: CacheContext, slots: KVSlots) -> None:
        self.backend: Backend = context.backend
        self.query_rope: RopeTable = context.rope
        self.key_rope: RopeTable = context.rope
        self._slots = slots
        self._read = context.read

    @property
    def slots(self) -> KVSlots | None:
        """Where keys and values are written; None while gradients are on."""
        return None if torch.is_grad_enabled() else self._slots

    def attend(self, query: Tensor, own: KeysValues | None = None) -> Tensor:
        """Attend to the slots; see `LayerContext`."""
        return self._read.attend(query, self._slots.keys, self._slots.values, own)
