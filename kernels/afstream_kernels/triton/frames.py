"""RMSNorm and SiLU of frames, channels last, written behind the frames before them; and sums.

Everything is computed in float32 and rounded once, when it is stored.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from afstream_kernels.reference import SMALLEST_LENGTH
from afstream_kernels.triton.numerics import EMULATED, jit, kernel, narrow

# values of a program: pixels times channels, these rounded up to a power of two
TILE = 4096


@jit
def sum_of(x, bias, residual, at, columns, inside, C):
    """Values of x at offsets [ROWS, BLOCK] plus what is to be added to them, in float32."""
    total = tl.load(x + at, inside, other=0.0).to(tl.float32)
    if bias is not None:
        total += tl.load(bias + columns, columns < C, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        total += tl.load(residual + at, inside, other=0.0).to(tl.float32)
    return total


@kernel("P", "T")
def norm_silu_kernel(
    x,  # [B, T, P, C]
    weight,  # [C]
    past,  # [B, PAST, P, C]
    bias,  # [C] or None
    residual,  # [B, T, P, C] or None
    total,  # [B, T, P, C], may be x; or None
    frames,  # [B, PAST + T, P, C]
    last,  # [B, PAST, P, C]
    smallest,
    P,
    T,
    C,
    PAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    place = tl.program_id(1).to(tl.int64)
    batch = place // (PAST + T)
    frame = place % (PAST + T)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (row < P)[:, None] & (columns < C)[None, :]
    at = row[:, None] * C + columns[None, :]
    size = tl.cast(P, tl.int64) * C
    if frame < PAST:
        made = tl.load(past + (batch * PAST + frame) * size + at, inside)
    else:
        here = (batch * T + frame - PAST) * size + at
        values = sum_of(x, bias, residual, here, columns, inside, C)
        if total is not None:
            rounded = narrow(values, total.dtype.element_ty, EMULATED)
            tl.store(total + here, rounded, inside)
        length = tl.maximum(tl.sqrt(tl.sum(values * values, 1)), smallest)
        gain = tl.load(weight + columns, columns < C, other=0.0).to(tl.float32)
        normed = values * (tl.sqrt(tl.cast(C, tl.float32)) / length)[:, None] * gain[None, :]
        # silu(y) = y / (1 + exp(-y))
        made = narrow(normed / (1 + tl.exp(-normed)), frames.dtype.element_ty, EMULATED)
    tl.store(frames + place * size + at, made, inside)
    if frame >= T:
        tl.store(last + (batch * PAST + frame - T) * size + at, made, inside)


@kernel("rows")
def add_up_kernel(
    x,  # [rows, C]
    bias,  # [C]
    residual,  # [rows, C]
    rows,
    C,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (columns < C)[None, :]
    at = row[:, None] * C + columns[None, :]
    total = sum_of(x, bias, residual, at, columns, inside, C)
    tl.store(x + at, narrow(total, x.dtype.element_ty, EMULATED), inside)


def norm_silu(
    x: Tensor,
    weight: Tensor,
    past: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    total: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `afstream_kernels.norm_silu`; the sum goes into `total`, which may be x."""
    batch, num_frames, height, width, channels = x.shape
    num_past = past.shape[1]
    frames = x.new_empty(batch, num_past + num_frames, height, width, channels)
    last = torch.empty_like(past)
    block = triton.next_power_of_2(channels)
    rows = max(TILE // block, 1)
    norm_silu_kernel[(math.ceil(height * width / rows), batch * (num_past + num_frames))](
        x,
        weight,
        past,
        bias,
        residual,
        total,
        frames,
        last,
        SMALLEST_LENGTH,
        height * width,
        num_frames,
        channels,
        PAST=num_past,
        ROWS=rows,
        BLOCK=block,
        EMULATED=EMULATED,
    )
    return frames, last


def add_up(x: Tensor, bias: Tensor, residual: Tensor) -> None:
    """See `afstream_kernels.add_up`."""
    channels = x.shape[-1]
    block = triton.next_power_of_2(channels)
    num_rows, rows = x.numel() // channels, max(TILE // block, 1)
    add_up_kernel[(math.ceil(num_rows / rows),)](
        x, bias, residual, num_rows, channels, ROWS=rows, BLOCK=block, EMULATED=EMULATED
    )
