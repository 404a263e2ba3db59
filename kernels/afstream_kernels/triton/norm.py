"""RMSNorm over all heads with rotation, and LayerNorm with modulation, token by token.

Everything is computed in float32 and rounded once, when it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from afstream_kernels.host import device_ints, launched
from afstream_kernels.triton.numerics import EMULATED, jit, kernel, narrow

# programs that share the rows of a backward pass; each writes one partial sum for the weight
BACKWARD_PROGRAMS = 256
# tokens of a program: a GPU has programs enough, the interpreter's cost is per program
ROWS = 64 if EMULATED else 1


@jit
def load_pairs(at, inside, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Even and odd values [ROWS, BLOCK] of rows of interleaved pairs, in float32.

    `at` [ROWS] points at the rows, `inside` [ROWS, 2 * BLOCK] is true within them.
    """
    # read contiguously, 16 bytes a thread, and only then split into pairs
    flat = tl.load(at[:, None] + tl.arange(0, 2 * BLOCK)[None, :], inside, other=0.0)
    return tl.split(flat.to(tl.float32).reshape(ROWS, BLOCK, 2))


@jit
def store_pairs(
    at, even, odd, inside, ROWS: tl.constexpr, BLOCK: tl.constexpr, EMULATED: tl.constexpr
):
    """The opposite of `load_pairs`."""
    flat = narrow(tl.join(even, odd).reshape(ROWS, 2 * BLOCK), at.dtype.element_ty, EMULATED)
    tl.store(at[:, None] + tl.arange(0, 2 * BLOCK)[None, :], flat, inside)


