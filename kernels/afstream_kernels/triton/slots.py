"""Copies of whole slots: all layers, keys and values, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from afstream_kernels.host import device_ints, launched
from afstream_kernels.triton.norm import load_pairs, store_pairs
from afstream_kernels.triton.numerics import EMULATED, kernel

# pairs of values that a program moves, of keys and of values each
BLOCK = 2048


@kernel("N", "M")
def copy_slots_kernel(
    keys,  # [L * B, N, E], E values in a slot
    values,  # [L * B, N, E]
    to_keys,  # [L * B, M, E]
    to_values,  # [L * B, M, E]
    sources,  # [P] int32
    targets,  # [P] int32
    cos,  # [P, D / 2] float32
    sin,  # [P, D / 2] float32
    N,
    M,
    E,
    HALF: tl.constexpr,
    SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
    EMULATED: tl.constexpr,
):
    first = tl.program_id(0) * 2 * BLOCK
    inside = (first + tl.arange(0, 2 * BLOCK) < E)[None, :]
    index = tl.program_id(1)
    layer_batch = tl.program_id(2).to(tl.int64)
    source = (layer_batch * N + tl.load(sources + index)) * E + first + tl.arange(0, 1)
    target = (layer_batch * M + tl.load(targets + index)) * E + first + tl.arange(0, 1)
    even, odd = load_pairs(keys + source, inside, 1, BLOCK)
    if SHIFT:
        pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        angles = index * HALF + (pairs % HALF)[None, :]
        c = tl.load(cos + angles)
        s = tl.load(sin + angles)
        shifted = even * c - odd * s
        odd = even * s + odd * c
        even = shifted
    store_pairs(to_keys + target, even, odd, inside, 1, BLOCK, EMULATED)
    even, odd = load_pairs(values + source, inside, 1, BLOCK)
    store_pairs(to_values + target, even, odd, inside, 1, BLOCK, EMULATED)


@launched
def copy_slots(
    keys: Tensor,
    values: Tensor,
    to_keys: Tensor,
    to_values: Tensor,
    sources: Sequence[int],
    targets: Sequence[int],
    cos: Tensor | None,
    sin: Tensor | None,
) -> None:
    """See `afstream_kernels.copy_slots`."""
    layers, batch, num_slots, slot_tokens, num_heads, head_dim = keys.shape
    size = slot_tokens * num_heads * head_dim
    grid = (triton.cdiv(size // 2, BLOCK), len(sources), layers * batch)
    copy_slots_kernel[grid](
        keys,
        values,
        to_keys,
        to_values,
        device_ints(tuple(sources), keys.device),
        device_ints(tuple(targets), keys.device),
        cos,
        sin,
        num_slots,
        to_keys.shape[2],
        size,
        HALF=head_dim // 2,
        SHIFT=cos is not None,
        BLOCK=BLOCK,
        EMULATED=EMULATED,
        num_warps=8,
    )
