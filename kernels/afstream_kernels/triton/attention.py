"""Attention over slots, forward: one launch over all slots.

Scores live in base 2: the query carries scale * log2(e), so that a weight is one exp2.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from afstream_kernels.host import launched
from afstream_kernels.triton.merge import TINY, merge
from afstream_kernels.triton.numerics import EMULATED, dot, jit, kernel, narrow, rotate
from afstream_kernels.triton.tiles import Tile, capability, forward_tile

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))
# a launch is split along the keys if that fills the multiprocessors this much better
SPLIT_GAIN = 1.05
MAX_SPLITS = 8


@jit
def load_tile(
    source,  # descriptor or pointer, [places, length, width]
    place,
    row,
    column,
    length,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TMA: tl.constexpr,
):
    """Rows row .. row + ROWS - 1 and COLUMNS columns of one place; 0 beyond its length."""
    if TMA:
        tile = source.load([place, row, column]).reshape(ROWS, COLUMNS)
    else:
        rows = tl.arange(0, ROWS)
        base = source + (place.to(tl.int64) * length + row) * width + column
        at = base + rows[:, None] * width + tl.arange(0, COLUMNS)[None, :]
        tile = tl.load(at, mask=(row + rows < length)[:, None], other=0.0)
    return tile


@jit
def shifted_query(
    q,  # descriptor or pointer, [B, T, C]
    cos,  # [S, D / 2] float32
    sin,  # [S, D / 2] float32
    entry,
    S,
    scale_log2,
    batch,
    first,
    column,
    T,
    width,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TMA: tl.constexpr,
    EMULATED: tl.constexpr,
):
    """Queries [M, D], scaled and shifted to one entry of the block table; 0 beyond its end."""
    pairs = tl.arange(0, HEAD_DIM // 2)
    at = entry * (HEAD_DIM // 2) + pairs
    inside = at < S * (HEAD_DIM // 2)
    c = tl.load(cos + at, inside, other=0.0)[None, :] * scale_log2
    s = tl.load(sin + at, inside, other=0.0)[None, :] * scale_log2
    plain = load_tile(q, batch, first, column, T, width, BLOCK_M, HEAD_DIM, TMA)
    shifted = rotate(plain.to(tl.float32), c, s, BLOCK_M, HEAD_DIM)
    return narrow(shifted, plain.dtype, EMULATED)


@jit
def score_tile(q, keys, row, length, BLOCK_N: tl.constexpr, EMULATED: tl.constexpr):
    """Scores [M, N] of one tile of keys, minus infinity beyond the slot's length."""
    scores = dot(q, keys.T, tl.zeros([q.shape[0], BLOCK_N], tl.float32), EMULATED)
    # a branch, not a second loop for the last tile: that one took registers until it spilled
    if row + BLOCK_N > length:
        scores = tl.where((row + tl.arange(0, BLOCK_N) < length)[None, :], scores, -float("inf"))
    return scores


