"""RMSNorm over all heads with rotation, and LayerNorm with modulation: one program a token.

Everything is computed in float32 and rounded once, when it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from afstream_kernels.triton.host import device_ints
from afstream_kernels.triton.numerics import EMULATED, jit, narrow

# programs that share the rows of a backward pass; each leaves one partial sum for the weight
BACKWARD_PROGRAMS = 256


@jit
def load_pairs(at, pairs, inside):
    """The even and the odd values of a row of interleaved pairs, in float32."""
    both = at + 2 * pairs[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(both, inside[:, None], other=0.0).to(tl.float32))


@jit
def store_pairs(at, even, odd, pairs, inside, EMULATED: tl.constexpr):
    """The opposite of `load_pairs`."""
    both = at + 2 * pairs[:, None] + tl.arange(0, 2)[None, :]
    tl.store(both, narrow(tl.join(even, odd), at.dtype.element_ty, EMULATED), inside[:, None])


@jit
def norm_rotate_row(
    source,
    target,
    weight,
    cos,
    sin,
    eps,
    C,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    """One token: cos and sin point at its row [D / 2]."""
    pairs = tl.arange(0, BLOCK)
    inside = pairs < C // 2
    even, odd = load_pairs(source, pairs, inside)
    w_even, w_odd = load_pairs(weight, pairs, inside)
    scale = tl.rsqrt(tl.sum(even * even + odd * odd, 0) / C + eps)
    c = tl.load(cos + pairs % HALF, inside, other=0.0)
    s = tl.load(sin + pairs % HALF, inside, other=0.0)
    even = even * scale * w_even
    odd = odd * scale * w_odd
    store_pairs(target, even * c - odd * s, even * s + odd * c, pairs, inside, EMULATED)


@jit
def norm_rotate_kernel(
    x,  # [B * T, C]
    weight,  # [C]
    cos,  # [T, D / 2] float32
    sin,  # [T, D / 2] float32
    out,  # [B * T, C]
    eps,
    T,
    C,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    angle = (row % T) * HALF
    norm_rotate_row(
        x + row * C, out + row * C, weight, cos + angle, sin + angle, eps, C, HALF, BLOCK, EMULATED
    )


@jit
def norm_rotate_write_kernel(
    q,  # [B * T, C]
    k,  # [B * K, C]
    q_weight,  # [C]
    k_weight,  # [C]
    cos,  # [T, D / 2] float32
    sin,  # [T, D / 2] float32
    q_out,  # [B * T, C]
    keys,  # [B * N, R, C]
    slots,  # [K / R] int32
    eps,
    B,
    T,
    K,
    N,
    R,
    C,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if row < B * T:
        angle = (row % T) * HALF
        norm_rotate_row(
            q + row * C,
            q_out + row * C,
            q_weight,
            cos + angle,
            sin + angle,
            eps,
            C,
            HALF,
            BLOCK,
            EMULATED,
        )
    else:
        row -= B * T
        token = row % K
        angle = (token % R) * HALF
        place = (row // K) * N + tl.load(slots + token // R)
        target = keys + (place * R + token % R) * C
        norm_rotate_row(
            k + row * C, target, k_weight, cos + angle, sin + angle, eps, C, HALF, BLOCK, EMULATED
        )


@jit
def norm_rotate_backward_kernel(
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
    pairs = tl.arange(0, BLOCK)
    inside = pairs < C // 2
    w_even, w_odd = load_pairs(weight, pairs, inside)
    sum_even = tl.zeros([BLOCK], tl.float32)
    sum_odd = tl.zeros([BLOCK], tl.float32)
    for index in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(index, tl.int64)
        c = tl.load(cos + (row % T) * HALF + pairs % HALF, inside, other=0.0)
        s = tl.load(sin + (row % T) * HALF + pairs % HALF, inside, other=0.0)
        even, odd = load_pairs(x + row * C, pairs, inside)
        scale = tl.rsqrt(tl.sum(even * even + odd * odd, 0) / C + eps)
        even *= scale
        odd *= scale
        up_even, up_odd = load_pairs(grad + row * C, pairs, inside)
        g_even = up_even * c + up_odd * s
        g_odd = up_odd * c - up_even * s
        sum_even += g_even * even
        sum_odd += g_odd * odd
        g_even *= w_even
        g_odd *= w_odd
        mean = tl.sum(g_even * even + g_odd * odd, 0) / C
        to_even = (g_even - even * mean) * scale
        to_odd = (g_odd - odd * mean) * scale
        store_pairs(to_x + row * C, to_even, to_odd, pairs, inside, EMULATED)
    at = to_weight + tl.program_id(0).to(tl.int64) * C
    store_pairs(at, sum_even, sum_odd, pairs, inside, EMULATED)


@jit
def modulate_kernel(
    x,  # [B, F, P, C]
    shift,  # [B or 1, F or 1, 1, C]
    scale,  # [B or 1, F or 1, 1, C]
    out,  # [B, F, P, C]
    eps,
    F,
    P,
    C,
    shift_batch,
    shift_frame,
    shift_column,
    scale_batch,
    scale_frame,
    scale_column,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    frame = row // P
    shift += (frame // F) * shift_batch + (frame % F) * shift_frame
    scale += (frame // F) * scale_batch + (frame % F) * scale_frame
    columns = tl.arange(0, BLOCK)
    inside = columns < C
    values = tl.load(x + row * C + columns, inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, values - tl.sum(values, 0) / C, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / C + eps)
    gain = 1 + tl.load(scale + columns * scale_column, inside, other=0.0).to(tl.float32)
    bias = tl.load(shift + columns * shift_column, inside, other=0.0).to(tl.float32)
    result = narrow(normed * gain + bias, out.dtype.element_ty, EMULATED)
    tl.store(out + row * C + columns, result, inside)


def norm_rotate(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float
) -> Tensor:
    """See `afstream_kernels.norm_rotate`."""
    batch, num_tokens, width = x.shape
    out = x.new_empty(batch, num_tokens, num_heads, width // num_heads)
    norm_rotate_kernel[(batch * num_tokens,)](
        x,
        weight,
        cos,
        sin,
        out,
        eps,
        num_tokens,
        width,
        HALF=cos.shape[-1],
        BLOCK=triton.next_power_of_2(width // 2),
        EMULATED=EMULATED,
    )
    return out


def norm_rotate_write(
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
    """See `afstream_kernels.norm_rotate_write`."""
    batch, num_tokens, width = q.shape
    _, num_slots, slot_tokens, num_heads, head_dim = keys.shape
    num_keys = k.shape[1]
    out = q.new_empty(batch, num_tokens, num_heads, head_dim)
    norm_rotate_write_kernel[(batch * (num_tokens + num_keys),)](
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
        batch,
        num_tokens,
        max(num_keys, 1),
        num_slots,
        slot_tokens,
        width,
        HALF=cos.shape[-1],
        BLOCK=triton.next_power_of_2(width // 2),
        EMULATED=EMULATED,
    )
    return out


def norm_rotate_backward(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, grad: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x [B, T, C] and of weight [C], from that of the output [B, T, H, D]."""
    batch, num_tokens, width = x.shape
    rows = batch * num_tokens
    programs = min(rows, BACKWARD_PROGRAMS)
    to_x = torch.empty_like(x)
    parts = x.new_empty(programs, width, dtype=torch.float32)
    norm_rotate_backward_kernel[(programs,)](
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


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `afstream_kernels.modulate`."""
    batch, num_frames, num_patches, width = x.shape
    out = torch.empty_like(x)
    # repeated by strides of 0, and read where they stand: slices of one projection
    shift, scale = (vector.expand(batch, num_frames, 1, width) for vector in (shift, scale))
    modulate_kernel[(batch * num_frames * num_patches,)](
        x,
        shift,
        scale,
        out,
        eps,
        num_frames,
        num_patches,
        width,
        *(vector.stride(axis) for vector in (shift, scale) for axis in (0, 1, 3)),
        BLOCK=triton.next_power_of_2(width),
        EMULATED=EMULATED,
    )
    return out
