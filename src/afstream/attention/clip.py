"""Attention within a whole clip, with gradients to keys and values.

A clip is a sequence of blocks of equal size. In a full clip all tokens are one block, which attends
to itself; in a block-causal one each block attends to blocks before it and to itself, each read at
a temporal position of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from afstream.attention.base import KeysValues
from afstream.attention.rope import RopeTables
from afstream_kernels import Backend, apply_rope, vendor_attention


class BlockRead(NamedTuple):
    """A block's keys, at the temporal position at which they are read."""

    block: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLayout:
    """Which blocks of a clip attend to which, and at which temporal positions.

    Attributes:
        positions: temporal position of each block's query.
        keys: every (block, position) at which keys are needed.
        reads: per block, the entries of `keys` that it sees.
    """

    positions: tuple[int, ...]
    keys: tuple[BlockRead, ...]
    reads: tuple[tuple[int, ...], ...]


# All tokens attend to each other, at their own positions.
FULL = ClipLayout(positions=(0,), keys=(BlockRead(0, 0),), reads=((0,),))


class ClipContext:
    """One model call over a clip, the same for every layer; an `AttentionContext`.

    Args:
        layout: which blocks attend to which.
        grid: latent frames, rows and columns of tokens in one block (F, R, C).
        rope: rotation tables.
        backend: of the kernels around attention.
    """

    slots = None

    def __init__(
        self,
        layout: ClipLayout,
        *,
        grid: tuple[int, int, int],
        rope: RopeTables,
        backend: Backend,
    ) -> None:
        self.backend = backend
        self._layout = layout
        # keys are rotated at the positions of their own block, and shifted to where they are read
        self.query_rope = _joined(rope, grid, layout.positions)
        self.key_rope = _joined(rope, grid, [0] * len(layout.positions))
        self._shift = rope.shift(tuple(read.position for read in layout.keys))
        self._blocks = [read.block for read in layout.keys]

    def layer(self, index: int) -> ClipContext:
        """This context, which serves every layer."""
        del index
        return self

    def attend(self, query: Tensor, own: KeysValues | None = None) -> Tensor:
        """Attend; see `LayerContext`. All keys and values are those of the call itself."""
        assert own is not None, "a clip keeps no slots"  # noqa: S101  our own mistake
        if self._layout is FULL:
            return vendor_attention(query, *own)
        num_blocks = len(self._layout.positions)
        queries, keys, values = (x.unflatten(1, (num_blocks, -1)) for x in (query, *own))
        cos, sin = (table[:, None, None] for table in self._shift)
        where = torch.tensor(self._blocks, device=query.device)
        shifted = apply_rope(keys.index_select(1, where), cos, sin).unbind(1)
        held = values.unbind(1)
        out = [
            vendor_attention(
                one,
                torch.cat([shifted[read] for read in reads], dim=1),
                torch.cat([held[self._blocks[read]] for read in reads], dim=1),
            )
            for one, reads in zip(queries.unbind(1), self._layout.reads, strict=True)
        ]
        return torch.cat(out, dim=1)


def _joined(
    rope: RopeTables, grid: tuple[int, int, int], starts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The concatenated tables of blocks that start at the given temporal positions."""
    cos, sin = zip(*(rope.block(grid, start) for start in starts), strict=True)
    return torch.cat(cos), torch.cat(sin)