@kernel("T", "R", "S", "N")
def forward_kernel(
    q,  # [B, T, C]
    keys,  # [B * N, R, C]
    values,  # [B * N, R, C]
    slots,  # [S] int32
    cos,  # [S, D / 2] float32
    sin,  # [S, D / 2] float32
    out,  # [splits, B, T, C]
    lse,  # [splits, B, H, T] float32
    scale_log2,
    T,
    R,
    S,
    N,
    H,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TMA: tl.constexpr,
    CARRIED: tl.constexpr,
    EMULATED: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_M
    batch = tl.program_id(1) // H
    head = tl.program_id(1) % H
    width = H * HEAD_DIM
    column = head * HEAD_DIM
    tiles = tl.cdiv(R, BLOCK_N)
    share = tl.cdiv(S * tiles, tl.num_programs(2))
    start = tl.program_id(2) * share

    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    # not minus infinity: a row that sees nothing would take a difference of infinities
    peak = tl.full([BLOCK_M], -1e30, tl.float32)
    # made within the loop, it would stand in registers, and Hopper's matrix instructions would wait
    # for each other; a value that the loop carries stands in shared memory
    if CARRIED:
        query = shifted_query(
            *(q, cos, sin, 0, S, scale_log2, batch, first, column, T, width),
            *(HEAD_DIM, BLOCK_M, TMA, EMULATED),
        )
    for entry in range(S):
        slot = tl.load(slots + entry)
        low = tl.maximum(start - entry * tiles, 0)
        high = tl.minimum(start + share - entry * tiles, tiles)
        high = tl.where(slot >= 0, high, 0)
        if not CARRIED:
            query = shifted_query(
                *(q, cos, sin, entry, S, scale_log2, batch, first, column, T, width),
                *(HEAD_DIM, BLOCK_M, TMA, EMULATED),
            )
        place = batch * N + slot
        for tile in tl.range(low, high):
            row = tile * BLOCK_N
            key = load_tile(keys, place, row, column, R, width, BLOCK_N, HEAD_DIM, TMA)
            scores = score_tile(query, key, row, R, BLOCK_N, EMULATED)
            new_peak = tl.maximum(peak, tl.max(scores, 1))
            fade = tl.exp2(peak - new_peak)
            weights = tl.exp2(scores - new_peak[:, None])
            total = total * fade + tl.sum(weights, 1)
            acc = acc * fade[:, None]
            value = load_tile(values, place, row, column, R, width, BLOCK_N, HEAD_DIM, TMA)
            acc = dot(narrow(weights, value.dtype, EMULATED), value, acc, EMULATED)
            peak = new_peak
        if CARRIED:
            query = shifted_query(
                *(q, cos, sin, entry + 1, S, scale_log2, batch, first, column, T, width),
                *(HEAD_DIM, BLOCK_M, TMA, EMULATED),
            )

    rows = first + tl.arange(0, BLOCK_M)
    inside = rows < T
    part = (tl.program_id(2) * (tl.num_programs(1) // H) + batch).to(tl.int64)
    sum_log2 = tl.where(total > 0, peak + tl.log2(tl.maximum(total, TINY)), -float("inf"))
    tl.store(lse + (part * H + head) * T + rows, sum_log2 * LN_2, inside)
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    at = out + (part * T + rows)[:, None] * width + column + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(at, narrow(result, out.dtype.element_ty, EMULATED), inside[:, None])


def blocks(x: Tensor, rows: int, columns: int, *, descriptors: bool) -> Tensor | TensorDescriptor:
    """The arguments with which a kernel reads x [places, length, width] in tiles."""
    return TensorDescriptor.from_tensor(x, [1, rows, columns]) if descriptors else x


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def choose_splits(programs: int, multiprocessors: int) -> int:
    """Into how many parts to split the keys, so that the last wave of programs is full enough.

    The fewest splits that come within `SPLIT_GAIN` of the best filling.
    """

    def filling(splits: int) -> float:
        waves = programs * splits / multiprocessors
        return waves / math.ceil(waves)

    best = max(filling(splits) for splits in range(1, MAX_SPLITS + 1))
    return next(n for n in range(1, MAX_SPLITS + 1) if filling(n) * SPLIT_GAIN >= best)


@launched
def forward(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    cos: Tensor,
    sin: Tensor,
    own: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None,
    *,
    num_splits: int = 0,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """See `afstream_kernels.slot_attention`; num_splits 0 chooses by the number of programs.

    The block's own keys come as a slot too, like the arguments from keys to sin.
    """
    batch, num_tokens, num_heads, _ = q.shape
    tile = tile or forward_tile(q.dtype)
    if not num_splits:
        programs = math.ceil(num_tokens / tile.rows) * batch * num_heads
        num_splits = choose_splits(programs, _multiprocessors(q.device)) if capability() else 1
    num_own = 0 if own is None else 1
    if num_own and not slots.shape[0]:
        num_splits = 0

    out = torch.empty_like(q)
    lse = q.new_empty(batch, num_heads, num_tokens, dtype=torch.float32)
    part_out, part_lse = out[None], lse[None]
    if num_own + num_splits > 1:
        # in float32: rounded once more on the way, a half-precision result would err a fifth more
        part_out = q.new_empty(num_own + num_splits, *q.shape, dtype=torch.float32)
        part_lse = lse.new_empty(num_own + num_splits, *lse.shape)
    if own is not None:
        _launch(q, *own, part_out[:1], part_lse[:1], tile)
    if num_splits:
        _launch(q, keys, values, slots, cos, sin, part_out[num_own:], part_lse[num_own:], tile)
    if num_own + num_splits > 1:
        merge(part_out, part_lse, out, lse)
    return out, lse


def _launch(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    cos: Tensor,
    sin: Tensor,
    part_out: Tensor,
    part_lse: Tensor,
    tile: Tile,
) -> None:
    """Launch once; the keys are split into n parts [n, B, T, H, D] and [n, B, H, T]."""
    batch, num_tokens, num_heads, head_dim = q.shape
    _, num_slots, slot_tokens, _, _ = keys.shape
    tma = tile.descriptors
    width = num_heads * head_dim
    held = (batch * num_slots, slot_tokens, width)
    query_tiles = math.ceil(num_tokens / tile.rows)
    forward_kernel[(query_tiles, batch * num_heads, part_out.shape[0])](
        blocks(q.view(batch, num_tokens, width), tile.rows, head_dim, descriptors=tma),
        blocks(keys.view(held), tile.columns, head_dim, descriptors=tma),
        blocks(values.view(held), tile.columns, head_dim, descriptors=tma),
        slots,
        cos,
        sin,
        part_out,
        part_lse,
        LOG2_E / math.sqrt(head_dim),
        num_tokens,
        slot_tokens,
        slots.shape[0],
        num_slots,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        TMA=tma,
        CARRIED=tile.carried,
        EMULATED=EMULATED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
