"""Tile sizes by chip, found by cross-compilation so that nothing spills.

`benchmarks/cross_compile.py` prints registers, shared memory and spills of each choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from triton.runtime import driver

from afstream_kernels.triton.numerics import EMULATED

# compute capabilities, major * 10 + minor
HOPPER, BLACKWELL, BLACKWELL_SMALL = 90, 100, 120


class Tile(NamedTuple):
    """How one attention kernel is tiled.

    Attributes:
        rows: queries of a program (keys, where a program owns keys).
        columns: keys of one step (queries, where a program owns keys).
        warps: warps of a program.
        stages: tiles in flight.
        descriptors: loads through tensor descriptors (TMA) instead of pointers.
        carried: the forward kernel makes the shifted query one slot ahead, as a value that the loop
            over slots carries. Hopper's matrix instructions then read it from shared memory and
            need not wait for each other; older chips have no registers left for it.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    descriptors: bool
    carried: bool = False


def forward_tile(dtype: torch.dtype) -> Tile:
    """The tile of the forward kernel on the current device."""
    chip = capability()
    if chip == 0:
        return Tile(32, 32, 4, 1, descriptors=True, carried=True)
    tma = chip >= HOPPER
    # on Blackwell the query stands in shared memory in either form
    carried = tma and not BLACKWELL <= chip < BLACKWELL_SMALL
    if dtype == torch.float32:
        sizes = 16, 32, 4, 1
    elif chip >= BLACKWELL_SMALL:
        sizes = 128, 64, 8, 2
    elif chip >= BLACKWELL:
        sizes = 128, 64, 8, 3
    elif chip >= HOPPER:
        sizes = 128, 128, 8, 2
    else:
        sizes = 128, 32, 8, 2
    return Tile(*sizes, descriptors=tma, carried=carried)


def backward_tile(dtype: torch.dtype) -> Tile:
    """The tile of both backward kernels on the current device."""
    chip = capability()
    if chip == 0:
        return Tile(32, 32, 4, 1, descriptors=True)
    if dtype == torch.float32:
        return Tile(16, 16, 8, 1, descriptors=False)
    return Tile(64, 64, 8, 2, descriptors=chip >= HOPPER)


def capability() -> int:
    """Compute capability of the current device, major * 10 + minor; 0 in the interpreter."""
    if EMULATED:
        return 0
    target: Any = driver.active.get_current_target()
    return int(target.arch)
