"""Teacher forcing: whole clips in one call, every chunk seeing the clean past it would see.

A call holds three kinds of chunks of the same clip: *context* chunks (clean, timestep 0),
*re-cached* chunks (the clean past of a prompt switch under the new prompt) and *noisy*
chunks, whose flow is learned. Who sees whom, and at which positions, comes from
`afstream.kvcache.positions`, as in a stream; only the layout differs, all chunks side by side.

In the block-causal calls of ODE regression the noisy chunks are each other's past, and there
is no other kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from afstream.config import MemoryPolicy
from afstream.kvcache.positions import Anchors, query_position, visible_chunks
from afstream.model.layers import Projections
from afstream_kernels import Backend, apply_rotation, rms_norm, rotation_tables

Kind = Literal["context", "recached", "noisy"]
Past = Literal["context", "noisy"]


class Block(NamedTuple):
    """One chunk of the call: its kind and its first latent frame in the clip."""

    kind: Kind
    frame: int


class Read(NamedTuple):
    """A block's keys, at the temporal position at which somebody reads them."""

    block: int
    position: int


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """Which blocks a call holds, where each stands, and what each reads.

    Attributes:
        blocks: context chunks, then re-cached ones, then noisy ones.
        positions: temporal position of each block's query.
        keys: every (block, position) at which keys are needed.
        reads: per block, the entries of `keys` that it sees.
        switch_frame: first latent frame under the second prompt, None without a switch.
    """

    blocks: tuple[Block, ...]
    positions: tuple[int, ...]
    keys: tuple[Read, ...]
    reads: tuple[tuple[int, ...], ...]
    switch_frame: int | None

    @cached_property
    def first_noisy(self) -> int:
        """Index of the first noisy block."""
        return [block.kind for block in self.blocks].index("noisy")

    @cached_property
    def second_prompt(self) -> tuple[bool, ...]:
        """Per block, whether it runs under the second prompt."""
        switch = self.switch_frame
        return tuple(
            switch is not None and (block.kind == "recached" or block.frame >= switch)
            for block in self.blocks
        )


def plan_clip(
    policy: MemoryPolicy, num_frames: int, switch_frame: int | None, *, past: Past = "context"
) -> ClipPlan:
    """Lay out a clip of `num_frames` latent frames with at most one switch.

    Blocks that no noisy chunk depends on are left out.

    Args:
        policy: the memory that the stream will have.
        num_frames: a multiple of the chunk.
        switch_frame: a chunk start above 0, or None.
        past: what a chunk sees of earlier ones: clean copies, or the noisy chunks themselves.

    Raises:
        ValueError: a switch in a noisy past, which no stream has.
    """
    if past == "noisy" and switch_frame is not None:
        raise ValueError(
            f"the switch is at frame {switch_frame} and the past is noisy; a re-cache is of clean"
            " chunks, so leave the switch out"
        )
    chunk = policy.chunk_frames
    noisy = [Block("noisy", frame) for frame in range(0, num_frames, chunk)]
    sees: dict[Block, tuple[int, list[tuple[Block, int]]]] = {}
    waiting = list(noisy)
    while waiting:
        block = waiting.pop()
        if block not in sees:
            sees[block] = _look(policy, block, switch_frame, past)
            waiting += [source for source, _ in sees[block][1]]

    rank: dict[Kind, int] = {"context": 0, "recached": 1, "noisy": 2}
    blocks = sorted(sees, key=lambda block: (rank[block.kind], block.frame))
    index = {block: number for number, block in enumerate(blocks)}
    keys: dict[Read, int] = {}
    reads = tuple(
        tuple(
            keys.setdefault(Read(index[source], position), len(keys))
            for source, position in sees[block][1]
        )
        for block in blocks
    )
    return ClipPlan(
        blocks=tuple(blocks),
        positions=tuple(sees[block][0] for block in blocks),
        keys=tuple(keys),
        reads=reads,
        switch_frame=switch_frame,
    )


