"""The streaming memory: chunk slots that are written once and read at any distance.

Keys are stored rotated at temporal positions 0 .. c-1 of their own chunk (rows and
columns true), and the query is rotated by the distance to each slot. So ageing, eviction,
the sink and the promotion to a junction are edits of a few host integers: no slot is
rolled, cloned, concatenated or rotated again, and no device value is read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from afstream.config import BackboneConfig, MemoryPolicy
from afstream.positions import Anchors, query_position, visible_chunks
from afstream_kernels import norm_rotate, rms_norm, rotation_tables, segment_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Rows and columns of tokens in one latent frame."""

    rows: int
    columns: int

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns


@lru_cache(maxsize=64)
def _tables(
    offsets: tuple[int, ...],
    grid: tuple[int, int, int],
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Rotation tables [S, T, D/2] for a block read at each offset.

    In the steady state of bounded positions the same few offsets come back for ever, so
    nothing is computed or sent to the device there.
    """
    pairs = [rotation_tables(at, grid=grid, head_dim=head_dim, dtype=dtype) for at in offsets]
    cos, sin = (torch.stack(tables).to(device) for tables in zip(*pairs, strict=True))
    return cos, sin


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one model call attends to: the slots it writes and the segments it reads.

    While gradients are on, the block's own keys and values stay out of the slots, so that
    autograd can follow them; cached slots never carry gradients.

    Attributes:
        keys: all slots, [layer, slot, B, H, T, D]; values likewise.
        writes: per written chunk, the block's first token and the slot.
        reads: the slot of every segment.
        key_tables: cos and sin [T, D/2] of one chunk at its own positions.
        query_tables: cos and sin [S, T_query, D/2], one for each segment read.
    """

    keys: Tensor
    values: Tensor
    writes: tuple[tuple[int, int], ...]
    reads: tuple[int, ...]
    key_tables: tuple[Tensor, Tensor]
    query_tables: tuple[Tensor, Tensor]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, norms: tuple[Tensor, Tensor], eps: float
    ) -> Tensor:
        """Self-attention of one layer.

        Args:
            layer: index of the layer.
            q: [B, T, H * D] projection; k and v likewise.
            k: see q.
            v: see q.
            norms: weights [H * D] of the query and key norms.
            eps: of the norms.

        Returns:
            [B, T, H * D].
        """
        _, _, _, num_heads, chunk_tokens, _ = self.keys.shape
        fresh: dict[int, tuple[Tensor, Tensor]] = {}
        for start, slot in self.writes:
            rows = slice(start, start + chunk_tokens)
            key = norm_rotate(k[:, rows], norms[1], *self.key_tables, num_heads=num_heads, eps=eps)
            value = v[:, rows].unflatten(-1, (num_heads, -1)).transpose(1, 2)
            if torch.is_grad_enabled():
                fresh[slot] = key, value
            else:
                self.keys[layer, slot].copy_(key)
                self.values[layer, slot].copy_(value)
        held = {slot: (self.keys[layer, slot], self.values[layer, slot]) for slot in self.reads}
        pairs = [fresh.get(slot, held[slot]) for slot in self.reads]
        query = rms_norm(q, norms[0], eps).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        out = segment_attention(
            query, [key for key, _ in pairs], [value for _, value in pairs], *self.query_tables
        )
        return out.transpose(1, 2).flatten(-2)


@dataclass(slots=True, kw_only=True)
class Memory:
    """Keys and values of one scene, and the host integers that say what they are.

    Attributes:
        keys: [layer, slot, B, H, T, D], allocated once; values likewise.
        owners: per slot, the first latent frame of the chunk it holds, -1 when free.
        anchors: sink, junctions and floor.
    """

    policy: MemoryPolicy
    grid: Grid
    keys: Tensor
    values: Tensor
    owners: list[int]
    anchors: Anchors = field(default_factory=Anchors)

    @classmethod
    def allocate(
        cls,
        policy: MemoryPolicy,
        backbone: BackboneConfig,
        grid: Grid,
        *,
        batch: int = 1,
        spare_chunks: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Memory:
        """Reserve the slots; zeros, because 0 x NaN is NaN.

        Args:
            policy: how many chunks, and which.
            backbone: layers, heads and head dim.
            grid: tokens of a latent frame.
            batch: B, streams run side by side.
            spare_chunks: slots beyond what the policy needs; evicted chunks live on in
                them for as long as they last.
            dtype: of keys and values.
            device: where they live.
        """
        num_slots = policy.num_slots + spare_chunks
        tokens = policy.chunk_frames * grid.tokens_per_frame
        shape = (backbone.num_layers, num_slots, batch, backbone.num_heads, tokens)
        keys = torch.zeros(*shape, backbone.head_dim, dtype=dtype, device=device)
        return cls(
            policy=policy,
            grid=grid,
            keys=keys,
            values=torch.zeros_like(keys),
            owners=[-1] * num_slots,
        )

    def window(self, frame: int, num_frames: int) -> Window:
        """Open the block of `num_frames` latent frames from `frame` on for a model call.

        Every chunk of the block that stays visible gets a slot to be written; everything
        else that is visible is read as stored.
        """
        chunk = self.policy.chunk_frames
        visible = visible_chunks(self.policy, self.anchors, frame, num_frames)
        own = [seen.frame for seen in visible if frame <= seen.frame < frame + num_frames]
        keep = {seen.frame for seen in visible}
        for start in own:
            if start not in self.owners:
                self.owners[self._free_slot(keep)] = start
        slots = {seen.frame: self.owners.index(seen.frame) for seen in visible}

        at = query_position(self.policy, frame, num_frames)
        offsets = tuple(at - seen.position for seen in visible)
        grid = (self.grid.rows, self.grid.columns)
        head_dim = self.keys.shape[-1]
        dtype = torch.float64 if self.keys.dtype == torch.float64 else torch.float32
        cos, sin = _tables((0,), (chunk, *grid), head_dim, dtype, self.keys.device)
        tokens = self.grid.tokens_per_frame
        return Window(
            keys=self.keys,
            values=self.values,
            writes=tuple(((start - frame) * tokens, slots[start]) for start in own),
            reads=tuple(slots[seen.frame] for seen in visible),
            key_tables=(cos[0], sin[0]),
            query_tables=_tables(offsets, (num_frames, *grid), head_dim, dtype, self.keys.device),
        )

    def clear(self, frame: int) -> None:
        """Forget everything before `frame`."""
        self.owners = [-1] * len(self.owners)
        self.anchors = Anchors(floor=frame)

    def _free_slot(self, keep: set[int]) -> int:
        """The slot of the oldest chunk that is neither visible nor a junction."""
        held = keep | {self.anchors.junction, self.anchors.previous_junction}
        free = [slot for slot, owner in enumerate(self.owners) if owner not in held]
        return min(free, key=lambda slot: self.owners[slot])
