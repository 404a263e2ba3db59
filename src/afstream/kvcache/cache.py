"""The streaming memory: chunk slots that are written once and read at any distance.

Ageing, eviction, the sink and the promotion to a junction are edits of a few host integers:
no finished slot is moved or rotated again, and no device value is read back. The chunk in
the making has a place of its own, at fixed addresses, and is captured when it is finished.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from afstream.config import BackboneConfig, MemoryPolicy
from afstream.kvcache.positions import Anchors, Visible, query_position, visible_chunks
from afstream.kvcache.window import FixedSegments, Segments, Window, block_tables, segments_at
from afstream_kernels import Backend, copy_slots

# the slot of the chunk in the making
CURRENT = 0
FREE, RESERVED = -1, -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Rows and columns of tokens in one latent frame."""

    rows: int
    columns: int

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns


@dataclass(slots=True, kw_only=True)
class Memory:
    """Keys and values of one scene, and the host integers that say what they are.

    Attributes:
        policy: how many chunks are held, and which.
        grid: tokens of a latent frame.
        backend: of the kernels.
        keys: [L, B, N, R, H, D], allocated once; values likewise. Slot 0 is the chunk in the
            making.
        values: see keys.
        view: keys and values [L, B, S, R, H, D] of what the chunk in the making sees, turned
            to where it sees them, itself first; None where attention reads the slots.
        fixed: the segments of the chunk in the making, where kernels read them from the
            device; else None.
        owners: per slot, the first latent frame of the chunk it holds, -1 when free.
        anchors: sink, junctions and floor.
    """

    policy: MemoryPolicy
    grid: Grid
    backend: Backend
    keys: Tensor
    values: Tensor
    view: tuple[Tensor, Tensor] | None
    fixed: FixedSegments | None
    owners: list[int]
    anchors: Anchors = field(default_factory=Anchors)
    _open: tuple[int, Window] | None = None

    @classmethod
    def allocate(
        cls,
        policy: MemoryPolicy,
        backbone: BackboneConfig,
        grid: Grid,
        *,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: Backend,
    ) -> Memory:
        """Reserve the slots; zeros, because 0 x NaN is NaN.

        Args:
            policy: how many chunks, and which.
            backbone: layers, heads and head dim.
            grid: tokens of a latent frame.
            batch: B, streams run side by side.
            dtype: of keys and values.
            device: where they live.
            backend: of the kernels.
        """
        tokens = policy.chunk_frames * grid.tokens_per_frame

        def slots(count: int) -> Tensor:
            shape = (backbone.num_layers, batch, count, tokens, backbone.num_heads)
            return torch.zeros(*shape, backbone.head_dim, dtype=dtype, device=device)

        num_slots = 1 + policy.num_slots
        num_seen = policy.num_segments
        keys = slots(num_slots)
        return cls(
            policy=policy,
            grid=grid,
            backend=backend,
            keys=keys,
            values=slots(num_slots),
            view=(slots(num_seen), slots(num_seen)) if backend == "sdpa" else None,
            fixed=FixedSegments(num_seen, backbone.head_dim, keys.device)
            if backend == "triton"
            else None,
            owners=[RESERVED] + [FREE] * (num_slots - 1),
        )

    def chunk_window(self, frame: int) -> Window:
        """Open the chunk at `frame`, which is written into its own place until `capture`.

        May be called again and again until then; the window opened last is the one that holds.
        """
        if self._open is not None and self._open[0] == frame:
            return self._open[1]
        policy = self.policy
        visible = visible_chunks(policy, self.anchors, frame, policy.chunk_frames)
        at = query_position(policy, frame, policy.chunk_frames)
        cached = [seen for seen in visible if seen.frame != frame]
        if self.view is None:
            window = self._slot_window(at, cached)
        else:
            window = self._view_window(at, cached, *self.view)
        self._open = frame, window
        return window

    def capture(self, frame: int) -> None:
        """Keep the finished chunk at `frame`: from its own place into a slot that is free."""
        policy = self.policy
        keys, values = self.view or (self.keys, self.values)
        visible = visible_chunks(policy, self.anchors, frame, policy.chunk_frames)
        slot = self._claim(frame, {seen.frame for seen in visible})
        copy_slots(keys, values, self.keys, self.values, [CURRENT], [slot], backend=self.backend)
        self._open = None

    def recache_window(self, frame: int, num_frames: int) -> Window:
        """Open the `num_frames` finished latent frames from `frame` on, to be written anew.

        Every chunk of them that stays visible is written into its slot; everything else that
        is visible is read as stored.
        """
        policy = self.policy
        visible = visible_chunks(policy, self.anchors, frame, num_frames)
        keep = {seen.frame for seen in visible}
        sink = self.anchors.sink
        # a sink that began before the block stays as it was
        first = frame if sink >= frame else max(frame, sink + policy.sink_frames)
        own = sorted(seen.frame for seen in visible if seen.frame >= first)
        writes = tuple(self._claim(start, keep) for start in own)
        at = query_position(policy, frame, num_frames)
        self._open = None
        return Window(
            keys=self.keys,
            values=self.values,
            first_row=(own[0] - frame) * self.grid.tokens_per_frame,
            writes=writes,
            reads=self._segments(at, visible),
            cached=self._segments(at, [seen for seen in visible if seen.frame not in own]),
            tables=self._tables(num_frames),
            backend=self.backend,
        )

    def clear(self, frame: int) -> None:
        """Forget everything before `frame`."""
        self.owners = [RESERVED] + [FREE] * (len(self.owners) - 1)
        self.anchors = Anchors(floor=frame)
        self._open = None

    def fork(self) -> Memory:
        """A memory of its own with the same content, copied in one launch."""
        head_dim = self.keys.shape[-1]
        keys, values = torch.zeros_like(self.keys), torch.zeros_like(self.values)
        held = [slot for slot, owner in enumerate(self.owners) if owner >= 0]
        copy_slots(self.keys, self.values, keys, values, held, held, backend=self.backend)
        return replace(
            self,
            keys=keys,
            values=values,
            view=self.view and (torch.zeros_like(self.view[0]), torch.zeros_like(self.view[1])),
            fixed=self.fixed and FixedSegments(self.policy.num_segments, head_dim, keys.device),
            owners=list(self.owners),
            anchors=replace(self.anchors),
            _open=None,
        )

    def _slot_window(self, at: int, cached: list[Visible]) -> Window:
        slots, offsets = self._places(at, cached)
        seen = (CURRENT, *slots), (0, *offsets)
        reads = self.fixed.fill(*seen) if self.fixed else self._at(*seen)
        return self._chunk_window(self.keys, self.values, reads, self._at(slots, offsets))

    def _view_window(self, at: int, cached: list[Visible], keys: Tensor, values: Tensor) -> Window:
        """Warm start: bring what is seen to where it is seen, all layers at once."""
        slots, offsets = self._places(at, cached)
        targets = tuple(range(CURRENT + 1, CURRENT + 1 + len(slots)))
        if slots:
            back = self._at(slots, tuple(-offset for offset in offsets))
            turn = back.cos, back.sin
            copy_slots(
                self.keys, self.values, keys, values, slots, targets, turn, backend=self.backend
            )
        still = (0,) * len(slots)
        return self._chunk_window(
            keys,
            values,
            self._at((CURRENT, *targets), (0, *still)),
            self._at(targets, still),
            view_slots=1 + len(slots),
        )

    def _chunk_window(
        self,
        keys: Tensor,
        values: Tensor,
        reads: Segments,
        cached: Segments,
        *,
        view_slots: int = 0,
    ) -> Window:
        return Window(
            keys=keys,
            values=values,
            first_row=0,
            writes=(CURRENT,),
            reads=reads,
            cached=cached,
            tables=self._tables(self.policy.chunk_frames),
            view_slots=view_slots,
            backend=self.backend,
        )

    def _places(self, at: int, visible: list[Visible]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Slots of what is seen, and how far after each of them a query at `at` stands."""
        slots = tuple(self.owners.index(seen.frame) for seen in visible)
        return slots, tuple(at - seen.position for seen in visible)

    def _segments(self, at: int, visible: list[Visible]) -> Segments:
        return self._at(*self._places(at, visible))

    def _at(self, slots: tuple[int, ...], offsets: tuple[int, ...]) -> Segments:
        return segments_at(slots, offsets, self.keys.shape[-1], self._angle_dtype, self.keys.device)

    def _tables(self, num_frames: int) -> tuple[Tensor, Tensor]:
        grid = (num_frames, self.grid.rows, self.grid.columns)
        return block_tables(grid, self.keys.shape[-1], self._angle_dtype, self.keys.device)

    @property
    def _angle_dtype(self) -> torch.dtype:
        return torch.float64 if self.keys.dtype == torch.float64 else torch.float32

    def _claim(self, frame: int, keep: set[int]) -> int:
        """The slot of the chunk at `frame`; if it has none, the one of the oldest not needed."""
        if frame not in self.owners:
            held = keep | {self.anchors.junction, self.anchors.previous_junction, RESERVED}
            free = [slot for slot, owner in enumerate(self.owners) if owner not in held]
            self.owners[min(free, key=lambda slot: self.owners[slot])] = frame
        return self.owners.index(frame)
