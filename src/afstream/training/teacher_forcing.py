"""Teacher forcing: whole clips in one call, every chunk seeing the clean past it would see.

A call holds three kinds of chunks of the same clip: *context* chunks (clean, timestep 0),
*re-cached* chunks (the clean past of a prompt switch under the new prompt) and *noisy*
chunks, whose flow is learned. Who sees whom, and at which positions, comes from
the memory policy, as in a stream; only the layout differs, all chunks side by side.

In the block-causal calls of ODE regression the noisy chunks are each other's past, and there
is no other kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from afstream.attention.clip import BlockRead, ClipLayout
from afstream.kvcache.policy import MemoryPolicy

Kind = Literal["context", "recached", "noisy"]
Past = Literal["context", "noisy"]


class Block(NamedTuple):
    """One chunk of the call: its kind and its first latent frame in the clip."""

    kind: Kind
    frame: int


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """The blocks of a call, their positions, and which blocks each sees.

    Context chunks come first, then re-cached ones, then noisy ones; `switch_frame` is the first
    latent frame under the second prompt, None without a switch.
    """

    blocks: tuple[Block, ...]
    layout: ClipLayout
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
    policy: MemoryPolicy,
    num_frames: int,
    switch_frame: int | None,
    *,
    past: Past = "context",
    learned: Sequence[int] | None = None,
) -> ClipPlan:
    """Lay out a clip of `num_frames` latent frames with at most one switch, at a chunk start.

    A chunk sees of earlier ones either clean copies or the noisy chunks themselves. Noisy are all
    chunks of the clip, or those that begin at the frames `learned`. Blocks that no noisy chunk
    depends on are left out.

    Raises:
        ValueError: a switch in a noisy past, which no stream has.
    """
    if past == "noisy" and switch_frame is not None:
        raise ValueError(
            f"the switch is at frame {switch_frame} and the past is noisy; a re-cache is of clean"
            " chunks, so leave the switch out"
        )
    chunk = policy.lengths.chunk_frames
    frames = range(0, num_frames, chunk) if learned is None else learned
    noisy = [Block("noisy", frame) for frame in frames]
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
    keys: dict[BlockRead, int] = {}
    reads = tuple(
        tuple(
            keys.setdefault(BlockRead(index[source], position), len(keys))
            for source, position in sees[block][1]
        )
        for block in blocks
    )
    return ClipPlan(
        blocks=tuple(blocks),
        layout=ClipLayout(
            positions=tuple(sees[block][0] for block in blocks), keys=tuple(keys), reads=reads
        ),
        switch_frame=switch_frame,
    )


def _look(
    policy: MemoryPolicy, block: Block, switch_frame: int | None, past: Past
) -> tuple[int, list[tuple[Block, int]]]:
    """Position of a block, and the blocks that it sees, each at a position."""
    start, length, anchors = block.frame, policy.lengths.chunk_frames, policy.start()
    rewritten: tuple[int, ...] = ()
    if switch_frame is not None and (block.kind == "recached" or block.frame >= switch_frame):
        recache = policy.switch(anchors, switch_frame)
        if recache is not None:
            rewritten = recache.rewritten
        if block.kind == "recached" and recache is not None:
            start, length = recache.frame, recache.num_frames
        else:
            policy.promote(anchors, switch_frame)

    def source(frame: int) -> Block:
        """Which version of the chunk at `frame` is seen."""
        if frame in rewritten:
            return Block("recached", frame)
        return block if frame == block.frame else Block(past, frame)

    visible = policy.visible(anchors, start, length)
    position = policy.query_position(start, length) + block.frame - start
    return position, [(source(seen.frame), seen.position) for seen in visible]
