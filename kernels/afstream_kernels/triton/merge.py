"""Parts of one softmax, merged by their log-sum-exp."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from afstream_kernels.triton.numerics import EMULATED, kernel, narrow

# below any sum of weights that is not 0, so that no logarithm of 0 is ever taken
TINY = tl.constexpr(1e-37)


@kernel("T", "splits")
def merge_kernel(
    part_out,  # [splits, B, T, H, D] float32
    part_lse,  # [splits, B, H, T] float32
    out,  # [B, T, H, D]
    lse,  # [B, H, T] float32
    T,
    H,
    splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    EMULATED: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < T
    batch_head = tl.program_id(1)
    batch = batch_head // H
    columns = (batch_head % H) * HEAD_DIM + tl.arange(0, HEAD_DIM)
    size = (tl.num_programs(1) // H).to(tl.int64)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], -1e30, tl.float32)
    for split in range(splits):
        place = split * size + batch
        at = part_lse + (split * tl.num_programs(1) + batch_head).to(tl.int64) * T + rows
        one = tl.load(at, inside, other=-float("inf"))
        new_peak = tl.maximum(peak, one)
        fade = tl.exp(peak - new_peak)
        weight = tl.exp(one - new_peak)
        at = part_out + (place * T + rows)[:, None] * (H * HEAD_DIM) + columns[None, :]
        acc = acc * fade[:, None] + tl.load(at, inside[:, None], other=0.0) * weight[:, None]
        total = total * fade + weight
        peak = new_peak
    sum_log = tl.where(total > 0, peak + tl.log(tl.maximum(total, TINY)), -float("inf"))
    tl.store(lse + batch_head.to(tl.int64) * T + rows, sum_log, inside)
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    at = out + (batch.to(tl.int64) * T + rows)[:, None] * (H * HEAD_DIM) + columns[None, :]
    tl.store(at, narrow(result, out.dtype.element_ty, EMULATED), inside[:, None])


def merge(part_out: Tensor, part_lse: Tensor, out: Tensor, lse: Tensor) -> None:
    """Merge parts [n, B, T, H, D] float32, [n, B, H, T] of one softmax into out and lse."""
    num_splits, batch, num_tokens, num_heads, head_dim = part_out.shape
    rows = 32
    merge_kernel[(triton.cdiv(num_tokens, rows), batch * num_heads)](
        part_out,
        part_lse,
        out,
        lse,
        num_tokens,
        num_heads,
        num_splits,
        HEAD_DIM=head_dim,
        BLOCK_M=rows,
        EMULATED=EMULATED,
    )
