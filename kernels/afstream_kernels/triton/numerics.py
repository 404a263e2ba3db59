"""Arithmetic in which Triton's interpreter differs from a GPU.

On a CPU Triton's interpreter multiplies the bit patterns of bfloat16 as integers and cuts float32
off instead of rounding it. With `EMULATED` the same results are computed in other ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from triton import knobs

EMULATED: bool = knobs.runtime.interpret
# Triton's own annotation says that a kernel never returns, and takes at its launch what its
# signature names; in truth kernels call each other, and a launch takes warps and stages too
jit: Callable[[Callable[..., Any]], Any] = triton.jit


def kernel(*lengths: str) -> Callable[[Callable[..., Any]], Any]:
    """`jit` for kernels that are launched, without specialization on the named arguments.

    Triton compiles again where such a number is 1 or a multiple of 16. A re-cache, whose blocks are
    longer than a chunk's, would then be compiled in the middle of a stream.
    """
    return triton.jit(do_not_specialize=list(lengths))  # pyright: ignore[reportReturnType]


@jit
def dot(a, b, acc, EMULATED: tl.constexpr):
    """Add a @ b to acc, summed in float32; float32 factors are split into three of tf32."""
    if EMULATED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="tf32x3")


@jit
def narrow(x, dtype: tl.constexpr, EMULATED: tl.constexpr):
    """float32 to `dtype`, to the nearest, ties to even."""
    if EMULATED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@jit
def rotate(x, cos, sin, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rotate the interleaved pairs of x [ROWS, COLUMNS] by cos and sin, broadcast to the pairs."""
    even, odd = tl.split(x.reshape(ROWS, COLUMNS // 2, 2))
    return tl.join(even * cos - odd * sin, even * sin + odd * cos).reshape(ROWS, COLUMNS)
