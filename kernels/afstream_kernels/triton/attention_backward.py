"""Attention over slots, backward: gradients of the queries and of the block's own keys.

With weights w = exp(scores - lse) and delta = sum(out * grad), the gradient of a score is
w * (grad . value - delta). Cached slots carry no gradient, so their share of the keys' and
values' gradients is never computed: 3 products over all keys and 4 over the block's own, where an
ordinary backward pass with recomputation makes 7 over all keys.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from afstream_kernels.host import launched
from afstream_kernels.triton.attention import LOG2_E, blocks, load_tile, score_tile
from afstream_kernels.triton.numerics import EMULATED, dot, kernel, narrow, rotate
from afstream_kernels.triton.tiles import backward_tile


@kernel("T", "R", "S", "N")
def to_queries_kernel(
    q,  # [B, T, C]
    keys,  # [B * N, R, C]
    values,  # [B * N, R, C]
    grad,  # [B, T, C]
    slots,  # [S] int32
    cos,  # [S, D / 2] float32
    sin,  # [S, D / 2] float32
    lse,  # [B, H, T] float32
    delta,  # [B, H, T] float32
    to_q,  # [B, T, C] float32
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
    EMULATED: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_M
    batch = tl.program_id(1) // H
    width = H * HEAD_DIM
    column = (tl.program_id(1) % H) * HEAD_DIM
    pairs = tl.arange(0, HEAD_DIM // 2)
    rows = first + tl.arange(0, BLOCK_M)
    inside = rows < T
    per_row = tl.program_id(1).to(tl.int64) * T + rows
    # a row outside has weight 0 everywhere
    log2_sum = tl.load(lse + per_row, inside, other=float("inf")) * 1.4426950408889634
    row_delta = tl.load(delta + per_row, inside, other=0.0)
    upstream = load_tile(grad, batch, first, column, T, width, BLOCK_M, HEAD_DIM, TMA)
    at = to_q + (batch.to(tl.int64) * T + rows)[:, None] * width + column
    at += tl.arange(0, HEAD_DIM)[None, :]
    for entry in range(S):
        slot = tl.load(slots + entry)
        c = tl.load(cos + entry * (HEAD_DIM // 2) + pairs)[None, :]
        s = tl.load(sin + entry * (HEAD_DIM // 2) + pairs)[None, :]
        plain = load_tile(q, batch, first, column, T, width, BLOCK_M, HEAD_DIM, TMA)
        shifted = rotate(plain.to(tl.float32), c * scale_log2, s * scale_log2, BLOCK_M, HEAD_DIM)
        query = narrow(shifted, plain.dtype, EMULATED)
        place = batch * N + slot
        acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
        for tile in tl.range(0, tl.where(slot >= 0, tl.cdiv(R, BLOCK_N), 0)):
            row = tile * BLOCK_N
            key = load_tile(keys, place, row, column, R, width, BLOCK_N, HEAD_DIM, TMA)
            scores = score_tile(query, key, row, R, BLOCK_N, EMULATED)
            weights = tl.exp2(scores - log2_sum[:, None])
            value = load_tile(values, place, row, column, R, width, BLOCK_N, HEAD_DIM, TMA)
            zeros = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            to_weights = dot(upstream, value.T, zeros, EMULATED)
            to_scores = weights * (to_weights - row_delta[:, None])
            acc = dot(narrow(to_scores, key.dtype, EMULATED), key, acc, EMULATED)
        # the sum over slots is kept in memory: a second accumulator would spill
        back = rotate(acc, c, -s, BLOCK_M, HEAD_DIM) * (scale_log2 / 1.4426950408889634)
        back += tl.load(at, inside[:, None], other=0.0)
        tl.store(at, back, inside[:, None])


@kernel("T", "K")
def to_own_kernel(
    q,  # [B, T, C]
    keys,  # [B, K, C]
    values,  # [B, K, C]
    grad,  # [B, T, C]
    lse,  # [B, H, T] float32
    delta,  # [B, H, T] float32
    to_keys,  # [B, K, C]
    to_values,  # [B, K, C]
    scale,
    T,
    K,
    H,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TMA: tl.constexpr,
    EMULATED: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_N
    batch = tl.program_id(1) // H
    width = H * HEAD_DIM
    column = (tl.program_id(1) % H) * HEAD_DIM
    key = load_tile(keys, batch, first, column, K, width, BLOCK_N, HEAD_DIM, TMA)
    value = load_tile(values, batch, first, column, K, width, BLOCK_N, HEAD_DIM, TMA)
    to_key = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    to_value = tl.zeros([BLOCK_N, HEAD_DIM], tl.float32)
    zeros = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for tile in tl.range(0, tl.cdiv(T, BLOCK_M)):
        rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        per_row = tl.program_id(1).to(tl.int64) * T + rows
        log2_sum = tl.load(lse + per_row, rows < T, other=float("inf")) * 1.4426950408889634
        row_delta = tl.load(delta + per_row, rows < T, other=0.0)
        query = load_tile(q, batch, tile * BLOCK_M, column, T, width, BLOCK_M, HEAD_DIM, TMA)
        up = load_tile(grad, batch, tile * BLOCK_M, column, T, width, BLOCK_M, HEAD_DIM, TMA)
        scores = dot(key, query.T, zeros, EMULATED) * (scale * 1.4426950408889634)
        weights = tl.exp2(scores - log2_sum[None, :])
        to_value = dot(narrow(weights, up.dtype, EMULATED), up, to_value, EMULATED)
        to_scores = weights * (dot(value, up.T, zeros, EMULATED) - row_delta[None, :])
        to_key = dot(narrow(to_scores, query.dtype, EMULATED), query, to_key, EMULATED)
    rows = first + tl.arange(0, BLOCK_N)
    at = (batch.to(tl.int64) * K + rows)[:, None] * width + column
    at += tl.arange(0, HEAD_DIM)[None, :]
    inside = (rows < K)[:, None]
    tl.store(to_keys + at, narrow(to_key * scale, to_keys.dtype.element_ty, EMULATED), inside)
    tl.store(to_values + at, narrow(to_value, to_values.dtype.element_ty, EMULATED), inside)


@launched
def to_queries(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    tables: tuple[Tensor, Tensor],
    grad: Tensor,
    lse: Tensor,
    delta: Tensor,
    to_q: Tensor,
) -> None:
    """Add the queries' gradient over all slots to to_q [B, T, H, D] float32."""
    batch, num_tokens, num_heads, head_dim = q.shape
    _, num_slots, slot_tokens, _, _ = keys.shape
    width = num_heads * head_dim
    tile = backward_tile(q.dtype)
    tma = tile.descriptors
    own, held = (batch, num_tokens, width), (batch * num_slots, slot_tokens, width)
    to_queries_kernel[(triton.cdiv(num_tokens, tile.rows), batch * num_heads)](
        blocks(q.view(own), tile.rows, head_dim, descriptors=tma),
        blocks(keys.view(held), tile.columns, head_dim, descriptors=tma),
        blocks(values.view(held), tile.columns, head_dim, descriptors=tma),
        blocks(grad.view(own), tile.rows, head_dim, descriptors=tma),
        slots,
        *tables,
        lse,
        delta,
        to_q,
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
        EMULATED=EMULATED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@launched
def to_own(
    q: Tensor, keys: Tensor, values: Tensor, grad: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the block's own keys and values [B, K, H, D]."""
    batch, num_tokens, num_heads, head_dim = q.shape
    num_keys = keys.shape[1]
    width = num_heads * head_dim
    tile = backward_tile(q.dtype)
    tma = tile.descriptors
    to_keys, to_values = torch.empty_like(keys), torch.empty_like(values)
    own, held = (batch, num_tokens, width), (batch, num_keys, width)
    to_own_kernel[(triton.cdiv(num_keys, tile.columns), batch * num_heads)](
        blocks(q.view(own), tile.rows, head_dim, descriptors=tma),
        blocks(keys.view(held), tile.columns, head_dim, descriptors=tma),
        blocks(values.view(held), tile.columns, head_dim, descriptors=tma),
        blocks(grad.view(own), tile.rows, head_dim, descriptors=tma),
        lse,
        delta,
        to_keys,
        to_values,
        1 / math.sqrt(head_dim),
        num_tokens,
        num_keys,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        TMA=tma,
        EMULATED=EMULATED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return to_keys, to_values