@jit
def norm_rope_rows(
    source,
    target,
    weight,
    cos,
    sin,
    there,
    eps,
    C,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    """ROWS tokens: pointers to their rows [C], and to their rows [D / 2] of the tables."""
    whole = (tl.arange(0, 2 * BLOCK) < C)[None, :]
    inside = there[:, None] & whole
    even, odd = load_pairs(source, inside, ROWS, BLOCK)
    w_even, w_odd = load_pairs(weight + tl.arange(0, 1), whole, 1, BLOCK)
    scale = tl.rsqrt(tl.sum(even * even + odd * odd, 1) / C + eps)[:, None]
    # every head has the same angles, so values beyond the last head may be rotated as well
    angles = (tl.arange(0, BLOCK) % HALF)[None, :]
    c = tl.load(cos[:, None] + angles, there[:, None], other=0.0)
    s = tl.load(sin[:, None] + angles, there[:, None], other=0.0)
    even = even * scale * w_even
    odd = odd * scale * w_odd
    store_pairs(target, even * c - odd * s, even * s + odd * c, inside, ROWS, BLOCK, EMULATED)


@kernel("rows", "T")
def norm_rope_kernel(
    x,  # [rows, C]
    weight,  # [C]
    cos,  # [T, D / 2] float32
    sin,  # [T, D / 2] float32
    out,  # [rows, C]
    eps,
    rows,
    T,
    C,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    angle = (row % T) * HALF
    norm_rope_rows(
        x + row * C,
        out + row * C,
        weight,
        cos + angle,
        sin + angle,
        row < rows,
        eps,
        C,
        HALF,
        ROWS,
        BLOCK,
        EMULATED,
    )


@kernel("q_rows", "k_rows", "T", "K", "N", "R")
def norm_rope_write_kernel(
    q,  # [q_rows, C], q_rows = B * T
    k,  # [k_rows, C], k_rows = B * K
    q_weight,  # [C]
    k_weight,  # [C]
    cos,  # [T, D / 2] float32
    sin,  # [T, D / 2] float32
    q_out,  # [q_rows, C]
    keys,  # [B * N, R, C]
    slots,  # [K / R] int32
    eps,
    q_rows,
    k_rows,
    T,
    K,
    N,
    R,
    C,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(1) == 0:
        angle = (row % T) * HALF
        norm_rope_rows(
            q + row * C,
            q_out + row * C,
            q_weight,
            cos + angle,
            sin + angle,
            row < q_rows,
            eps,
            C,
            HALF,
            ROWS,
            BLOCK,
            EMULATED,
        )
    else:
        there = row < k_rows
        token = row % K
        angle = (token % R) * HALF
        place = (row // K) * N + tl.load(slots + token // R, there, other=0)
        norm_rope_rows(
            k + row * C,
            keys + (place * R + token % R) * C,
            k_weight,
            cos + angle,
            sin + angle,
            there,
            eps,
            C,
            HALF,
            ROWS,
            BLOCK,
            EMULATED,
        )


@kernel("rows", "T")
def norm_rope_backward_kernel(
    x,  # [rows, C]
    weight,  # [C]
    cos,  # [T, D / 2] float32
    sin,  # [T, D / 2] float32
    grad,  # [rows, C]
    to_x,  # [rows, C]
    to_weight,  # [programs, C] float32
    eps,
    rows,
    T,
    C,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    one = tl.arange(0, 1)
    angles = (tl.arange(0, BLOCK) % HALF)[None, :]
    inside = (tl.arange(0, 2 * BLOCK) < C)[None, :]
    w_even, w_odd = load_pairs(weight + one, inside, 1, BLOCK)
    sum_even = tl.zeros([1, BLOCK], tl.float32)
    sum_odd = tl.zeros([1, BLOCK], tl.float32)
    for index in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(index, tl.int64)
        at = row * C + one
        c = tl.load(cos + (row % T) * HALF + angles)
        s = tl.load(sin + (row % T) * HALF + angles)
        even, odd = load_pairs(x + at, inside, 1, BLOCK)
        scale = tl.rsqrt(tl.sum(even * even + odd * odd, 1) / C + eps)[:, None]
        even *= scale
        odd *= scale
        up_even, up_odd = load_pairs(grad + at, inside, 1, BLOCK)
        g_even = up_even * c + up_odd * s
        g_odd = up_odd * c - up_even * s
        sum_even += g_even * even
        sum_odd += g_odd * odd
        g_even *= w_even
        g_odd *= w_odd
        mean = (tl.sum(g_even * even + g_odd * odd, 1) / C)[:, None]
        to_even = (g_even - even * mean) * scale
        to_odd = (g_odd - odd * mean) * scale
        store_pairs(to_x + at, to_even, to_odd, inside, 1, BLOCK, EMULATED)
    at = to_weight + tl.program_id(0).to(tl.int64) * C + one
    store_pairs(at, sum_even, sum_odd, inside, 1, BLOCK, EMULATED)


@kernel("rows", "F", "P")
def modulate_kernel(
    x,  # [rows, C], rows = B * F * P
    shift,  # [B, F, 1, C], of any strides
    scale,  # [B, F, 1, C], of any strides
    out,  # [rows, C]
    eps,
    rows,
    F,
    P,
    C,
    shift_batch,
    shift_frame,
    shift_column,
    scale_batch,
    scale_frame,
    scale_column,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    frame = row // P
    shift += (frame // F) * shift_batch + (frame % F) * shift_frame
    scale += (frame // F) * scale_batch + (frame % F) * scale_frame
    columns = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (columns < C)[None, :]
    at = row[:, None] * C + columns[None, :]
    values = tl.load(x + at, inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, values - (tl.sum(values, 1) / C)[:, None], 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)[:, None]
    gain = 1 + tl.load(scale[:, None] + columns * scale_column, inside, other=0.0).to(tl.float32)
    bias = tl.load(shift[:, None] + columns * shift_column, inside, other=0.0).to(tl.float32)
    tl.store(out + at, narrow(normed * gain + bias, out.dtype.element_ty, EMULATED), inside)


@launched
def norm_rope(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float
) -> Tensor:
    """See `afstream_kernels.norm_rope`."""
    batch, num_tokens, width = x.shape
    out = x.new_empty(batch, num_tokens, num_heads, width // num_heads)
    rows = batch * num_tokens
    norm_rope_kernel[(math.ceil(rows / ROWS),)](
        x,
        weight,
        cos,
        sin,
        out,
        eps,
        rows,
        num_tokens,
        width,
        HALF=cos.shape[-1],
        ROWS=ROWS,
        BLOCK=triton.next_power_of_2(width // 2),
        EMULATED=EMULATED,
    )
    return out


@launched
def norm_rope_write(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    slots: Sequence[int],
    eps: float,
) -> Tensor:
    """See `afstream_kernels.norm_rope_write`."""
    batch, num_tokens, width = q.shape
    _, num_slots, slot_tokens, num_heads, head_dim = keys.shape
    num_keys = k.shape[1]
    out = q.new_empty(batch, num_tokens, num_heads, head_dim)
    q_rows, k_rows = batch * num_tokens, batch * num_keys
    norm_rope_write_kernel[(math.ceil(max(q_rows, k_rows) / ROWS), 2)](
        q,
        k,
        q_weight,
        k_weight,
        cos,
        sin,
        out,
        keys,
        device_ints(tuple(slots), q.device),
        eps,
        q_rows,
        k_rows,
        num_tokens,
        max(num_keys, 1),
        num_slots,
        slot_tokens,
        width,
        HALF=cos.shape[-1],
        ROWS=ROWS,
        BLOCK=triton.next_power_of_2(width // 2),
        EMULATED=EMULATED,
    )
    return out


@launched
def norm_rope_backward(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, grad: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x [B, T, C] and of weight [C], from that of the output [B, T, H, D]."""
    batch, num_tokens, width = x.shape
    rows = batch * num_tokens
    programs = min(rows, BACKWARD_PROGRAMS)
    to_x = torch.empty_like(x)
    parts = x.new_empty(programs, width, dtype=torch.float32)
    norm_rope_backward_kernel[(programs,)](
        x,
        weight,
        cos,
        sin,
        grad,
        to_x,
        parts,
        eps,
        rows,
        num_tokens,
        width,
        HALF=cos.shape[-1],
        BLOCK=triton.next_power_of_2(width // 2),
        EMULATED=EMULATED,
    )
    return to_x, parts.sum(0).to(weight.dtype)


@launched
def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `afstream_kernels.modulate`."""
    batch, num_frames, num_patches, width = x.shape
    out = torch.empty_like(x)
    # repeated by strides of 0 and read in place: both are slices of one projection
    shift, scale = (vector.expand(batch, num_frames, 1, width) for vector in (shift, scale))
    rows = batch * num_frames * num_patches
    modulate_kernel[(math.ceil(rows / ROWS),)](
        x,
        shift,
        scale,
        out,
        eps,
        rows,
        num_frames,
        num_patches,
        width,
        *(vector.stride(axis) for vector in (shift, scale) for axis in (0, 1, 3)),
        ROWS=ROWS,
        BLOCK=triton.next_power_of_2(width),
        EMULATED=EMULATED,
    )
    return out