def _look(
    policy: MemoryPolicy, block: Block, switch_frame: int | None, past: Past
) -> tuple[int, list[tuple[Block, int]]]:
    """Where a block stands, and which blocks it sees at which positions."""
    start, length, anchors = block.frame, policy.chunk_frames, Anchors()
    rewritten: set[int] = set()
    if switch_frame is not None and (block.kind == "recached" or block.frame >= switch_frame):
        first = max(switch_frame - policy.window_frames, 0)
        seen = visible_chunks(policy, Anchors(), first, switch_frame - first)
        rewritten = {visible.frame for visible in seen if visible.frame >= first}
        if block.kind == "recached":
            start, length = first, switch_frame - first
        else:
            anchors = Anchors(junction=switch_frame)

    def source(frame: int) -> Block:
        """Which version of the chunk at `frame` is seen."""
        if frame in rewritten:
            return Block("recached", frame)
        return block if frame == block.frame else Block(past, frame)

    visible = visible_chunks(policy, anchors, start, length)
    position = query_position(policy, start, length) + block.frame - start
    return position, [(source(seen.frame), seen.position) for seen in visible]


class ClipWindow:
    """Self-attention for the blocks of a `ClipPlan`, with gradients to keys and values.

    Args:
        plan: blocks and their reads.
        grid: latent frames of a chunk, rows and columns of tokens.
        num_heads: H.
        head_dim: D.
        dtype: of the rotation tables.
        device: of the tokens.
        backend: of the kernels around attention.
    """

    def __init__(
        self,
        plan: ClipPlan,
        *,
        grid: tuple[int, int, int],
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        backend: Backend = "reference",
    ) -> None:
        self.backend: Backend = backend
        self._plan = plan
        self._num_heads = num_heads
        self._key_blocks = torch.tensor([read.block for read in plan.keys], device=device)
        self._query_tables = _block_tables(plan.positions, grid, head_dim, dtype, device)
        at = [read.position for read in plan.keys]
        self._key_tables = _block_tables(at, grid, head_dim, dtype, device)

    def layer(self, index: int) -> ClipWindow:
        """The same for every layer."""
        del index
        return self

    def attend(self, tokens: Tensor, weights: Projections) -> Tensor:
        """Tokens [B, N * T, C] of all blocks, in order, to attention's output."""
        q, k, v = (project(tokens) for project in (weights.q, weights.k, weights.v))
        eps = weights.eps
        queries = self._blocks(rms_norm(q, weights.norm_q.weight, eps))
        queries = apply_rotation(queries, *self._query_tables)
        entries = self._blocks(rms_norm(k, weights.norm_k.weight, eps))
        entries = entries.index_select(0, self._key_blocks)
        keys = apply_rotation(entries, *self._key_tables).unbind(0)
        values = self._blocks(v).unbind(0)
        out: list[Tensor] = []
        for query, reads in zip(queries.unbind(0), self._plan.reads, strict=True):
            key = torch.cat([keys[read] for read in reads], dim=-2)
            value = torch.cat([values[self._plan.keys[read].block] for read in reads], dim=-2)
            out.append(functional.scaled_dot_product_attention(query, key, value))
        return torch.cat(out, dim=-2).transpose(1, 2).flatten(-2)

    def write(self, tokens: Tensor, weights: Projections) -> None:
        """Nothing is kept: all blocks of a clip are there in each call."""

    def _blocks(self, x: Tensor) -> Tensor:
        """[B, N * T, H * D] -> [N, B, H, T, D]."""
        blocks = x.unflatten(1, (len(self._plan.blocks), -1))
        return blocks.unflatten(-1, (self._num_heads, -1)).permute(1, 0, 3, 2, 4)


def _block_tables(
    positions: Sequence[int],
    grid: tuple[int, int, int],
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device | None,
) -> tuple[Tensor, Tensor]:
    """Tables [N, 1, 1, T, D/2] that broadcast over batch and heads."""
    pairs = [rotation_tables(at, grid=grid, head_dim=head_dim, dtype=dtype) for at in positions]
    cos, sin = (
        torch.stack(tables)[:, None, None].to(device) for tables in zip(*pairs, strict=True)
    )
    return cos, sin
