"""The streaming KV cache: chunk slots that are written once and read at any distance.

Ageing, eviction, the sink and the promotion to a junction are edits of a few host integers: no
finished slot is moved or rotated again, and no device value is read back. The current chunk has a
slot of its own, at a fixed address, and is stored when it is finished.

Keys are stored rotated at temporal positions 0 .. c-1 of their own chunk. A query is rotated at 0
.. n-1 of its own block and shifted by its distance to each slot (the RoPE shift), so stored keys
can be read at any distance as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from afstream.attention import ATTENTION
from afstream.attention.base import CURRENT, SlotPool, SlotReader
from afstream.attention.rope import RopeTables
from afstream.config import BackboneConfig
from afstream.kvcache.context import CacheContext
from afstream.kvcache.policy import Anchors, MemoryPolicy, Recache
from afstream.kvcache.positions import Visible
from afstream_kernels import Backend, copy_slots

FREE, RESERVED = -1, -2


@dataclass(slots=True, kw_only=True)
class KVCache:
    """Keys and values of one scene, and the host integers that say which chunks they hold.

    Attributes:
        policy: which chunks are kept.
        grid: rows and columns of tokens in one latent frame.
        pool: the slots [L, B, N, R, H, D] of keys and values, allocated once.
        reader: the attention backend's reader of the pool.
        slot_frames: per slot, the first latent frame of the chunk it holds, -1 when free.
        anchors: the policy's state.
    """

    policy: MemoryPolicy
    grid: tuple[int, int]
    pool: SlotPool
    reader: SlotReader
    slot_frames: list[int]
    anchors: Anchors
    _open: tuple[int, CacheContext] | None = field(default=None, repr=False)

    @classmethod
    def allocate(
        cls,
        policy: MemoryPolicy,
        backbone: BackboneConfig,
        grid: tuple[int, int],
        *,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: Backend,
    ) -> KVCache:
        """Allocate the slots.

        Args:
            policy: which chunks are kept.
            backbone: layers, heads and head dim.
            grid: rows and columns of tokens in one latent frame.
            batch: B, the number of streams in the batch.
            dtype: of keys and values.
            device: where the slots are allocated.
            backend: backend of attention and the other kernels.
        """
        num_slots = 1 + policy.num_slots
        layers, *shape = slot_shape(policy, backbone, grid, batch=batch)
        # zeros, because 0 x NaN is NaN
        keys, values = (
            torch.zeros(layers, batch, num_slots, *shape[1:], dtype=dtype, device=device)
            for _ in range(2)
        )
        pool = SlotPool(
            keys=keys,
            values=values,
            num_visible=policy.num_visible,
            window_chunks=policy.lengths.window_chunks,
            rope=RopeTables(backbone.head_dim, dtype, keys.device),
            backend=backend,
        )
        return cls(
            policy=policy,
            grid=grid,
            pool=pool,
            reader=ATTENTION[backend.name].reader(pool),
            slot_frames=[RESERVED] + [FREE] * (num_slots - 1),
            anchors=policy.start(),
        )

    def chunk_context(self, frame: int) -> CacheContext:
        """The context of the chunk at `frame`, which is written into slot `CURRENT` until `store`.

        May be called repeatedly until then; only the newest context is valid.
        """
        if self._open is None or self._open[0] != frame:
            chunk = self.policy.lengths.chunk_frames
            seen = self.policy.visible(self.anchors, frame, chunk)
            before = [visible for visible in seen if visible.frame != frame]
            opened = self.reader.chunk(*self._places(frame, chunk, before))
            context = CacheContext(
                keys=opened.keys,
                values=opened.values,
                targets=(CURRENT,),
                first_row=0,
                read=opened.read,
                graph_key=opened.graph_key,
                rope=self._rope(chunk),
                backend=self.pool.backend,
            )
            self._open = frame, context
        return self._open[1]

    def store(self, frame: int) -> None:
        """Copy the finished chunk at `frame` from slot `CURRENT` into a slot that is free."""
        pool, context = self.pool, self.chunk_context(frame)
        seen = self.policy.visible(self.anchors, frame, self.policy.lengths.chunk_frames)
        slot = self._claim(frame, {visible.frame for visible in seen})
        copy_slots(
            *(context.keys, context.values, pool.keys, pool.values, [CURRENT], [slot]),
            backend=pool.backend,
        )
        self._open = None

    def recache_context(self, recache: Recache) -> CacheContext:
        """The context that rewrites finished chunks; all others that they see stay as stored."""
        frame, num_frames, rewritten = recache
        seen = self.policy.visible(self.anchors, frame, num_frames)
        keep = {visible.frame for visible in seen}
        targets = tuple(self._claim(start, keep) for start in rewritten)
        self._open = None
        return CacheContext(
            keys=self.pool.keys,
            values=self.pool.values,
            targets=targets,
            first_row=(rewritten[0] - frame) * self.grid[0] * self.grid[1],
            read=self.reader.block(*self._places(frame, num_frames, seen)),
            graph_key=None,
            rope=self._rope(num_frames),
            backend=self.pool.backend,
        )

    def clear(self) -> None:
        """Drop all chunks, because a new scene begins."""
        self.slot_frames = [RESERVED] + [FREE] * (len(self.slot_frames) - 1)
        self.anchors = self.policy.start()
        self._open = None

    def held(self) -> dict[str, Tensor]:
        """Views of the slots that hold chunks, layer by layer [B, R, H, D]; see `held_names`."""
        parts = self.pool.keys, self.pool.values
        return {
            name: parts[part][layer, :, slot]
            for name, (part, slot, layer) in held_names(self.slot_frames, len(parts[0])).items()
        }

    def restore(
        self, slot_frames: Sequence[int], anchors: Anchors, held: Mapping[str, Tensor]
    ) -> None:
        """Hold what another cache of the same sizes holds.

        Args:
            slot_frames: the other's.
            anchors: the other's; belong to this cache from now on.
            held: what its `held` returned, in any memory.
        """
        parts = self.pool.keys, self.pool.values
        for name, (part, slot, layer) in held_names(slot_frames, len(parts[0])).items():
            parts[part][layer, :, slot].copy_(held[name])
        self.slot_frames, self.anchors = list(slot_frames), anchors
        self._open = None

    def fork(self) -> KVCache:
        """An independent copy, made in one launch."""
        old = self.pool
        pool = replace(old, keys=torch.zeros_like(old.keys), values=torch.zeros_like(old.values))
        held = held_slots(self.slot_frames)
        copy_slots(*(old.keys, old.values, pool.keys, pool.values, held, held), backend=old.backend)
        return replace(
            self,
            pool=pool,
            reader=ATTENTION[pool.backend.name].reader(pool),
            slot_frames=list(self.slot_frames),
            anchors=replace(self.anchors),
            _open=None,
        )

    def _places(
        self, frame: int, num_frames: int, seen: Sequence[Visible]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Slots of the chunks that a block at `frame` sees, and its distance to each of them."""
        at = self.policy.query_position(frame, num_frames)
        slots = tuple(self.slot_frames.index(visible.frame) for visible in seen)
        return slots, tuple(at - visible.position for visible in seen)

    def _rope(self, num_frames: int) -> tuple[Tensor, Tensor]:
        return self.pool.rope.block((num_frames, *self.grid))

    def _claim(self, frame: int, keep: set[int]) -> int:
        """The slot of the chunk at `frame`; if it has none, that of the oldest chunk not needed."""
        if frame not in self.slot_frames:
            held = {*keep, *self.policy.held(self.anchors), RESERVED}
            free = [slot for slot, first in enumerate(self.slot_frames) if first not in held]
            self.slot_frames[min(free, key=lambda slot: self.slot_frames[slot])] = frame
        return self.slot_frames.index(frame)


def slot_shape(
    policy: MemoryPolicy, backbone: BackboneConfig, grid: tuple[int, int], *, batch: int = 1
) -> tuple[int, int, int, int, int]:
    """Shape of one slot's keys: layers, batch, tokens of a chunk, heads, head dim."""
    tokens = policy.lengths.chunk_frames * grid[0] * grid[1]
    return backbone.num_layers, batch, tokens, backbone.num_heads, backbone.head_dim


def held_slots(slot_frames: Sequence[int]) -> list[int]:
    """The slots that hold chunks."""
    return [slot for slot, frame in enumerate(slot_frames) if frame >= 0]


def held_names(slot_frames: Sequence[int], num_layers: int) -> dict[str, tuple[int, int, int]]:
    """Names of held keys and values, each with its part (keys are 0), slot and layer."""
    return {
        f"{name}.{slot}.{layer}": (part, slot, layer)
        for slot in held_slots(slot_frames)
        for part, name in enumerate(("keys", "values"))
        for layer in range(num_layers)
    }
